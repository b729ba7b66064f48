//! The few words of the agent's serial channel that show that it answers, and make it a template.
//!
//! They are those of the agent protocol's serial channel: a hello that is given back, yamux behind it, in which a
//! stream to one port asks the agent to become a template, and a line that a template gives back.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::bench::host::patience::{self, wait};

const HELLO: &str = "kata-serial-1";
const TEMPLATE: &str = "kata-template-1";
/// Asks the agent to become a template.
const PARK: &[u8] = b"CONNECT 1023\n";
/// A question that the agent did not read as one is asked again after so long.
const AGAIN: Duration = Duration::from_millis(50);
/// More than this without an answer is no agent.
const GARBAGE_LIMIT: usize = 1 << 20;

/// The host's end of the port.
pub struct Port {
    stream: UnixStream,
    deadline: Instant,
    seen: Vec<u8>,
    /// Tells answers apart.
    nonce: u64,
}

impl Port {
    /// Connects as soon as QEMU listens.
    pub fn open(socket: &Path, deadline: Instant) -> Result<Self> {
        let left = deadline.saturating_duration_since(Instant::now());
        let stream = wait(left, patience::OFTEN, || UnixStream::connect(socket).ok());
        let stream = stream.with_context(|| format!("nobody listens on {}", socket.display()))?;
        Ok(Self { stream, deadline, seen: Vec::new(), nonce: u64::from(std::process::id()) << 20 })
    }

    /// Says hello and waits until the agent gives it back. What is said before the agent listens waits for it.
    pub fn hello(&mut self) -> Result<()> {
        let hello = self.say(HELLO)?;
        self.wait_for(&hello, self.deadline)?.then_some(()).context("the agent does not answer")
    }

    /// In the conversation that hello began: opens the stream that makes the agent a template.
    pub fn become_template(&mut self) -> Result<()> {
        self.stream.write_all(&first_stream(PARK)).context("ask for a template")
    }

    pub fn ask_template(&mut self) -> Result<()> {
        self.say(TEMPLATE).map(drop)
    }

    /// Waits until the template gives a question back that was asked. Where its conversation may just be ending, and
    /// have swallowed the question, it is asked again.
    pub fn wait_for_template(&mut self, ask: bool) -> Result<()> {
        loop {
            let until = if ask {
                self.ask_template()?;
                self.deadline.min(Instant::now() + AGAIN)
            } else {
                self.deadline
            };
            let question = format!("{TEMPLATE} {:016x}\n", self.nonce);
            if self.wait_for(&question, until)? {
                return Ok(());
            }
            if Instant::now() >= self.deadline {
                bail!("the agent does not answer as a template");
            }
        }
    }

    fn say(&mut self, word: &str) -> Result<String> {
        self.nonce += 1;
        let line = format!("{word} {:016x}\n", self.nonce);
        self.stream.write_all(line.as_bytes()).context("write to the agent's port")?;
        Ok(line)
    }

    /// Drops everything up to `line`; false if it does not come in time.
    fn wait_for(&mut self, line: &str, until: Instant) -> Result<bool> {
        let mut block = [0; 4096];
        loop {
            let found = self.seen.windows(line.len()).position(|window| window == line.as_bytes());
            if let Some(at) = found {
                self.seen.drain(..at + line.len());
                return Ok(true);
            }
            if self.seen.len() > GARBAGE_LIMIT {
                bail!("the agent's port says much, but not {line:?}");
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut block) {
                Ok(0) => bail!("QEMU hung up"),
                Ok(count) => self.seen.extend_from_slice(&block[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("read the agent's port"),
            }
        }
    }
}

/// A yamux frame that opens the client's first stream with data on it: version, type, flags, stream, length.
fn first_stream(data: &[u8]) -> Vec<u8> {
    const DATA: u8 = 0;
    const OPENS: [u8; 2] = [0, 1];
    let mut frame = vec![0, DATA];
    frame.extend(OPENS);
    frame.extend(1_u32.to_be_bytes());
    frame.extend((data.len() as u32).to_be_bytes());
    frame.extend(data);
    frame
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    fn port(agent: impl FnOnce(UnixStream) + Send + 'static) -> (tempfile::TempDir, Port) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || agent(listener.accept().unwrap().0));
        let port = Port::open(&path, Instant::now() + Duration::from_secs(20)).unwrap();
        (dir, port)
    }

    fn line(stream: &mut UnixStream) -> Vec<u8> {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        line
    }

    #[test]
    fn the_hello_is_found_behind_an_older_one() {
        let (_dir, mut port) = port(|mut stream| {
            let hello = line(&mut stream);
            stream.write_all(b"noise kata-serial-1 0000000000000000\n").unwrap();
            stream.write_all(&hello).unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
        });
        port.hello().unwrap();
    }

    #[test]
    fn a_question_that_was_swallowed_is_asked_again() {
        let (_dir, mut port) = port(|mut stream| {
            line(&mut stream);
            let second = line(&mut stream);
            stream.write_all(&second).unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
        });
        port.wait_for_template(true).unwrap();
    }

    #[test]
    fn a_hang_up_is_an_error_and_silence_ends_at_the_deadline() {
        assert!(port(drop).1.hello().is_err());
        let (_dir, mut silent) = port(|mut stream| {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
        });
        silent.deadline = Instant::now() + Duration::from_millis(30);
        assert_eq!(silent.hello().unwrap_err().to_string(), "the agent does not answer");
    }

    #[test]
    fn a_frame_is_as_yamux_has_it() {
        assert_eq!(first_stream(b"ab"), [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, b'a', b'b']);
    }
}

//! The few lines on the agent's serial port that show that it answers: the hello with which a conversation begins, the
//! line that makes a booted guest a template, and the one that tells a clone that it is one.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};

use crate::bench::host::patience::{self, wait};

const HELLO: &str = "kata-serial-1";
const BECOME: &str = "kata-template-1";
const WAKE: &str = "kata-wake-1";
const AWAKE: &str = "kata-awake-1";
/// Where a clone is to serve from then on.
const ADDRESS: &str = "serial://agent.channel.0";
/// Bytes of randomness for a clone.
const SEED: usize = 64;
/// More than this without an answer is no agent.
const GARBAGE_LIMIT: usize = 1 << 20;

/// The host's end of the port.
#[derive(Debug)]
pub struct Port {
    stream: UnixStream,
    deadline: Instant,
    /// Tells answers apart.
    nonce: u64,
}

impl Port {
    /// Connects as soon as QEMU listens.
    pub fn open(socket: &Path, deadline: Instant) -> Result<Self> {
        let left = deadline.saturating_duration_since(Instant::now());
        let stream = wait(left, patience::OFTEN, || UnixStream::connect(socket).ok());
        let stream = stream.with_context(|| format!("nobody listens on {}", socket.display()))?;
        Ok(Self { stream, deadline, nonce: u64::from(std::process::id()) << 20 })
    }

    /// Says hello and waits until the agent gives it back. What is said before the agent listens waits for it.
    pub fn hello(&mut self) -> Result<()> {
        let hello = self.say(HELLO)?;
        self.wait_for(&hello)
    }

    /// Makes the guest a template, and waits until it is one.
    pub fn become_template(&mut self) -> Result<()> {
        let line = self.say(BECOME)?;
        self.wait_for(&line)
    }

    /// Tells a clone that it is one; it may be told before it runs.
    pub fn tell_clone(&mut self) -> Result<()> {
        let mut seed = [0; SEED];
        File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut seed))
            .context("/dev/urandom")?;
        let seed: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
        self.nonce += 1;
        self.write(&format!("{WAKE} {:016x} {seed} 0 {ADDRESS}\n", self.nonce))
    }

    /// Waits until the clone says that it has become itself.
    pub fn wait_for_clone(&mut self) -> Result<()> {
        self.wait_for(&format!("{AWAKE} {:016x}\n", self.nonce))
    }

    fn say(&mut self, word: &str) -> Result<String> {
        self.nonce += 1;
        let line = format!("{word} {:016x}\n", self.nonce);
        self.write(&line)?;
        Ok(line)
    }

    fn write(&mut self, line: &str) -> Result<()> {
        self.stream.write_all(line.as_bytes()).context("write to the agent's port")
    }

    /// Drops everything up to `line`, behind which nothing is read that matters.
    fn wait_for(&mut self, line: &str) -> Result<()> {
        let mut seen: Vec<u8> = Vec::new();
        let mut block = [0; 4096];
        while seen.len() < GARBAGE_LIMIT {
            let left = self.deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "the agent does not answer");
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut block) {
                Ok(0) => bail!("QEMU hung up"),
                Ok(count) => seen.extend_from_slice(&block[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("read the agent's port"),
            }
            if seen.windows(line.len()).any(|window| window == line.as_bytes()) {
                return Ok(());
            }
        }
        bail!("the agent's port says much, but not {line:?}")
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread, time::Duration};

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
    fn a_clone_is_told_what_it_must_know_and_its_answer_found() {
        let (_dir, mut port) = port(|mut stream| {
            let wake = String::from_utf8(line(&mut stream)).unwrap();
            let words: Vec<&str> = wake.trim_end().split(' ').collect();
            assert_eq!((words.len(), words[0], words[2].len(), words[3]), (5, WAKE, 2 * SEED, "0"));
            stream.write_all(format!("noise\n{AWAKE} {}\n", words[1]).as_bytes()).unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
        });
        port.tell_clone().unwrap();
        port.wait_for_clone().unwrap();
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
}

//! The streams that a stand-in copies, each in a thread that waits for nothing else.

use std::{
    fs::File,
    io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write},
    os::fd::{AsFd, OwnedFd},
    thread::{Builder, JoinHandle},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runtime::error::{Context, Result};

const BLOCK: usize = 16 << 10;
/// A block, and what is called with it.
const STACK: usize = 64 << 10;

/// The threads at work.
pub struct Copies {
    outputs: Vec<JoinHandle<()>>,
    /// Closed when the process has ended.
    goes_on: PipeWriter,
}

impl Copies {
    /// Copies from standard input to its pipe, and from the other pipes to their streams.
    pub fn start(pipes: Vec<(i32, OwnedFd)>) -> Result<Self> {
        let (ended, goes_on) = io::pipe().context("make a pipe")?;
        let mut outputs = Vec::new();
        for (stream, pipe) in pipes {
            let own = own(stream).context("a standard stream")?;
            let thread = Builder::new().stack_size(STACK);
            let started = if stream == 0 {
                thread.spawn(move || copy(own, pipe, None)).map(drop)
            } else {
                let ended = ended.try_clone().context("a pipe")?;
                thread.spawn(move || copy(pipe, own, Some(ended))).map(|output| outputs.push(output))
            };
            started.context("start a thread")?;
        }
        Ok(Self { outputs, goes_on })
    }

    /// Waits until what is in the pipes is written.
    pub fn finish(self) {
        drop(self.goes_on);
        for output in self.outputs {
            let _ = output.join(); // What it could not write, nobody takes.
        }
    }
}

fn own(stream: i32) -> io::Result<OwnedFd> {
    match stream {
        0 => io::stdin().as_fd().try_clone_to_owned(),
        1 => io::stdout().as_fd().try_clone_to_owned(),
        _ => io::stderr().as_fd().try_clone_to_owned(),
    }
}

/// Copies to the end of the input, or until the output takes no more; after the end of `ended`, what is there at once.
fn copy(from: OwnedFd, to: OwnedFd, ended: Option<PipeReader>) {
    let (mut from, mut to) = (File::from(from), File::from(to));
    let mut block = [0; BLOCK];
    loop {
        if let Some(ended) = &ended
            && !has_input(&from, ended)
        {
            return;
        }
        match from.read(&mut block) {
            Ok(0) => return,
            Ok(length) => {
                if to.write_all(&block[..length]).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return, // A terminal that was hung up.
        }
    }
}

/// Waits for input, or its end; false if there is none and no more comes.
fn has_input(from: &File, ended: &PipeReader) -> bool {
    loop {
        let mut ready =
            [PollFd::new(from.as_fd(), PollFlags::POLLIN), PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) => return ready[0].any().unwrap_or(true),
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

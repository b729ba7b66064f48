//! Where the standard streams of a process go on the host.

mod copy;
mod stream;

use crate::error::Result;

pub(crate) use copy::Copying;
pub(crate) use stream::InputKeeper;
use stream::{InputStream, OutputStream};

/// The streams as the engine names them: a path or `fifo://` for a named pipe, `file://` to append to a file, empty
/// for none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stdio {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
}

/// The host's ends, opened.
#[derive(Debug)]
pub(crate) struct HostStreams {
    stdin: Option<InputStream>,
    keeper: Option<InputKeeper>,
    stdout: OutputStream,
    /// A terminal has one output.
    stderr: Option<OutputStream>,
    terminal: bool,
}

impl HostStreams {
    /// What keeps the input from ending, if it is a pipe.
    pub(crate) fn take_keeper(&mut self) -> Option<InputKeeper> {
        self.keeper.take()
    }
}

impl Stdio {
    /// Opens what is named; a stream that is not there is an error that names it.
    pub(crate) fn open(&self) -> Result<HostStreams> {
        let (stdin, keeper) = match InputStream::open("stdin", &self.stdin)? {
            Some((stdin, keeper)) => (Some(stdin), keeper),
            None => (None, None),
        };
        Ok(HostStreams {
            stdin,
            keeper,
            stdout: OutputStream::open("stdout", &self.stdout)?,
            stderr: match self.terminal {
                true => None,
                false => Some(OutputStream::open("stderr", &self.stderr)?),
            },
            terminal: self.terminal,
        })
    }
}

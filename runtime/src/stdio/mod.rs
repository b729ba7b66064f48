//! Where the standard streams of a process go on the host.

mod copy;
mod logger;
mod stream;

use crate::{error::Result, ledger::Ledger};

pub(crate) use copy::Copying;
use logger::Logger;
pub(crate) use stream::InputKeeper;
use stream::{InputStream, OutputStream, Place};

/// The streams as the engine names them: a path or `fifo://` for a named pipe whose other ends may come and go, `pipe://`
/// for one whose other end counts, `file://` to append to a file, `binary://` for a logger, empty for none. A file or logger that is named for the output takes the errors too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stdio {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
    /// The engine's namespace, for a logger.
    pub namespace: String,
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
    logger: Option<Logger>,
}

impl HostStreams {
    /// What keeps the input from ending, if it is a pipe.
    pub(crate) fn take_keeper(&mut self) -> Option<InputKeeper> {
        self.keeper.take()
    }
}

impl Stdio {
    /// Opens what is named; a stream that is not there is an error that names it. `id` is the process's, for a logger.
    pub(crate) async fn open(&self, id: &str, ledger: &Ledger) -> Result<HostStreams> {
        let (stdin, keeper) = match InputStream::open(&self.stdin)? {
            Some((stdin, keeper)) => (Some(stdin), keeper),
            None => (None, None),
        };
        let (stdout, stderr, logger) = match Place::parse("stdout", &self.stdout)? {
            Place::Logger(uri) => {
                let (logger, outlets) = Logger::start(uri, id, &self.namespace, ledger).await?;
                (OutputStream::Pipe(outlets.stdout), OutputStream::Pipe(outlets.stderr), Some(logger))
            }
            stdout @ Place::File(_) => {
                (OutputStream::open("stdout", &stdout)?, OutputStream::open("stdout", &stdout)?, None)
            }
            stdout => {
                let stderr = if self.terminal { "" } else { &self.stderr };
                let stderr = OutputStream::open("stderr", &Place::parse("stderr", stderr)?)?;
                (OutputStream::open("stdout", &stdout)?, stderr, None)
            }
        };
        // A terminal has one output.
        let stderr = (!self.terminal).then_some(stderr);
        Ok(HostStreams { stdin, keeper, stdout, stderr, terminal: self.terminal, logger })
    }
}

//! One end of a stream on the host, opened from its URI.

use std::{
    io,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::Path,
    time::Duration,
};

use nix::errno::Errno;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    time::{Instant, sleep},
};

use crate::error::{Context, Error, Result};

/// A reader that takes nothing for so long is not there.
const READER_LOST: Duration = Duration::from_millis(100);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A URI taken apart.
#[derive(Debug)]
pub(super) enum Place<'a> {
    Nowhere,
    Fifo(&'a Path),
    /// Its other end counts.
    Pipe(&'a Path),
    File(&'a Path),
    /// What stands behind the scheme.
    Logger(&'a str),
}

impl<'a> Place<'a> {
    pub fn parse(stream: &str, uri: &'a str) -> Result<Self> {
        Ok(match uri.split_once("://") {
            None if uri.is_empty() => Self::Nowhere,
            None => Self::Fifo(Path::new(uri)),
            Some(("fifo", path)) => Self::Fifo(Path::new(path)),
            Some(("pipe", path)) => Self::Pipe(Path::new(path)),
            Some(("file", path)) => Self::File(Path::new(path)),
            Some(("binary", program)) => Self::Logger(program),
            Some((scheme, _)) => {
                return Err(Error::unimplemented(format!(
                    "{stream}: the scheme {scheme}:// is not served, use fifo, pipe, file or binary"
                )));
            }
        })
    }
}

/// What a process writes to.
#[derive(Debug)]
pub(super) enum OutputStream {
    /// Taken from the process, so that it never waits, and dropped.
    Nowhere,
    Pipe(pipe::Sender),
    File(tokio::fs::File),
}

impl OutputStream {
    /// Opens `place`, which is no logger.
    pub fn open(stream: &str, place: &Place<'_>) -> Result<Self> {
        match place {
            Place::Nowhere => Ok(Self::Nowhere),
            Place::Logger(_) => Err(Error::unimplemented(format!("{stream}: a logger is named for stdout"))),
            // Both ways: a client that goes away and comes back must not break the pipe in between.
            Place::Fifo(path) => pipe::OpenOptions::new()
                .read_write(true)
                .open_sender(path)
                .map(Self::Pipe)
                .with_context(|| format!("{stream}: open the named pipe {}", path.display())),
            Place::Pipe(path) => match pipe::OpenOptions::new().open_sender(path) {
                // Its reader has gone already.
                Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => Ok(Self::Nowhere),
                opened => opened
                    .map(Self::Pipe)
                    .with_context(|| format!("{stream}: open the pipe {}", path.display())),
            },
            Place::File(path) => append_to(path)
                .map(|file| Self::File(tokio::fs::File::from_std(file)))
                .with_context(|| format!("{stream}: open {}", path.display())),
        }
    }

    /// Writes some of `bytes`. Cancel-safe on a pipe.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Nowhere => Ok(bytes.len()),
            Self::Pipe(pipe) => pipe.write(bytes).await,
            Self::File(file) => {
                file.write_all(bytes).await?;
                file.flush().await?;
                Ok(bytes.len())
            }
        }
    }
}

fn append_to(path: &Path) -> io::Result<std::fs::File> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::OpenOptions::new().append(true).create(true).mode(0o644).open(path)
}

/// What a process reads from.
#[derive(Debug)]
pub(super) enum InputStream {
    Fifo(pipe::Receiver),
    File(tokio::fs::File),
}

impl OutputStream {
    /// Waits until the reader has taken what was written; gives up on one that takes nothing. An engine may close its
    /// ends as soon as it hears of the process's end, and with them goes what it has not read.
    pub async fn taken(&self) {
        let Self::Pipe(pipe) = self else { return };
        let mut last = (unread(pipe), Instant::now());
        while last.0 > 0 && last.1.elapsed() < READER_LOST {
            // A pipe tells its writer when there is room, never when it is empty.
            sleep(LOOK_AGAIN).await;
            let now = unread(pipe);
            if now != last.0 {
                last = (now, Instant::now());
            }
        }
    }
}

nix::ioctl_read_bad!(bytes_unread, nix::libc::FIONREAD, nix::libc::c_int);

/// Bytes in a pipe that nobody has read yet.
fn unread(pipe: &pipe::Sender) -> nix::libc::c_int {
    let mut bytes = 0;
    // SAFETY: the descriptor is open and the number lives across the call.
    match unsafe { bytes_unread(pipe.as_raw_fd(), &mut bytes) } {
        Ok(_) => bytes,
        Err(_) => 0,
    }
}

/// Keeps a pipe of input from ending while clients come and go; dropped when the engine says that the input ends.
#[derive(Debug)]
pub(crate) struct InputKeeper {
    _writer: pipe::Sender,
}

impl InputStream {
    pub fn open(uri: &str) -> Result<Option<(Self, Option<InputKeeper>)>> {
        match Place::parse("stdin", uri)? {
            Place::Nowhere => Ok(None),
            Place::Logger(_) => Err(Error::invalid("stdin: a logger gives no input")),
            Place::Fifo(path) => {
                let open = || -> io::Result<_> {
                    let reader = pipe::OpenOptions::new().open_receiver(path)?;
                    let _writer = pipe::OpenOptions::new().open_sender(path)?;
                    Ok(Some((Self::Fifo(reader), Some(InputKeeper { _writer }))))
                };
                open().with_context(|| format!("stdin: open the named pipe {}", path.display()))
            }
            Place::Pipe(path) => pipe::OpenOptions::new()
                .open_receiver(path)
                .map(|reader| Some((Self::Fifo(reader), None)))
                .with_context(|| format!("stdin: open the pipe {}", path.display())),
            Place::File(path) => std::fs::File::open(path)
                .map(|file| Some((Self::File(tokio::fs::File::from_std(file)), None)))
                .with_context(|| format!("stdin: open {}", path.display())),
        }
    }

    /// Reads some bytes; none is the end. Cancel-safe on a pipe.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Fifo(pipe) => pipe.read(buffer).await,
            Self::File(file) => file.read(buffer).await,
        }
    }
}

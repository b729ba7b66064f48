//! One end of a stream on the host, opened from its URI.

use std::{io, os::unix::fs::OpenOptionsExt, path::Path};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
};

use crate::error::{Context, Error, Result};

/// A URI taken apart.
enum Place<'a> {
    Nowhere,
    Fifo(&'a Path),
    File(&'a Path),
}

impl<'a> Place<'a> {
    fn parse(stream: &str, uri: &'a str) -> Result<Self> {
        Ok(match uri.split_once("://") {
            None if uri.is_empty() => Self::Nowhere,
            None => Self::Fifo(Path::new(uri)),
            Some(("fifo", path)) => Self::Fifo(Path::new(path)),
            Some(("file", path)) => Self::File(Path::new(path)),
            Some((scheme, _)) => {
                return Err(Error::unimplemented(format!(
                    "{stream}: the scheme {scheme}:// is not served, use fifo or file"
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
    Fifo(pipe::Sender),
    File(tokio::fs::File),
}

impl OutputStream {
    pub fn open(stream: &str, uri: &str) -> Result<Self> {
        match Place::parse(stream, uri)? {
            Place::Nowhere => Ok(Self::Nowhere),
            // Both ways: a client that goes away and comes back must not break the pipe in between.
            Place::Fifo(path) => pipe::OpenOptions::new()
                .read_write(true)
                .open_sender(path)
                .map(Self::Fifo)
                .with_context(|| format!("{stream}: open the named pipe {}", path.display())),
            Place::File(path) => std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o644)
                .open(path)
                .map(|file| Self::File(tokio::fs::File::from_std(file)))
                .with_context(|| format!("{stream}: open {}", path.display())),
        }
    }

    /// Writes some of `bytes`. Cancel-safe on a pipe.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Nowhere => Ok(bytes.len()),
            Self::Fifo(pipe) => pipe.write(bytes).await,
            Self::File(file) => {
                file.write_all(bytes).await?;
                file.flush().await?;
                Ok(bytes.len())
            }
        }
    }
}

/// What a process reads from.
#[derive(Debug)]
pub(super) enum InputStream {
    Fifo(pipe::Receiver),
    File(tokio::fs::File),
}

/// Keeps a pipe of input from ending while clients come and go; dropped when the engine says that the input ends.
#[derive(Debug)]
pub(crate) struct InputKeeper {
    _writer: pipe::Sender,
}

impl InputStream {
    pub fn open(stream: &str, uri: &str) -> Result<Option<(Self, Option<InputKeeper>)>> {
        match Place::parse(stream, uri)? {
            Place::Nowhere => Ok(None),
            Place::Fifo(path) => {
                let open = || -> io::Result<_> {
                    let reader = pipe::OpenOptions::new().open_receiver(path)?;
                    let _writer = pipe::OpenOptions::new().open_sender(path)?;
                    Ok(Some((Self::Fifo(reader), Some(InputKeeper { _writer }))))
                };
                open().with_context(|| format!("{stream}: open the named pipe {}", path.display()))
            }
            Place::File(path) => std::fs::File::open(path)
                .map(|file| Some((Self::File(tokio::fs::File::from_std(file)), None)))
                .with_context(|| format!("{stream}: open {}", path.display())),
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

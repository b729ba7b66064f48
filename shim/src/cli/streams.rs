//! Where the streams of a process are to go, from what this command was started with.
//!
//! The server opens a pipe of the caller's itself, by this process's name for it: nothing stands between. Anything else
//! cannot be had that way without touching what the caller goes on using: a terminal's or a file's state is shared by all
//! who have it open. So it stays with the stand-in, which copies between it and a pipe of ours.

use std::{
    fs::File,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt},
    },
    process,
};

use nix::{fcntl::OFlag, libc, unistd::pipe2};
use runtime::error::{Context, Result};

/// The null device.
const NULL: (u64, u64) = (1, 3);

/// The streams of one process.
#[derive(Debug, Default)]
pub struct Streams {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
    /// Standard streams that the stand-in keeps, and the pipes between which it copies.
    pub copies: Vec<Copied>,
    /// The server's ends: open until it has opened them.
    held: Vec<OwnedFd>,
}

/// A stream that the stand-in copies.
#[derive(Debug)]
pub struct Copied {
    /// 0, 1 or 2.
    pub stream: i32,
    /// The stand-in's end of the pipe.
    pub pipe: OwnedFd,
}

enum Kind {
    Null,
    Pipe,
    Other,
}

impl Streams {
    /// Those of a process without a terminal.
    pub fn plain() -> Result<Self> {
        let mut streams = Self::default();
        streams.stdin = streams.place(0, std::io::stdin().as_fd())?;
        streams.stdout = streams.place(1, std::io::stdout().as_fd())?;
        streams.stderr = streams.place(2, std::io::stderr().as_fd())?;
        Ok(streams)
    }

    /// Those of a process with a terminal, which the stand-in has as its standard input and output.
    pub fn terminal() -> Result<Self> {
        let mut streams = Self { terminal: true, ..Self::default() };
        streams.stdin = streams.copied(0)?;
        streams.stdout = streams.copied(1)?;
        Ok(streams)
    }

    fn place(&mut self, stream: i32, fd: BorrowedFd<'_>) -> Result<String> {
        match kind(fd)? {
            Kind::Null => Ok(String::new()),
            Kind::Pipe => Ok(address(fd.as_raw_fd())),
            Kind::Other => self.copied(stream),
        }
    }

    fn copied(&mut self, stream: i32) -> Result<String> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).context("make a pipe")?;
        let (theirs, pipe) = if stream == 0 { (reader, writer) } else { (writer, reader) };
        let name = address(theirs.as_raw_fd());
        self.held.push(theirs);
        self.copies.push(Copied { stream, pipe });
        Ok(name)
    }
}

/// A pipe of this process's, for others.
fn address(number: i32) -> String {
    format!("pipe:///proc/{}/fd/{number}", process::id())
}

fn kind(fd: BorrowedFd<'_>) -> Result<Kind> {
    let meta =
        fd.try_clone_to_owned().and_then(|fd| File::from(fd).metadata()).context("a standard stream")?;
    let device = (libc::major(meta.rdev()).into(), libc::minor(meta.rdev()).into());
    Ok(if meta.file_type().is_fifo() {
        Kind::Pipe
    } else if meta.file_type().is_char_device() && device == NULL {
        Kind::Null
    } else {
        Kind::Other
    })
}

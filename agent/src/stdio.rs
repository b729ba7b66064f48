//! The agent's ends of a process's standard streams: pipes, or the master of a pty.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::Arc,
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    libc,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, unix::AsyncFd},
    net::unix::pipe,
};

nix::ioctl_write_ptr_bad!(set_window_size, libc::TIOCSWINSZ, libc::winsize);
nix::ioctl_write_int_bad!(get_peer, libc::TIOCGPTPEER);

/// The other side of a pty, wherever its name may be.
pub fn open_peer(master: &OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: takes flags and returns a descriptor; both stay what they are.
    let peer = unsafe { get_peer(master.as_raw_fd(), libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) }?;
    // SAFETY: the kernel just made this descriptor for us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(peer) })
}

/// The agent's ends.
#[derive(Debug)]
pub struct AgentStreams {
    pub stdin: Option<Writer>,
    pub stdout: Option<Reader>,
    pub stderr: Option<Reader>,
    pub terminal: Option<Arc<Terminal>>,
}

/// The process's ends of three pipes.
#[derive(Debug)]
pub struct ProcessStreams {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

impl AgentStreams {
    /// Three pipes; those of output with `size` bytes, if it is not 0.
    pub fn pipes(size: u32) -> io::Result<(Self, ProcessStreams)> {
        let (stdin_read, stdin_write) = io::pipe()?;
        let (stdout_read, stdout_write) = io::pipe()?;
        let (stderr_read, stderr_write) = io::pipe()?;
        if size > 0 {
            for pipe in [&stdout_write, &stderr_write] {
                fcntl(pipe, FcntlArg::F_SETPIPE_SZ(size as i32))?;
            }
        }
        let agent = Self {
            stdin: Some(Writer::Pipe(pipe::Sender::from_owned_fd(stdin_write.into())?)),
            stdout: Some(Reader::Pipe(pipe::Receiver::from_owned_fd(stdout_read.into())?)),
            stderr: Some(Reader::Pipe(pipe::Receiver::from_owned_fd(stderr_read.into())?)),
            terminal: None,
        };
        let process = ProcessStreams {
            stdin: stdin_read.into(),
            stdout: stdout_write.into(),
            stderr: stderr_write.into(),
        };
        Ok((agent, process))
    }

    /// The master of a pty.
    pub fn terminal(master: OwnedFd) -> io::Result<Self> {
        let terminal = Arc::new(Terminal::new(master)?);
        Ok(Self {
            stdin: Some(Writer::Terminal(terminal.clone())),
            stdout: Some(Reader::Terminal(terminal.clone())),
            stderr: None,
            terminal: Some(terminal),
        })
    }
}

/// The master of a pty.
#[derive(Debug)]
pub struct Terminal {
    master: AsyncFd<File>,
}

impl Terminal {
    fn new(master: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&master, FcntlArg::F_GETFL)?);
        fcntl(&master, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        // SAFETY: a File keeps the same open descriptor for as long as it lives, which is what the call asks for.
        let master = unsafe { AsyncFd::register(File::from(master)) }?;
        Ok(Self { master })
    }

    pub fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the descriptor is open for the length of the call, and so is the struct.
        unsafe { set_window_size(self.master.get_ref().as_raw_fd(), &size) }?;
        Ok(())
    }

    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.master.readable().await?;
            match ready.try_io(|master| read_master(master.get_ref(), buffer)) {
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.master.writable().await?;
            match ready.try_io(|master| master.get_ref().write(bytes)) {
                Ok(written) => bytes = &bytes[written?..],
                Err(_would_block) => {}
            }
        }
        Ok(())
    }
}

/// Reads from a master; none is the end.
///
/// EIO is the kernel's way to say that nobody holds the other side any more. It looks for bytes first and for the other
/// side then, and what is written and closed in between is not lost, but only found by the next read.
fn read_master(mut master: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let is_closed =
        |read: &io::Result<usize>| matches!(read, Err(error) if error.raw_os_error() == Some(libc::EIO));
    let mut read = master.read(buffer);
    if is_closed(&read) {
        read = master.read(buffer);
    }
    if is_closed(&read) { Ok(0) } else { read }
}

#[derive(Debug)]
pub enum Reader {
    Pipe(pipe::Receiver),
    Terminal(Arc<Terminal>),
}

impl Reader {
    /// Reads some bytes, none at the end. Cancel-safe.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Pipe(pipe) => pipe.read(buffer).await,
            Self::Terminal(terminal) => terminal.read(buffer).await,
        }
    }
}

#[derive(Debug)]
pub enum Writer {
    Pipe(pipe::Sender),
    Terminal(Arc<Terminal>),
}

impl Writer {
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => pipe.write_all(bytes).await,
            Self::Terminal(terminal) => terminal.write_all(bytes).await,
        }
    }
}

//! A virtio-serial port as an async byte stream.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context as Task, Poll, ready},
    time::{Duration, Instant},
};

use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        inotify::{AddWatchFlags, InitFlags, Inotify},
    },
};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd};

use crate::error::{Context, Error, Result};

const PORTS: &str = "/sys/class/virtio-ports";
/// The driver finds its ports a moment after it is loaded.
const DEADLINE: Duration = Duration::from_secs(10);

/// The guest's end of a port. That the host has hung up is an end of file, once; then the next host is waited for.
///
/// While there is no host, the kernel reports the port as hung up, which for tokio is the end of a file. So it is asked
/// through an epoll of our own, which tells of changes only. One task at a time reads and writes.
pub struct SerialPort {
    port: File,
    changes: AsyncFd<Changes>,
    /// Whether the host has said anything since it last hung up.
    heard: bool,
}

struct Changes(Epoll);

impl AsRawFd for Changes {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

/// Opens the port of that name as soon as it is there. The kernel lets it be open once only, so the file is to be kept
/// for as long as anybody may want the port. Blocks.
pub fn open(name: &str) -> Result<File> {
    // Watched before the first look, so that a node made in between is not missed.
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).context("inotify")?;
    inotify.add_watch("/dev", AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ATTRIB).context("watch /dev")?;
    let began = Instant::now();
    while began.elapsed() < DEADLINE {
        if let Some(device) = find(Path::new(PORTS), name)
            && let Ok(port) =
                OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(device)
        {
            return Ok(port);
        }
        let left = DEADLINE.saturating_sub(began.elapsed());
        let mut events = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        // An interruption or the end of the wait: the loop sees to both.
        let _ = poll(&mut events, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        let _ = inotify.read_events(); // What happened is looked at above.
    }
    Err(Error::internal(format!("no virtio-serial port is called {name}")))
}

/// The device node of the port called `name`.
fn find(ports: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(ports).ok()?.flatten().find_map(|entry| {
        let known = fs::read_to_string(entry.path().join("name")).ok()?;
        (known.trim() == name).then(|| Path::new("/dev").join(entry.file_name()))
    })
}

impl SerialPort {
    /// Makes an open port, in non-blocking mode, a stream of the current runtime.
    pub fn new(port: File) -> io::Result<Self> {
        let changes = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let interest =
            EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLHUP | EpollFlags::EPOLLET;
        changes.add(&port, EpollEvent::new(interest, 0))?;
        // SAFETY: it keeps the same open descriptor for as long as it lives, which is what the call asks for.
        let changes = unsafe { AsyncFd::register_with_interest(Changes(changes), Interest::READABLE) }?;
        Ok(Self { port, changes, heard: false })
    }

    /// Waits for a change of the port's state since the last call.
    fn poll_change(&self, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        let mut guard = ready!(self.changes.poll_read_ready(cx))?;
        guard.get_inner().0.wait(&mut [EpollEvent::empty()], EpollTimeout::ZERO)?;
        guard.clear_ready();
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for SerialPort {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match (&self.port).read(buffer.initialize_unfilled()) {
                Ok(0) if std::mem::take(&mut self.heard) => return Poll::Ready(Ok(())),
                // No host at the other end.
                Ok(0) => ready!(self.poll_change(cx))?,
                Ok(length) => {
                    self.heard = true;
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.poll_change(cx))?,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for SerialPort {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Task<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match (&self.port).write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.poll_change(cx))?,
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Task<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Task<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

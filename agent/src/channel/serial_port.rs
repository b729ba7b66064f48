//! A virtio-serial port as an async byte stream.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context as Task, Poll, ready},
    time::{Duration, Instant},
};

use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd};

use crate::error::{Context, Error, Result};

const PORTS: &str = "/sys/class/virtio-ports";
/// The driver finds its ports a moment after it is loaded.
const DEADLINE: Duration = Duration::from_secs(10);

/// The guest's end of a port. An end of file means that the host's end is closed; it may come back.
pub struct SerialPort {
    device: AsyncFd<File>,
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
    pub fn new(file: File) -> io::Result<Self> {
        // SAFETY: a File keeps the same open descriptor for as long as it lives, which is what the call asks for.
        let device =
            unsafe { AsyncFd::register_with_interest(file, Interest::READABLE | Interest::WRITABLE) }?;
        Ok(Self { device })
    }
}

impl AsyncRead for SerialPort {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Task<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.device.poll_read_ready(cx))?;
            match guard.try_io(|device| device.get_ref().read(buffer.initialize_unfilled())) {
                // No host at the other end: the kernel says so by an end of file and a hang-up. It reports the host's
                // coming as a new readiness.
                Ok(Ok(0)) => guard.clear_ready(),
                Ok(Ok(length)) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for SerialPort {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Task<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.device.poll_write_ready(cx))?;
            match guard.try_io(|device| device.get_ref().write(bytes)) {
                Ok(written) => return Poll::Ready(written),
                Err(_would_block) => {}
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

//! Waiting for something to appear in a directory, by inotify.

#![allow(unsafe_code)]

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::os::fd::AsFd;
use tokio::io::unix::AsyncFd;

/// A watch over one directory. Whatever appears after it was made is told.
#[derive(Debug)]
pub(crate) struct Arrivals {
    inotify: AsyncFd<File>,
}

impl Arrivals {
    pub(crate) fn watch(dir: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        inotify.add_watch(dir, AddWatchFlags::IN_CREATE)?;
        let file = File::from(inotify.as_fd().try_clone_to_owned()?);
        // SAFETY: a File keeps the same open descriptor for as long as it lives, which is what the call asks for.
        let inotify = unsafe { AsyncFd::register(file) }?;
        Ok(Self { inotify })
    }

    /// Waits for the next arrival, whatever it is. Cancel-safe.
    pub(crate) async fn next(&self) -> io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            // Which file it was is not asked, so what does not fit the buffer is read the next time.
            match ready.try_io(|inotify| inotify.get_ref().read(&mut [0; 4096])) {
                Ok(read) => return read.map(drop),
                Err(_would_block) => {}
            }
        }
    }
}

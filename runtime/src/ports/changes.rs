//! Waiting for a file to be written by somebody else.

use std::{io, os::fd::OwnedFd, path::Path};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
    unistd::read,
};
use tokio::io::unix::AsyncFd;

use crate::error::{Context, Result};

/// Of events of one file, which have no name.
const EVENTS: usize = 1024;

/// Hears of every change of one file from its making on.
pub(super) struct Changes(AsyncFd<OwnedFd>);

impl Changes {
    /// Must be called within a tokio runtime.
    pub fn of(file: &Path) -> Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).context("inotify")?;
        inotify
            .add_watch(file, AddWatchFlags::IN_CLOSE_WRITE)
            .with_context(|| format!("watch {}", file.display()))?;
        // SAFETY: the descriptor is the `OwnedFd`'s, which lives in the `AsyncFd` and is never replaced.
        let fd = unsafe { AsyncFd::register(OwnedFd::from(inotify)) };
        fd.map(Self).map_err(io::Error::from).context("watch an inotify")
    }

    /// Waits for the next change since the last call. Cancel-safe.
    pub async fn next(&self) -> Result<()> {
        loop {
            let mut ready = self.0.readable().await.context("wait for a change")?;
            match read(ready.get_inner(), &mut [0; EVENTS]) {
                Ok(_) => return Ok(()),
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(errno) => return Err(io::Error::from(errno)).context("wait for a change"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_change_between_two_looks_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("resolv.conf");
        fs::write(&file, "nameserver 10.0.0.1\n").unwrap();
        let changes = Changes::of(&file).unwrap();
        assert!(timeout(Duration::from_millis(20), changes.next()).await.is_err(), "nothing has changed");
        fs::write(&file, "nameserver 10.0.0.2\n").unwrap();
        timeout(Duration::from_secs(10), changes.next()).await.expect("heard").unwrap();
        assert!(Changes::of(&dir.path().join("none")).is_err());
    }
}

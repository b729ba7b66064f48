//! Waiting for a file to change: cgroup files whose content is an event, such as `cgroup.events`.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    path::Path,
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::error::{Context, Result};

/// Hears of every change of one file from its making on, so that a look after it misses nothing.
pub struct FileWatch(AsyncFd<Changes>);

struct Changes(Inotify);

impl AsRawFd for Changes {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl FileWatch {
    /// Must be called within a tokio runtime.
    pub fn new(file: &Path) -> Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).context("inotify")?;
        inotify
            .add_watch(file, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_DELETE_SELF)
            .context(format!("watch {}", file.display()))?;
        // SAFETY: the descriptor is the inotify's, which lives in the `AsyncFd` and is never replaced.
        let fd = unsafe { AsyncFd::register_with_interest(Changes(inotify), Interest::READABLE) };
        fd.map(Self).map_err(io::Error::from).context("watch an inotify")
    }

    /// Waits for the next change since the last call. Cancel-safe.
    pub async fn changed(&self) -> Result<()> {
        loop {
            let mut ready = self.0.readable().await.context("wait for a change")?;
            match ready.get_inner().0.read_events() {
                Ok(_) => return Ok(()),
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(errno) => return Err(errno).context("wait for a change"),
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
        let file = dir.path().join("events");
        fs::write(&file, "frozen 0\n").unwrap();
        let watch = FileWatch::new(&file).unwrap();
        assert!(timeout(Duration::from_millis(20), watch.changed()).await.is_err(), "nothing has changed");
        fs::write(&file, "frozen 1\n").unwrap();
        timeout(Duration::from_secs(10), watch.changed()).await.expect("heard").unwrap();
        assert!(FileWatch::new(&dir.path().join("none")).is_err());
    }
}

//! Tells when the kernel has killed a process of a container for want of memory.

use std::{fs, path::Path, sync::Arc};

use tokio::{sync::mpsc, task::AbortHandle};

use super::{cgroup, stats::table};
use crate::file_watch::FileWatch;

/// How many wait for the host at most; it hears of the later ones with a process's end.
pub const QUEUE: usize = 100;

/// A container whose processes were killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OomKill {
    pub container: String,
    /// How many were killed since the container was made.
    pub kills: u64,
}

/// Ends with its owner.
pub struct OomWatch(AbortHandle);

impl Drop for OomWatch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Watches the container; without a memory controller there is nothing to watch.
pub fn watch(id: &str, kills: mpsc::Sender<OomKill>) -> Option<OomWatch> {
    watch_group(id.into(), cgroup::dir(id).into(), kills)
}

/// How many processes of the container were killed so far.
pub fn kills(id: &str) -> u64 {
    count(&cgroup::dir(id))
}

fn watch_group(container: String, dir: Arc<Path>, kills: mpsc::Sender<OomKill>) -> Option<OomWatch> {
    let watch = match FileWatch::new(&dir.join("memory.events")) {
        Ok(watch) => watch,
        Err(error) => {
            tracing::info!(%error, container, "nobody is told when memory runs out");
            return None;
        }
    };
    let watching = async move {
        let mut told = 0;
        loop {
            let now = count(&dir);
            if now > told {
                told = now;
                // The host reads one after the other; when it is far behind, one for many is enough.
                let _ = kills.try_send(OomKill { container: container.clone(), kills: now });
            }
            if watch.changed().await.is_err() || !dir.exists() {
                return;
            }
        }
    };
    Some(OomWatch(tokio::spawn(watching).abort_handle()))
}

fn count(dir: &Path) -> u64 {
    let events = fs::read_to_string(dir.join("memory.events")).unwrap_or_default();
    table(&events).get("oom_kill").copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn each_rise_of_the_count_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let set = |kills| {
            fs::write(dir.path().join("memory.events"), format!("oom 9\noom_kill {kills}\n")).unwrap();
        };
        set(0);
        let (sender, mut receiver) = mpsc::channel(QUEUE);
        let watch = watch_group("c1".into(), dir.path().into(), sender).unwrap();
        for kills in [1, 3] {
            set(kills);
            let told = timeout(Duration::from_secs(10), receiver.recv()).await.expect("told");
            assert_eq!(told, Some(OomKill { container: "c1".into(), kills }));
        }
        set(3);
        assert!(timeout(Duration::from_millis(50), receiver.recv()).await.is_err(), "nothing has risen");
        drop(watch);
        assert_eq!(timeout(Duration::from_secs(10), receiver.recv()).await.expect("ended"), None);
    }
}

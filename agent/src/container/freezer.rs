//! A container that stands still: the cgroup's freezer.

use std::{fs, path::Path, time::Duration};

use tokio::time::timeout;
use ttrpc::Code;

use super::cgroup;
use crate::{
    error::{Context, Error, Result},
    file_watch::FileWatch,
};

/// For every process to reach a point where it can stand still. One in the middle of an operation on a dead disk never
/// does.
const DEADLINE: Duration = Duration::from_secs(10);

/// Freezes every process of the container; returns when all stand still. On failure all go on.
pub async fn freeze(id: &str) -> Result<()> {
    let dir = cgroup::dir(id);
    let frozen = set(&dir, true).await;
    if frozen.is_err() {
        // Otherwise some would stand still for ever in a container that is said to run.
        let _ = fs::write(dir.join("cgroup.freeze"), "0"); // The first error is what is told.
    }
    frozen
}

/// Lets every process go on.
pub async fn thaw(id: &str) -> Result<()> {
    set(&cgroup::dir(id), false).await
}

async fn set(dir: &Path, frozen: bool) -> Result<()> {
    let events = dir.join("cgroup.events");
    let watch = FileWatch::new(&events)?;
    fs::write(dir.join("cgroup.freeze"), if frozen { "1" } else { "0" }).context("write cgroup.freeze")?;
    let reached = async {
        while is_frozen(&fs::read_to_string(&events).context("read cgroup.events")?) != frozen {
            watch.changed().await?;
        }
        Ok(())
    };
    timeout(DEADLINE, reached).await.unwrap_or_else(|_| {
        Err(Error::new(
            Code::DEADLINE_EXCEEDED,
            format!("a process does not stand still within {DEADLINE:?}: it may wait for a dead disk"),
        ))
    })
}

fn is_frozen(events: &str) -> bool {
    events.lines().any(|line| line == "frozen 1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(freeze: &str, events: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.freeze"), freeze).unwrap();
        fs::write(dir.path().join("cgroup.events"), events).unwrap();
        dir
    }

    #[tokio::test]
    async fn the_answer_comes_when_the_kernel_says_that_all_stand_still() {
        let dir = group("0", "populated 1\nfrozen 0\n");
        let path = dir.path().to_owned();
        let kernel = tokio::spawn(async move {
            let watch = FileWatch::new(&path.join("cgroup.freeze")).unwrap();
            while fs::read_to_string(path.join("cgroup.freeze")).unwrap() != "1" {
                watch.changed().await.unwrap();
            }
            fs::write(path.join("cgroup.events"), "populated 1\nfrozen 1\n").unwrap();
        });
        timeout(Duration::from_secs(5), set(dir.path(), true)).await.expect("no wait").unwrap();
        kernel.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_that_never_stands_still_is_an_error_in_time() {
        let dir = group("0", "populated 1\nfrozen 0\n");
        let error = set(dir.path(), true).await.unwrap_err();
        assert_eq!(error.code(), Code::DEADLINE_EXCEEDED);
    }
}

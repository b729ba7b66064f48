//! What is done to a living container through its cgroup.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::{Instant, sleep};

use super::plan::{CGROUP_PARENT, cgroup_path};
use crate::error::{Context, Error, Result};

pub const HIERARCHY: &str = "/sys/fs/cgroup";
/// For the processes of a killed group to be gone.
const REMOVE_DEADLINE: Duration = Duration::from_secs(10);

/// Makes the group of all containers: two first ones that are made at once would both try, and one would fail.
pub fn make_parent() -> io::Result<()> {
    fs::create_dir(parent())
}

/// Where the group of all containers is.
pub fn parent() -> PathBuf {
    Path::new(HIERARCHY).join(CGROUP_PARENT.trim_start_matches('/'))
}

/// Where the container's group is.
pub fn dir(id: &str) -> PathBuf {
    let below = cgroup_path(id);
    Path::new(HIERARCHY).join(below.strip_prefix("/").unwrap_or(&below))
}

/// Kills every process of the container. None is success.
pub fn kill_all(id: &str) -> Result<()> {
    let dir = dir(id);
    match fs::write(dir.join("cgroup.kill"), "1") {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !dir.exists() => return Ok(()),
        // Kernels before 5.14 have no such file.
        Err(_) => {}
    }
    let pids = fs::read_to_string(dir.join("cgroup.procs")).context("read the container's processes")?;
    for pid in pids.lines().filter_map(|pid| pid.parse().ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL); // It may have ended meanwhile.
    }
    Ok(())
}

/// Lets a frozen group go on without waiting for it, for it was killed.
pub fn release(id: &str) {
    let _ = fs::write(dir(id).join("cgroup.freeze"), "0"); // It may be gone already.
}

/// Every process of the container, also in groups that it made.
pub fn processes(id: &str) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    let mut dirs = vec![dir(id)];
    while let Some(dir) = dirs.pop() {
        let file = dir.join("cgroup.procs");
        match fs::read_to_string(&file) {
            Ok(text) => pids.extend(text.lines().filter_map(|pid| pid.parse::<i32>().ok())),
            // A group may go while it is looked at, and one for threads only has no processes.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => {}
            Err(error) => return Err(Error::from(error).context(format!("read {}", file.display()))),
        }
        let below = fs::read_dir(&dir).into_iter().flatten().flatten();
        dirs.extend(
            below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()),
        );
    }
    Ok(pids)
}

/// Kills what is left and removes the group.
pub async fn remove(id: &str) -> Result<()> {
    let dir = dir(id);
    let began = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        kill_all(id)?;
        match remove_tree(&dir) {
            Ok(()) => return Ok(()),
            // Killed processes leave the group a moment later, and the kernel announces that to nobody who removes.
            Err(error) if began.elapsed() < REMOVE_DEADLINE => {
                tracing::trace!(%error, "the group is still in use");
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            Err(error) => return Err(Error::from(error).context(format!("remove {}", dir.display()))),
        }
    }
}

/// Removes a group and those below it that the container made.
fn remove_tree(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

//! Putting the server into the cgroup and at the OOM score that containerd wants for its shims.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::unistd::getppid;
use runtime::error::{Context, Error, Result};

const ROOT: &str = "/sys/fs/cgroup";
/// The highest score there is.
const SCORE_LIMIT: i32 = 1000;

/// Moves the process into the cgroup `path` of the unified hierarchy, or of every hierarchy of version 1 that has it.
pub fn join(path: &str, pid: u32) -> Result<()> {
    let root = Path::new(ROOT);
    let relative = Path::new(path.trim_start_matches('/'));
    let candidates: Vec<PathBuf> = if root.join("cgroup.controllers").exists() {
        vec![root.join(relative)]
    } else {
        let hierarchies = fs::read_dir(root).with_context(|| format!("read {ROOT}"))?;
        hierarchies.flatten().map(|entry| entry.path().join(relative)).collect()
    };
    let existing: Vec<_> = candidates.into_iter().filter(|dir| dir.join("cgroup.procs").exists()).collect();
    if existing.is_empty() {
        return Err(Error::not_found(format!("ShimCgroup: there is no cgroup {path} below {ROOT}")));
    }
    for dir in existing {
        fs::write(dir.join("cgroup.procs"), pid.to_string())
            .with_context(|| format!("ShimCgroup: join {}", dir.display()))?;
    }
    Ok(())
}

/// One more than our parent's score: when memory is short, a shim goes before containerd.
pub fn raise_oom_score(pid: u32) -> Result<()> {
    let parent = format!("/proc/{}/oom_score_adj", getppid());
    let score = fs::read_to_string(&parent).with_context(|| format!("read {parent}"))?;
    let score: i32 =
        score.trim().parse().map_err(|_| Error::internal(format!("{parent}: {score:?} is no number")))?;
    let own = format!("/proc/{pid}/oom_score_adj");
    fs::write(&own, (score + 1).min(SCORE_LIMIT).to_string()).with_context(|| format!("write {own}"))
}

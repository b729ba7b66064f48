//! A kill for want of memory that is wanted: one in a cgroup of the host that repeats what was in the guest.
//!
//! Engines of the command line know of such kills from the host's kernel alone, which tells them (`memory.oom_control`,
//! `memory.events`) of the group of a container's pid. So a process that is there for that is given less memory than it
//! takes, and is the first that the kernel chooses.

use std::{
    fs, io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::sys::signal::Signal;

use crate::cgroup::PROCESSES;

/// What the group may use beyond what it does, in bytes: a limit below what it uses by then would be refused.
const SLACK: u64 = 16 << 20;
/// What the victim takes at most beyond what the group uses, in bytes: some of that is files, which the kernel drops first.
const GREED: u64 = 64 << 20;
/// What tells how much is used, by version.
const USAGES: [&str; 2] = ["memory.current", "memory.usage_in_bytes"];

/// Has the kernel kill a process in the group at `path`, which `victim` starts: it waits for the end of its input, and then
/// takes as many bytes as its last argument says. Returns whether it was killed. Blocks for as long as the victim lives.
pub(crate) fn kill_in(path: &Path, mut victim: Command) -> io::Result<bool> {
    let usage = USAGES.iter().find_map(|file| fs::read_to_string(path.join(file)).ok());
    let usage: u64 = usage.and_then(|text| text.trim().parse().ok()).ok_or(io::ErrorKind::Unsupported)?;
    let mut victim = victim.arg((usage + GREED).to_string()).stdin(Stdio::piped()).spawn()?;
    let lowered = fs::write(path.join(PROCESSES), victim.id().to_string())
        .and_then(|()| Lowered::to(path, usage + SLACK));
    let status = end(&mut victim, lowered.is_ok())?;
    lowered.map(|_| status.signal() == Some(Signal::SIGKILL as i32))
}

/// Lets it take its memory, if it is to.
fn end(victim: &mut Child, begins: bool) -> io::Result<std::process::ExitStatus> {
    if !begins {
        victim.kill()?;
    }
    drop(victim.stdin.take());
    victim.wait()
}

/// A group whose limits are lower until this is dropped.
struct Lowered(Vec<(PathBuf, String)>);

impl Lowered {
    fn to(group: &Path, bytes: u64) -> io::Result<Self> {
        // In this order. What goes to a swap is not missed.
        let limits = [
            ("memory.swap.max", 0),
            ("memory.max", bytes),
            ("memory.limit_in_bytes", bytes),
            ("memory.memsw.limit_in_bytes", bytes),
        ];
        let mut lowered = Self(Vec::new());
        for (file, limit) in limits {
            let path = group.join(file);
            let Ok(before) = fs::read_to_string(&path) else { continue };
            fs::write(&path, limit.to_string())?;
            lowered.0.push((path, before));
        }
        Ok(lowered)
    }
}

impl Drop for Lowered {
    fn drop(&mut self) {
        for (path, before) in self.0.iter().rev() {
            if let Err(error) = fs::write(path, before.trim()) {
                tracing::warn!(%error, path = %path.display(), "a group keeps a lower limit");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_as_they_were_afterwards() {
        for (files, limits) in [
            (["memory.swap.max", "memory.max"], ["0", "4096"]),
            (["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"], ["4096", "4096"]),
        ] {
            let group = tempfile::tempdir().unwrap();
            let paths = files.map(|file| group.path().join(file));
            let read = || paths.each_ref().map(|path| fs::read_to_string(path).unwrap());
            paths.iter().for_each(|path| fs::write(path, "max\n").unwrap());
            let lowered = Lowered::to(group.path(), 4096).unwrap();
            assert_eq!(read(), limits);
            drop(lowered);
            assert_eq!(read(), ["max", "max"]);
        }
    }

    #[test]
    fn what_is_no_group_has_no_victim() {
        let dir = tempfile::tempdir().unwrap();
        assert!(kill_in(dir.path(), Command::new("/no/such/program")).is_err());
    }
}

//! Whether the host has killed a process of ours for want of memory.
//!
//! The kernel says so in one place only: it counts such kills in the cgroup of the one that was killed, whosever limit was
//! reached, or the host's own. All helpers are in this process's group. Files only: nothing is watched, and nothing polled.

pub(crate) mod victim;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use crate::cgroup;

pub(crate) const CONTROLLER: &str = "memory";
/// Where kills are counted: version 2 without the groups below, and with them; version 1.
const COUNTS: [&str; 3] = ["memory.events.local", "memory.events", "memory.oom_control"];
const COUNT: &str = "oom_kill";
/// A group's limit, by version.
const LIMITS: [&str; 2] = ["memory.max", "memory.limit_in_bytes"];
/// What version 1 calls no limit is a little less than this.
const NO_LIMIT: u64 = 1 << 62;

/// How many kills this process's group had seen at a moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kills {
    group: Option<PathBuf>,
    count: u64,
}

impl Kills {
    pub fn now() -> Self {
        let group = cgroup::own(CONTROLLER);
        let count = group.as_deref().map_or(0, count);
        Self { group, count }
    }

    /// What there was too little of, if there were kills since. Of a group that this process was moved to meanwhile all count:
    /// it is the sandbox's own.
    pub fn since(&self) -> Option<Want> {
        let now = Self::now();
        let before = if now.group == self.group { self.count } else { 0 };
        let group = now.group.filter(|_| now.count > before)?;
        Some(Want { limit: tightest(&group), group })
    }
}

/// A group, and the limit that it has come up against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Want {
    group: PathBuf,
    limit: Option<u64>,
}

impl fmt::Display for Want {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "killed for want of memory on the host (cgroup {}, ", self.group.display())?;
        match self.limit {
            Some(limit) => write!(f, "limit {} MiB)", limit >> 20),
            None => write!(f, "no limit)"),
        }
    }
}

/// What there was too little of, if there ever were kills in the group. It is a sandbox's own.
pub(crate) fn want_in(group: &Path) -> Option<Want> {
    (count(group) > 0).then(|| Want { group: group.into(), limit: tightest(group) })
}

fn count(group: &Path) -> u64 {
    let texts = COUNTS.iter().filter_map(|file| fs::read_to_string(group.join(file)).ok());
    let counted = |text: String| {
        text.lines().find_map(|line| line.strip_prefix(COUNT)?.strip_prefix(' ')?.trim().parse().ok())
    };
    texts.filter_map(counted).next().unwrap_or(0)
}

/// The smallest limit of the group and those above it, in bytes.
pub(crate) fn tightest(group: &Path) -> Option<u64> {
    let limit = |group: &Path| {
        let text = LIMITS.iter().find_map(|file| fs::read_to_string(group.join(file)).ok())?;
        text.trim().parse().ok().filter(|limit| *limit < NO_LIMIT)
    };
    group.ancestors().filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn kills_are_counted_in_both_versions() {
        let v1 = ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n");
        let v2 = ("memory.events", "low 0\nhigh 0\nmax 9\noom 2\noom_kill 4\noom_group_kill 1\n");
        let local = ("memory.events.local", "oom 2\noom_kill 1\noom_group_kill 0\n");
        for (files, expected) in [(vec![], 0), (vec![v1], 3), (vec![v2], 4), (vec![v2, local], 1)] {
            assert_eq!(count(group(&files).path()), expected, "{files:?}");
        }
    }

    #[test]
    fn the_tightest_limit_counts_wherever_it_is() {
        let unlimited = "9223372036854771712\n";
        for (own, above, expected) in [
            (("a/memory.limit_in_bytes", unlimited), ("memory.limit_in_bytes", unlimited), None),
            (("a/memory.limit_in_bytes", unlimited), ("memory.limit_in_bytes", "4096\n"), Some(4096)),
            (("a/memory.limit_in_bytes", "1024"), ("memory.limit_in_bytes", "4096\n"), Some(1024)),
            (("a/memory.max", "max\n"), ("memory.max", "8192\n"), Some(8192)),
            (("a/memory.max", "max\n"), ("other", ""), None),
        ] {
            let dir = group(&[own, above]);
            assert_eq!(tightest(&dir.path().join("a")), expected, "{own:?} below {above:?}");
        }
    }

    #[test]
    fn nothing_is_said_where_nobody_was_killed() {
        assert_eq!(Kills::now().since(), None);
    }
}

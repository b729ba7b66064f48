//! Processes as `/proc` shows them: who they are, who made them, what CPU time they used, how often they woke up.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{time::clock_getcpuclockid, unistd::Pid};

/// The unit of times in `/proc/<pid>/stat`: the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// A thread and the CPU time it has used.
#[derive(Debug, Clone, PartialEq)]
pub struct Thread {
    pub id: u32,
    pub name: String,
    pub seconds: f64,
}

/// All processes. Threads of the kernel are among them.
pub fn all() -> Vec<u32> {
    entries("/proc")
}

/// The command line; empty for a process that is gone.
pub fn arguments(pid: u32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = line.strip_suffix(b"\0").unwrap_or(&line);
    line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

pub fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// The process that made it, if both live.
pub fn parent(pid: u32) -> Option<u32> {
    Stat::of(pid).map(|stat| stat.parent)
}

/// All that descend from `ancestor`, without itself.
pub fn descendants(ancestor: u32) -> BTreeSet<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for pid in all() {
        if let Some(stat) = Stat::of(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let (mut found, mut next) = (BTreeSet::new(), vec![ancestor]);
    while let Some(pid) = next.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            if found.insert(*child) {
                next.push(*child);
            }
        }
    }
    found
}

/// CPU seconds of a process so far, its ended threads included and its children not.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let clock =
        clock_getcpuclockid(Pid::from_raw(pid as i32)).with_context(|| format!("CPU clock of {pid}"))?;
    let time = clock.now().with_context(|| format!("CPU clock of {pid}"))?;
    Ok(Duration::from(time).as_secs_f64())
}

/// CPU seconds of the children that a process has waited for, in steps of 10 ms.
pub fn children_cpu_seconds(pid: u32) -> f64 {
    Stat::of(pid).map_or(0.0, |stat| stat.children_ticks as f64 / TICKS_PER_SECOND)
}

/// The threads that there are now.
pub fn threads(pid: u32) -> Vec<Thread> {
    let thread = |id: u32| {
        let dir = format!("/proc/{pid}/task/{id}");
        let schedstat = fs::read_to_string(format!("{dir}/schedstat")).ok()?;
        let nanoseconds: f64 = schedstat.split(' ').next()?.parse().ok()?;
        let name = fs::read_to_string(format!("{dir}/comm")).ok()?.trim_end().to_owned();
        Some(Thread { id, name, seconds: nanoseconds / 1e9 })
    };
    entries(&format!("/proc/{pid}/task")).into_iter().filter_map(thread).collect()
}

/// How often each thread was switched to, so far.
pub fn switches(pid: u32) -> BTreeMap<u32, u64> {
    let of = |id: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/task/{id}/status")).ok()?;
        Some((id, parse_switches(&status)))
    };
    entries(&format!("/proc/{pid}/task")).into_iter().filter_map(of).collect()
}

/// How many of `later` came after `earlier`. A thread that is new counts with all of its own.
pub fn switches_between(earlier: &BTreeMap<u32, u64>, later: &BTreeMap<u32, u64>) -> u64 {
    later.iter().map(|(id, count)| count.saturating_sub(earlier.get(id).copied().unwrap_or(0))).sum()
}

fn parse_switches(status: &str) -> u64 {
    let count = |line: &str| {
        let (key, value) = line.split_once(':')?;
        key.ends_with("voluntary_ctxt_switches").then(|| value.trim().parse::<u64>().ok())?
    };
    status.lines().filter_map(count).sum()
}

#[derive(Debug, PartialEq)]
struct Stat {
    parent: u32,
    children_ticks: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The name may hold anything, even brackets: what counts comes after the last one.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self { parent: number(1)? as u32, children_ticks: number(13)? + number(14)? })
    }
}

/// The names in a directory that are numbers.
fn entries(dir: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn stat_is_read_behind_a_hostile_name() {
        let text = "653 (a) b (c) S 645 653 653 0 -1 4194560 1 2 3 4 50 60 7 8 20 0 4 0 1 2 3";
        assert_eq!(Stat::parse(text), Some(Stat { parent: 645, children_ticks: 15 }));
        assert_eq!(Stat::parse("653 (x) S"), None);
    }

    #[test]
    fn switches_of_both_kinds_count_and_new_threads_count_whole() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t3\n";
        assert_eq!(parse_switches(status), 15);
        let earlier = BTreeMap::from([(1, 10), (2, 20)]);
        let later = BTreeMap::from([(1, 15), (3, 7)]);
        assert_eq!(switches_between(&earlier, &later), 12);
    }

    #[test]
    fn a_child_is_found_and_its_time_counted() {
        let me = std::process::id();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(descendants(me).contains(&child.id()));
        assert!(cpu_seconds(child.id()).unwrap() < 5.0);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(cpu_seconds(me).unwrap() > 0.0);
        assert!(threads(me).iter().any(|thread| thread.id == me));
        assert!(!switches(me).is_empty() && !arguments(me).is_empty() && !name(me).is_empty());
    }
}

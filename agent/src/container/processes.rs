//! A container's processes as its own init counts them.

use std::{collections::HashMap, fs};

use protocols::extras::ProcessEntry;

/// One entry per living process of `pids`; `names` are those that the host knows.
pub fn entries(pids: &[i32], init: i32, names: &HashMap<i32, String>) -> Vec<ProcessEntry> {
    let depth = numbers(init).len().saturating_sub(1);
    let mut entries: Vec<_> = pids
        .iter()
        .filter_map(|pid| {
            // One that ended meanwhile is in no list any more.
            let pid_inside = *numbers(*pid).get(depth)?;
            let exec_id = names.get(pid).cloned().unwrap_or_default();
            Some(ProcessEntry { pid: pid_inside, exec_id, ..Default::default() })
        })
        .collect();
    entries.sort_by_key(|entry| entry.pid);
    entries
}

/// A process's number in each process namespace that it is in, ours first.
fn numbers(pid: i32) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    line.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn living_processes_are_listed_by_number_with_their_names() {
        let own = std::process::id() as i32;
        let names = HashMap::from([(own, "e1".to_owned())]);
        let listed = entries(&[own, i32::MAX], own, &names);
        assert_eq!(listed.len(), 1, "there is no process of that number");
        assert_eq!(listed[0].exec_id, "e1");
        assert_eq!(Some(&listed[0].pid), numbers(own).last());
    }
}

//! What the containers of a sandbox use together.

use std::sync::Arc;

use protocols::agent::{MemoryData, StatsContainerResponse as Stats};

use super::{Sandbox, lock};
use crate::{container::Container, error::Result};

impl Sandbox {
    /// Time and memory of all containers, and the network, which they share. One that ends meanwhile does not count.
    pub async fn stats(&self) -> Result<Stats> {
        self.running()?;
        let containers: Vec<Arc<Container>> = lock(&self.containers).values().flatten().cloned().collect();
        let mut sum = Stats::default();
        for container in containers {
            match container.stats().await {
                Ok(stats) => add(&mut sum, stats),
                Err(error) => tracing::debug!(%error, container = %container.id(), "not counted"),
            }
        }
        Ok(sum)
    }
}

fn add(sum: &mut Stats, more: Stats) {
    if !more.network_stats.is_empty() {
        sum.network_stats = more.network_stats;
    }
    let Some(more) = more.cgroup_stats.into_option() else { return };
    let sum = sum.cgroup_stats.mut_or_insert_default();
    let (cpu, its_cpu) = (
        sum.cpu_stats.mut_or_insert_default().cpu_usage.mut_or_insert_default(),
        more.cpu_stats.unwrap_or_default().cpu_usage.unwrap_or_default(),
    );
    cpu.total_usage += its_cpu.total_usage;
    cpu.usage_in_kernelmode += its_cpu.usage_in_kernelmode;
    cpu.usage_in_usermode += its_cpu.usage_in_usermode;
    let (memory, its_memory) =
        (sum.memory_stats.mut_or_insert_default(), more.memory_stats.unwrap_or_default());
    memory.cache += its_memory.cache;
    for (of, its) in [
        (&mut memory.usage, its_memory.usage.unwrap_or_default()),
        (&mut memory.swap_usage, its_memory.swap_usage.unwrap_or_default()),
    ] {
        add_memory(of.mut_or_insert_default(), &its);
    }
    for (key, value) in its_memory.stats {
        *memory.stats.entry(key).or_default() += value;
    }
    for (of, its) in [(&mut sum.cpu_stat, more.cpu_stat), (&mut sum.memory_events, more.memory_events)] {
        for (key, value) in its {
            *of.entry(key).or_default() += value;
        }
    }
    sum.pids_stats.mut_or_insert_default().current += more.pids_stats.current;
}

/// A limit of one is none of the whole's: it is left out, as where there is none.
fn add_memory(sum: &mut MemoryData, more: &MemoryData) {
    sum.usage += more.usage;
    sum.max_usage += more.max_usage;
    sum.failcnt += more.failcnt;
    sum.limit = u64::MAX;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_added_and_the_network_is_counted_once() {
        let mut one = Stats::default();
        one.network_stats.push(Default::default());
        let cgroup = one.cgroup_stats.mut_or_insert_default();
        cgroup.cpu_stats.mut_or_insert_default().cpu_usage.mut_or_insert_default().total_usage = 5;
        cgroup.memory_stats.mut_or_insert_default().usage.mut_or_insert_default().usage = 7;
        cgroup.memory_stats.mut_or_insert_default().stats.insert("anon".into(), 3);
        cgroup.pids_stats.mut_or_insert_default().current = 2;
        let mut sum = Stats::default();
        for _ in 0..3 {
            add(&mut sum, one.clone());
        }
        add(&mut sum, Stats::default());
        assert_eq!(sum.network_stats.len(), 1);
        assert_eq!(sum.cgroup_stats.cpu_stats.cpu_usage.total_usage, 15);
        assert_eq!(sum.cgroup_stats.memory_stats.usage.usage, 21);
        assert_eq!(sum.cgroup_stats.memory_stats.stats["anon"], 9);
        assert_eq!(sum.cgroup_stats.pids_stats.current, 6);
    }
}

//! What a container uses -> the message that containerd decodes. Pure but for one look at the host.
//!
//! The guest counts by version 2 of cgroups. containerd and everything behind it expect the version of the host, so on a
//! host of version 1 the figures are told in that version's terms, as far as they have them.

use containerd_shim_protos::{cgroups::metrics as v1, cgroups_v2::metrics as v2};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use protobuf::{Message, well_known_types::any::Any};
use runtime::{
    container::{BlkioStats, BlkioStatsEntry, HugetlbStats, Stats},
    error::{Error, Result},
};

/// What version 1 says where there is no limit: the largest multiple of a page.
const V1_UNLIMITED: u64 = 0x7fff_ffff_ffff_f000;

/// What is told of each interface: the same fields in both versions, but types of their own.
macro_rules! networks {
    ($version:ident, $stats:expr) => {
        $stats
            .network_stats
            .iter()
            .map(|net| $version::NetworkStat {
                name: net.name.clone(),
                rx_bytes: net.rx_bytes,
                rx_packets: net.rx_packets,
                rx_errors: net.rx_errors,
                rx_dropped: net.rx_dropped,
                tx_bytes: net.tx_bytes,
                tx_packets: net.tx_packets,
                tx_errors: net.tx_errors,
                tx_dropped: net.tx_dropped,
                ..Default::default()
            })
            .collect()
    };
}

/// A host's version of cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    V1,
    V2,
}

impl Cgroups {
    /// The host's, by containerd's rule: version 2 if nothing else is mounted there.
    pub fn of_host() -> Self {
        match statfs("/sys/fs/cgroup") {
            Ok(fs) if fs.filesystem_type() == CGROUP2_SUPER_MAGIC => Self::V2,
            _ => Self::V1,
        }
    }
}

/// The message of that version.
pub fn encode(stats: &Stats, version: Cgroups) -> Result<Any> {
    let (name, value) = match version {
        Cgroups::V1 => ("v1", to_v1(stats).write_to_bytes()),
        Cgroups::V2 => ("v2", to_v2(stats).write_to_bytes()),
    };
    let value = value.map_err(|error| Error::internal(format!("encode the metrics: {error}")))?;
    Ok(Any { type_url: format!("io.containerd.cgroups.{name}.Metrics"), value, ..Default::default() })
}

fn to_v1(stats: &Stats) -> v1::Metrics {
    let group = &stats.cgroup_stats;
    let usage = &group.cpu_stats.cpu_usage;
    let throttling = &group.cpu_stats.throttling_data;
    let cpu = v1::CPUStat {
        usage: Some(v1::CPUUsage {
            total: usage.total_usage,
            kernel: usage.usage_in_kernelmode,
            user: usage.usage_in_usermode,
            per_cpu: usage.percpu_usage.clone(),
            ..Default::default()
        })
        .into(),
        throttling: Some(v1::Throttle {
            periods: throttling.periods,
            throttled_periods: throttling.throttled_periods,
            throttled_time: throttling.throttled_time,
            ..Default::default()
        })
        .into(),
        ..Default::default()
    };
    let pids = v1::PidsStat {
        current: group.pids_stats.current,
        limit: group.pids_stats.limit,
        ..Default::default()
    };
    let blkio = v1::BlkIOStat {
        io_service_bytes_recursive: v1_entries(stats, |io| &io.io_service_bytes_recursive),
        io_serviced_recursive: v1_entries(stats, |io| &io.io_serviced_recursive),
        ..Default::default()
    };
    let hugetlb = by_page_size(stats)
        .map(|(pagesize, huge)| v1::HugetlbStat {
            usage: huge.usage,
            max: huge.max_usage,
            failcnt: huge.failcnt,
            pagesize,
            ..Default::default()
        })
        .collect();
    let oom = v1::MemoryOomControl { oom_kill: event(stats, "oom_kill"), ..Default::default() };
    v1::Metrics {
        hugetlb,
        pids: Some(pids).into(),
        cpu: Some(cpu).into(),
        memory: Some(v1_memory(stats)).into(),
        blkio: Some(blkio).into(),
        network: networks!(v1, stats),
        memory_oom_control: Some(oom).into(),
        ..Default::default()
    }
}

fn v1_memory(stats: &Stats) -> v1::MemoryStat {
    let memory = &stats.cgroup_stats.memory_stats;
    let of = |key: &str| memory.stats.get(key).copied().unwrap_or(0);
    let limit = |limit: u64| limit.min(V1_UNLIMITED);
    let (usage, swap) = (&memory.usage, &memory.swap_usage);
    let kernel = &memory.kernel_usage;
    let both = limit(usage.limit.saturating_add(swap.limit));
    v1::MemoryStat {
        cache: of("file"),
        rss: of("anon"),
        rss_huge: of("anon_thp"),
        mapped_file: of("file_mapped"),
        dirty: of("file_dirty"),
        writeback: of("file_writeback"),
        pg_fault: of("pgfault"),
        pg_maj_fault: of("pgmajfault"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        unevictable: of("unevictable"),
        hierarchical_memory_limit: limit(usage.limit),
        hierarchical_swap_limit: both,
        // Version 2 counts what is below a group always.
        total_cache: of("file"),
        total_rss: of("anon"),
        total_rss_huge: of("anon_thp"),
        total_mapped_file: of("file_mapped"),
        total_dirty: of("file_dirty"),
        total_writeback: of("file_writeback"),
        total_pg_fault: of("pgfault"),
        total_pg_maj_fault: of("pgmajfault"),
        total_inactive_anon: of("inactive_anon"),
        total_active_anon: of("active_anon"),
        total_inactive_file: of("inactive_file"),
        total_active_file: of("active_file"),
        total_unevictable: of("unevictable"),
        usage: v1_entry(usage.usage, usage.max_usage, limit(usage.limit), usage.failcnt),
        // Version 1 counts memory and swap together.
        swap: v1_entry(
            usage.usage.saturating_add(swap.usage),
            usage.max_usage.saturating_add(swap.max_usage),
            both,
            swap.failcnt,
        ),
        kernel: v1_entry(kernel.usage, kernel.max_usage, V1_UNLIMITED, kernel.failcnt),
        kernel_tcp: v1_entry(of("sock"), 0, V1_UNLIMITED, 0),
        ..Default::default()
    }
}

fn v1_entry(usage: u64, max: u64, limit: u64, failcnt: u64) -> protobuf::MessageField<v1::MemoryEntry> {
    Some(v1::MemoryEntry { limit, usage, max, failcnt, ..Default::default() }).into()
}

fn v1_entries(stats: &Stats, list: impl Fn(&BlkioStats) -> &Vec<BlkioStatsEntry>) -> Vec<v1::BlkIOEntry> {
    list(&stats.cgroup_stats.blkio_stats)
        .iter()
        .map(|entry| v1::BlkIOEntry {
            op: entry.op.clone(),
            major: entry.major,
            minor: entry.minor,
            value: entry.value,
            ..Default::default()
        })
        .collect()
}

fn to_v2(stats: &Stats) -> v2::Metrics {
    let group = &stats.cgroup_stats;
    let usage = &group.cpu_stats.cpu_usage;
    let throttling = &group.cpu_stats.throttling_data;
    let raw = |key: &str| group.cpu_stat.get(key).copied().unwrap_or(0);
    let cpu = v2::CPUStat {
        usage_usec: usage.total_usage / 1000,
        user_usec: usage.usage_in_usermode / 1000,
        system_usec: usage.usage_in_kernelmode / 1000,
        nr_periods: throttling.periods,
        nr_throttled: throttling.throttled_periods,
        throttled_usec: throttling.throttled_time / 1000,
        nr_bursts: raw("nr_bursts"),
        burst_usec: raw("burst_usec"),
        ..Default::default()
    };
    let limit = match group.pids_stats.limit {
        // No limit on the wire.
        0 => u64::MAX,
        limit => limit,
    };
    let pids = v2::PidsStat { current: group.pids_stats.current, limit, ..Default::default() };
    let events = v2::MemoryEvents {
        low: event(stats, "low"),
        high: event(stats, "high"),
        max: event(stats, "max"),
        oom: event(stats, "oom"),
        oom_kill: event(stats, "oom_kill"),
        oom_group_kill: event(stats, "oom_group_kill"),
        ..Default::default()
    };
    let hugetlb = by_page_size(stats)
        .map(|(pagesize, huge)| v2::HugeTlbStat {
            current: huge.usage,
            max: huge.max_usage,
            pagesize,
            failcnt: huge.failcnt,
            ..Default::default()
        })
        .collect();
    v2::Metrics {
        pids: Some(pids).into(),
        cpu: Some(cpu).into(),
        memory: Some(v2_memory(stats)).into(),
        io: Some(v2::IOStat { usage: v2_io(stats), ..Default::default() }).into(),
        hugetlb,
        memory_events: Some(events).into(),
        network: networks!(v2, stats),
        ..Default::default()
    }
}

fn v2_memory(stats: &Stats) -> v2::MemoryStat {
    let memory = &stats.cgroup_stats.memory_stats;
    let of = |key: &str| memory.stats.get(key).copied().unwrap_or(0);
    v2::MemoryStat {
        anon: of("anon"),
        file: of("file"),
        kernel_stack: of("kernel_stack"),
        slab: of("slab"),
        sock: of("sock"),
        shmem: of("shmem"),
        file_mapped: of("file_mapped"),
        file_dirty: of("file_dirty"),
        file_writeback: of("file_writeback"),
        anon_thp: of("anon_thp"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        unevictable: of("unevictable"),
        slab_reclaimable: of("slab_reclaimable"),
        slab_unreclaimable: of("slab_unreclaimable"),
        pgfault: of("pgfault"),
        pgmajfault: of("pgmajfault"),
        // Newer kernels count these apart for anonymous and file pages.
        workingset_refault: of("workingset_refault_anon") + of("workingset_refault_file"),
        workingset_activate: of("workingset_activate_anon") + of("workingset_activate_file"),
        workingset_nodereclaim: of("workingset_nodereclaim"),
        pgrefill: of("pgrefill"),
        pgscan: of("pgscan"),
        pgsteal: of("pgsteal"),
        pgactivate: of("pgactivate"),
        pgdeactivate: of("pgdeactivate"),
        pglazyfree: of("pglazyfree"),
        pglazyfreed: of("pglazyfreed"),
        thp_fault_alloc: of("thp_fault_alloc"),
        thp_collapse_alloc: of("thp_collapse_alloc"),
        usage: memory.usage.usage,
        usage_limit: memory.usage.limit,
        max_usage: memory.usage.max_usage,
        swap_usage: memory.swap_usage.usage,
        swap_limit: memory.swap_usage.limit,
        swap_max_usage: memory.swap_usage.max_usage,
        ..Default::default()
    }
}

/// One entry per device.
fn v2_io(stats: &Stats) -> Vec<v2::IOEntry> {
    let io = &stats.cgroup_stats.blkio_stats;
    let mut devices: Vec<v2::IOEntry> = Vec::new();
    let lists = [(&io.io_service_bytes_recursive, true), (&io.io_serviced_recursive, false)];
    for (list, is_bytes) in lists {
        for entry in list {
            let known =
                devices.iter().position(|known| (known.major, known.minor) == (entry.major, entry.minor));
            let place = known.unwrap_or_else(|| {
                let (major, minor) = (entry.major, entry.minor);
                devices.push(v2::IOEntry { major, minor, ..Default::default() });
                devices.len() - 1
            });
            let device = &mut devices[place];
            match (entry.op.as_str(), is_bytes) {
                ("Read", true) => device.rbytes = entry.value,
                ("Write", true) => device.wbytes = entry.value,
                ("Read", false) => device.rios = entry.value,
                ("Write", false) => device.wios = entry.value,
                _ => {}
            }
        }
    }
    devices
}

fn event(stats: &Stats, key: &str) -> u64 {
    stats.cgroup_stats.memory_events.get(key).copied().unwrap_or(0)
}

/// In the order of their names, which the wire does not keep.
fn by_page_size(stats: &Stats) -> impl Iterator<Item = (String, &HugetlbStats)> {
    let mut sizes: Vec<_> = stats.cgroup_stats.hugetlb_stats.iter().collect();
    sizes.sort_by_key(|(size, _)| size.as_str());
    sizes.into_iter().map(|(size, stats)| (size.clone(), stats))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Stats {
        let mut stats = Stats::new();
        let group = stats.cgroup_stats.mut_or_insert_default();
        let usage = group.cpu_stats.mut_or_insert_default().cpu_usage.mut_or_insert_default();
        (usage.total_usage, usage.usage_in_usermode, usage.usage_in_kernelmode) = (7_000, 4_000, 3_000);
        group.cpu_stats.mut_or_insert_default().throttling_data.mut_or_insert_default().throttled_time =
            9_000;
        let memory = group.memory_stats.mut_or_insert_default();
        memory.stats = [("anon", 11), ("file", 12), ("pgmajfault", 13)]
            .map(|(key, value)| (key.to_owned(), value))
            .into();
        let entry = memory.usage.mut_or_insert_default();
        (entry.usage, entry.limit, entry.max_usage) = (21, u64::MAX, 23);
        let swap = memory.swap_usage.mut_or_insert_default();
        (swap.usage, swap.limit) = (5, 6);
        group.memory_events = [("oom_kill".to_owned(), 2)].into();
        group.pids_stats.mut_or_insert_default().current = 3;
        let io = group.blkio_stats.mut_or_insert_default();
        for (op, value) in [("Read", 31), ("Write", 32)] {
            let entry = BlkioStatsEntry { major: 8, minor: 16, op: op.into(), value, ..Default::default() };
            io.io_service_bytes_recursive.push(entry.clone());
            io.io_serviced_recursive.push(BlkioStatsEntry { value: value + 10, ..entry });
        }
        stats
    }

    #[test]
    fn version_2_gets_the_guests_own_figures() {
        let any = encode(&sample(), Cgroups::V2).unwrap();
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let metrics = v2::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!((metrics.cpu.usage_usec, metrics.cpu.user_usec, metrics.cpu.throttled_usec), (7, 4, 9));
        assert_eq!(
            (metrics.memory.anon, metrics.memory.usage, metrics.memory.usage_limit),
            (11, 21, u64::MAX)
        );
        assert_eq!((metrics.memory.swap_usage, metrics.memory.swap_limit), (5, 6));
        assert_eq!((metrics.pids.current, metrics.pids.limit), (3, u64::MAX));
        assert_eq!(metrics.memory_events.oom_kill, 2);
        assert_eq!(metrics.io.usage.len(), 1);
        let io = &metrics.io.usage[0];
        assert_eq!((io.major, io.minor, io.rbytes, io.wbytes, io.rios, io.wios), (8, 16, 31, 32, 41, 42));
    }

    #[test]
    fn version_1_gets_them_in_its_own_terms() {
        let any = encode(&sample(), Cgroups::V1).unwrap();
        assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
        let metrics = v1::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!((metrics.cpu.usage.total, metrics.cpu.throttling.throttled_time), (7_000, 9_000));
        let memory = &metrics.memory;
        assert_eq!((memory.rss, memory.total_cache, memory.pg_maj_fault), (11, 12, 13));
        assert_eq!((memory.usage.usage, memory.usage.max, memory.usage.limit), (21, 23, 9223372036854771712));
        assert_eq!((memory.swap.usage, memory.swap.limit), (26, 9223372036854771712));
        assert_eq!((metrics.pids.current, metrics.pids.limit), (3, 0));
        assert_eq!(metrics.memory_oom_control.oom_kill, 2);
        assert_eq!(metrics.blkio.io_serviced_recursive[1].value, 42);
    }
}

//! What a container uses: its cgroup's files -> the wire's message.

use std::{collections::HashMap, fs, path::Path};

use protocols::agent as wire;

use super::cgroup;
use crate::error::{Context, Result};

/// Figures of the container, and of the network interfaces of the guest.
pub fn stats(id: &str) -> Result<wire::StatsContainerResponse> {
    Ok(wire::StatsContainerResponse {
        cgroup_stats: Some(of_cgroup(&cgroup::dir(id))?).into(),
        network_stats: network(&fs::read_to_string("/proc/net/dev").unwrap_or_default()),
        ..Default::default()
    })
}

fn of_cgroup(dir: &Path) -> Result<wire::CgroupStats> {
    // Of the files, only what the guest's kernel was built with is there; this one always is.
    fs::metadata(dir.join("cgroup.procs")).context(format!("look into {}", dir.display()))?;
    let cpu = table(&read(dir, "cpu.stat"));
    let memory = table(&read(dir, "memory.stat"));
    let events = table(&read(dir, "memory.events"));
    let of = |table: &HashMap<String, u64>, key: &str| table.get(key).copied().unwrap_or(0);
    let ns = |key| of(&cpu, key).saturating_mul(1000);
    let data = |name: &str, failures| wire::MemoryData {
        usage: number(&read(dir, &format!("{name}.current"))),
        max_usage: number(&read(dir, &format!("{name}.peak"))),
        limit: number(&read(dir, &format!("{name}.max"))),
        failcnt: failures,
        ..Default::default()
    };
    let memory_stats = wire::MemoryStats {
        cache: of(&memory, "file"),
        usage: Some(data("memory", of(&events, "max"))).into(),
        swap_usage: Some(data("memory.swap", of(&table(&read(dir, "memory.swap.events")), "fail"))).into(),
        kernel_usage: Some(wire::MemoryData { usage: of(&memory, "kernel"), ..Default::default() }).into(),
        use_hierarchy: true,
        stats: memory,
        ..Default::default()
    };
    let cpu_usage = wire::CpuUsage {
        total_usage: ns("usage_usec"),
        usage_in_usermode: ns("user_usec"),
        usage_in_kernelmode: ns("system_usec"),
        ..Default::default()
    };
    let throttling = wire::ThrottlingData {
        periods: of(&cpu, "nr_periods"),
        throttled_periods: of(&cpu, "nr_throttled"),
        throttled_time: ns("throttled_usec"),
        ..Default::default()
    };
    let pids = wire::PidsStats {
        current: number(&read(dir, "pids.current")),
        // On the wire, no limit is 0.
        limit: read(dir, "pids.max").trim().parse().unwrap_or(0),
        ..Default::default()
    };
    Ok(wire::CgroupStats {
        cpu_stats: Some(wire::CpuStats {
            cpu_usage: Some(cpu_usage).into(),
            throttling_data: Some(throttling).into(),
            ..Default::default()
        })
        .into(),
        memory_stats: Some(memory_stats).into(),
        pids_stats: Some(pids).into(),
        blkio_stats: Some(block_io(&read(dir, "io.stat"))).into(),
        hugetlb_stats: huge_pages(dir),
        cpu_stat: cpu,
        memory_events: events,
        ..Default::default()
    })
}

fn read(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap_or_default()
}

/// A file with one number; `max` is the largest.
fn number(text: &str) -> u64 {
    match text.trim() {
        "max" => u64::MAX,
        number => number.parse().unwrap_or(0),
    }
}

/// Lines of a name and a number.
pub(super) fn table(text: &str) -> HashMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`, a line per device.
fn block_io(text: &str) -> wire::BlkioStats {
    let mut stats = wire::BlkioStats::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (op, list) = match key {
                "rbytes" => ("Read", &mut stats.io_service_bytes_recursive),
                "wbytes" => ("Write", &mut stats.io_service_bytes_recursive),
                "dbytes" => ("Discard", &mut stats.io_service_bytes_recursive),
                "rios" => ("Read", &mut stats.io_serviced_recursive),
                "wios" => ("Write", &mut stats.io_serviced_recursive),
                "dios" => ("Discard", &mut stats.io_serviced_recursive),
                _ => continue,
            };
            let value = value.parse().unwrap_or(0);
            list.push(wire::BlkioStatsEntry { major, minor, op: op.into(), value, ..Default::default() });
        }
    }
    stats
}

/// By page size, such as `2MB`.
fn huge_pages(dir: &Path) -> HashMap<String, wire::HugetlbStats> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(".current")?;
        (!size.contains('.')).then(|| size.to_owned())
    });
    let of_size = |size: String| {
        let stats = wire::HugetlbStats {
            usage: number(&read(dir, &format!("hugetlb.{size}.current"))),
            failcnt: table(&read(dir, &format!("hugetlb.{size}.events"))).get("max").copied().unwrap_or(0),
            ..Default::default()
        };
        (size, stats)
    };
    sizes.map(of_size).collect()
}

/// `/proc/net/dev`, without the loopback.
fn network(text: &str) -> Vec<wire::NetworkStats> {
    let lines = text.lines().skip(2).filter_map(|line| line.split_once(':'));
    lines
        .map(|(name, numbers)| (name.trim(), numbers))
        .filter(|(name, _)| *name != "lo")
        .map(|(name, numbers)| {
            let numbers: Vec<u64> =
                numbers.split_whitespace().map(|number| number.parse().unwrap_or(0)).collect();
            let at = |place: usize| numbers.get(place).copied().unwrap_or(0);
            wire::NetworkStats {
                name: name.into(),
                rx_bytes: at(0),
                rx_packets: at(1),
                rx_errors: at(2),
                rx_dropped: at(3),
                tx_bytes: at(8),
                tx_packets: at(9),
                tx_errors: at(10),
                tx_dropped: at(11),
                ..Default::default()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_reaches_its_figure() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("cgroup.procs", "1\n2\n"),
            (
                "cpu.stat",
                "usage_usec 7\nuser_usec 3\nsystem_usec 4\nnr_periods 5\nnr_throttled 6\nthrottled_usec 8\nnr_bursts 9\n",
            ),
            ("memory.stat", "anon 11\nfile 12\nkernel 13\n"),
            ("memory.current", "21\n"),
            ("memory.peak", "22\n"),
            ("memory.max", "max\n"),
            ("memory.events", "low 0\nmax 31\noom_kill 32\n"),
            ("memory.swap.current", "41\n"),
            ("memory.swap.max", "42\n"),
            ("pids.current", "2\n"),
            ("pids.max", "max\n"),
            ("io.stat", "254:16 rbytes=51 wbytes=52 rios=53 wios=54 dbytes=0 dios=0\nbroken\n"),
            ("hugetlb.2MB.current", "61\n"),
            ("hugetlb.2MB.events", "max 62\n"),
            ("hugetlb.2MB.rsvd.current", "0\n"),
        ] {
            fs::write(dir.path().join(file), text).unwrap();
        }
        let stats = of_cgroup(dir.path()).unwrap();
        let cpu = &stats.cpu_stats;
        assert_eq!((cpu.cpu_usage.total_usage, cpu.throttling_data.throttled_time), (7000, 8000));
        assert_eq!((stats.cpu_stat["nr_bursts"], stats.memory_events["oom_kill"]), (9, 32));
        let memory = &stats.memory_stats;
        assert_eq!((memory.usage.usage, memory.usage.max_usage, memory.usage.limit), (21, 22, u64::MAX));
        assert_eq!((memory.usage.failcnt, memory.swap_usage.usage, memory.swap_usage.limit), (31, 41, 42));
        assert_eq!((memory.cache, memory.stats["anon"]), (12, 11));
        assert_eq!((stats.pids_stats.current, stats.pids_stats.limit), (2, 0));
        let bytes: Vec<_> = stats
            .blkio_stats
            .io_service_bytes_recursive
            .iter()
            .map(|entry| (entry.major, entry.minor, entry.op.as_str(), entry.value))
            .collect();
        assert_eq!(bytes, [(254, 16, "Read", 51), (254, 16, "Write", 52), (254, 16, "Discard", 0)]);
        assert_eq!(stats.hugetlb_stats.len(), 1);
        assert_eq!((stats.hugetlb_stats["2MB"].usage, stats.hugetlb_stats["2MB"].failcnt), (61, 62));
        assert!(of_cgroup(&dir.path().join("gone")).is_err());
    }

    #[test]
    fn interfaces_are_read_by_their_columns() {
        let text = "Inter-|   Receive\n face |bytes\n    lo: 9 9 9 9 0 0 0 0 9 9 9 9 0 0 0 0\n\
                    eth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n";
        let found = network(text);
        assert_eq!(found.len(), 1);
        let eth0 = &found[0];
        assert_eq!((eth0.name.as_str(), eth0.rx_bytes, eth0.rx_dropped), ("eth0", 1, 4));
        assert_eq!((eth0.tx_bytes, eth0.tx_dropped), (5, 8));
    }
}

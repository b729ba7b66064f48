//! The figures of a container in the form in which runc's `events` prints them. Pure.

use containerd_shim_protos::{cgroups::metrics as v1, cgroups_v2::metrics as v2};
use protobuf::{Message, well_known_types::any::Any};
use runtime::error::{Error, Result};
use serde_json::{Map, Value, json};

/// The figures in the server's message, which is of the host's version of cgroups.
pub fn figures(message: &Any) -> Result<Value> {
    let fault = |error: protobuf::Error| Error::internal(format!("{}: {error}", message.type_url));
    match message.type_url.as_str() {
        url if url.ends_with("v1.Metrics") => {
            Ok(of_v1(&v1::Metrics::parse_from_bytes(&message.value).map_err(fault)?))
        }
        url if url.ends_with("v2.Metrics") => {
            Ok(of_v2(&v2::Metrics::parse_from_bytes(&message.value).map_err(fault)?))
        }
        url => Err(Error::internal(format!("figures of an unknown kind: {url}"))),
    }
}

fn of_v1(metrics: &v1::Metrics) -> Value {
    let (cpu, memory) = (&metrics.cpu, &metrics.memory);
    let entry = |entry: &v1::MemoryEntry| usage(entry.limit, entry.usage, Some((entry.max, entry.failcnt)));
    let (usage, throttling) = (&cpu.usage, &cpu.throttling);
    let networks = metrics.network.iter().map(|net| {
        interface(
            &net.name,
            [net.rx_bytes, net.rx_packets, net.rx_errors, net.rx_dropped],
            [net.tx_bytes, net.tx_packets, net.tx_errors, net.tx_dropped],
        )
    });
    json!({
        "cpu": {
            "usage": cpu_usage(usage.total, usage.kernel, usage.user),
            "throttling": throttled(throttling.periods, throttling.throttled_periods, throttling.throttled_time),
        },
        "cpuset": {},
        "memory": without_nothing(json!({
            "cache": memory.cache,
            "usage": entry(&memory.usage),
            "swap": entry(&memory.swap),
            "kernel": entry(&memory.kernel),
            "kernelTCP": entry(&memory.kernel_tcp),
            "raw": {
                "cache": memory.cache, "rss": memory.rss, "mapped_file": memory.mapped_file, "dirty": memory.dirty,
                "pgfault": memory.pg_fault, "pgmajfault": memory.pg_maj_fault,
                "inactive_anon": memory.inactive_anon, "active_anon": memory.active_anon,
                "inactive_file": memory.inactive_file, "active_file": memory.active_file,
                "unevictable": memory.unevictable,
            },
        })),
        "pids": without_nothing(json!({"current": metrics.pids.current, "limit": metrics.pids.limit})),
        "blkio": {},
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": networks.collect::<Vec<_>>(),
    })
}

fn of_v2(metrics: &v2::Metrics) -> Value {
    let (cpu, memory) = (&metrics.cpu, &metrics.memory);
    let networks = metrics.network.iter().map(|net| {
        interface(
            &net.name,
            [net.rx_bytes, net.rx_packets, net.rx_errors, net.rx_dropped],
            [net.tx_bytes, net.tx_packets, net.tx_errors, net.tx_dropped],
        )
    });
    json!({
        "cpu": {
            "usage": cpu_usage(nanos(cpu.usage_usec), nanos(cpu.system_usec), nanos(cpu.user_usec)),
            "throttling": throttled(cpu.nr_periods, cpu.nr_throttled, nanos(cpu.throttled_usec)),
        },
        "cpuset": {},
        "memory": without_nothing(json!({
            "cache": memory.file,
            "usage": usage(memory.usage_limit, memory.usage, None),
            "swap": usage(memory.swap_limit, memory.swap_usage, None),
            "raw": {
                "anon": memory.anon, "file": memory.file, "file_mapped": memory.file_mapped,
                "file_dirty": memory.file_dirty, "kernel_stack": memory.kernel_stack, "slab": memory.slab,
                "pgfault": memory.pgfault, "pgmajfault": memory.pgmajfault,
                "inactive_anon": memory.inactive_anon, "active_anon": memory.active_anon,
                "inactive_file": memory.inactive_file, "active_file": memory.active_file,
                "unevictable": memory.unevictable,
            },
        })),
        "pids": without_nothing(json!({"current": metrics.pids.current, "limit": metrics.pids.limit})),
        "blkio": {},
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": networks.collect::<Vec<_>>(),
    })
}

fn nanos(micros: u64) -> u64 {
    micros.saturating_mul(1000)
}

fn cpu_usage(total: u64, kernel: u64, user: u64) -> Value {
    let mut usage = without_nothing(json!({"total": total}));
    usage["kernel"] = kernel.into();
    usage["user"] = user.into();
    usage
}

fn throttled(periods: u64, throttled: u64, time: u64) -> Value {
    without_nothing(json!({"periods": periods, "throttledPeriods": throttled, "throttledTime": time}))
}

fn usage(limit: u64, usage: u64, most: Option<(u64, u64)>) -> Value {
    let (max, failures) = most.unwrap_or_default();
    let mut value = without_nothing(json!({"limit": limit, "usage": usage, "max": max}));
    value["failcnt"] = failures.into();
    value
}

fn interface(name: &str, received: [u64; 4], sent: [u64; 4]) -> Value {
    let mut all = Map::from_iter([("Name".to_owned(), json!(name))]);
    for (way, figures) in [("Rx", received), ("Tx", sent)] {
        for (what, figure) in ["Bytes", "Packets", "Errors", "Dropped"].iter().zip(figures) {
            all.insert(format!("{way}{what}"), figure.into());
        }
    }
    all.into()
}

/// Leaves out what is zero or empty, as runc does.
fn without_nothing(mut value: Value) -> Value {
    if let Some(map) = value.as_object_mut() {
        map.retain(|_, value| *value != json!(0) && *value != json!({}));
    }
    value
}

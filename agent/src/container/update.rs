//! New limits for a running container: OCI resources -> what is written to its cgroup's files, by runc's rules.
//!
//! What is not named stays. -1 is "no limit", 0 is "not named". The numbers are those of version 1 of cgroups, which the
//! OCI took over; this is where they become version 2's.

use std::{fs, io, path::Path};

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};
use ttrpc::Code;

use super::{cgroup, cpuset};
use crate::error::{Context, Error, Result};

/// The kernel's, where only a quota was ever given.
const DEFAULT_PERIOD: u64 = 100_000;

/// One value for one file.
#[derive(Debug, PartialEq)]
struct Write {
    file: String,
    value: String,
    /// That the guest's kernel has no such file makes no difference.
    optional: bool,
}

/// What is there before the update.
#[derive(Debug, Default, Clone)]
struct Now {
    /// `memory.max`; `None` without a limit.
    memory_limit: Option<i64>,
    memory_usage: i64,
    /// `cpu.max` as it reads.
    cpu_max: String,
    /// CPUs and memory nodes of the guest.
    cpus: String,
    nodes: String,
}

/// Applies `resources` to the container. What was written before a failure stays written.
pub fn update(id: &str, resources: &LinuxResources) -> Result<()> {
    let dir = cgroup::dir(id);
    for Write { file, value, optional } in plan(resources, &Now::look(&dir))? {
        match write(&dir.join(&file), &value) {
            Err(error) if optional && error.kind() == io::ErrorKind::NotFound => {
                tracing::info!(container = id, file, value, "the guest's kernel has no such limit");
            }
            other => other.context(format!("write {value:?} to {file}"))?,
        }
    }
    Ok(())
}

/// Never makes a file: where cgroups are not, an update must not look done.
fn write(path: &Path, value: &str) -> io::Result<()> {
    use io::Write as _;
    fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

impl Now {
    fn look(dir: &Path) -> Self {
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let root = Path::new(cgroup::HIERARCHY);
        Self {
            memory_limit: read(&dir.join("memory.max")).trim().parse().ok(),
            memory_usage: read(&dir.join("memory.current")).trim().parse().unwrap_or(0),
            cpu_max: read(&dir.join("cpu.max")),
            cpus: read(&root.join("cpuset.cpus.effective")),
            nodes: read(&root.join("cpuset.mems.effective")),
        }
    }
}

fn plan(resources: &LinuxResources, now: &Now) -> Result<Vec<Write>> {
    let mut plan = Vec::new();
    if let Some(memory) = resources.memory() {
        plan_memory(memory, now, &mut plan)?;
    }
    if let Some(cpu) = resources.cpu() {
        plan_cpu(cpu, now, &mut plan)?;
    }
    if let Some(limit) = resources.pids().as_ref().map(|pids| pids.limit()).filter(|limit| *limit != 0) {
        plan.push(must("pids.max", maximum(limit)));
    }
    if let Some(block_io) = resources.block_io() {
        plan_block_io(block_io, &mut plan)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let size = limit.page_size();
        if !size.ends_with('B') || !size.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(Error::invalid(format!("hugepageLimits: {size:?} is no page size such as 2MB")));
        }
        plan.push(must(&format!("hugetlb.{size}.max"), limit.limit().to_string()));
    }
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    for (file, value) in unified {
        if file.contains('/') || !file.contains('.') || file.starts_with('.') || file.starts_with("cgroup.") {
            return Err(Error::invalid(format!("unified resource {file:?} must be a controller's file")));
        }
        plan.push(must(file, value.clone()));
    }
    Ok(plan)
}

fn plan_memory(memory: &LinuxMemory, now: &Now, plan: &mut Vec<Write>) -> Result<()> {
    let limit = memory.limit().unwrap_or(0);
    let swap = memory.swap().unwrap_or(0);
    let reservation = memory.reservation().unwrap_or(0);
    if let Some(bad) = [limit, swap, reservation].into_iter().find(|value| *value < -1) {
        return Err(Error::invalid(format!("memory: {bad} is no limit; -1 is none")));
    }
    if memory.check_before_update().unwrap_or(false) && limit > 0 && limit <= now.memory_usage {
        return Err(Error::new(
            Code::FAILED_PRECONDITION,
            format!("rejecting memory limit {limit} <= usage {}", now.memory_usage),
        ));
    }
    // Without checkBeforeUpdate, a limit below what is in use makes the kernel reclaim, and kill if that is not enough.
    match (limit, swap) {
        (-1, 0) | (_, -1) => plan.push(may("memory.swap.max", "max".into())),
        (_, 0) => {}
        _ => {
            // Given: memory and swap together. Wanted: swap alone.
            let base = if limit == 0 { now.memory_limit.unwrap_or(0) } else { limit };
            if base <= 0 {
                return Err(Error::invalid("unable to set swap limit without memory limit"));
            }
            if swap < base {
                return Err(Error::invalid("memory+swap limit should be >= memory limit"));
            }
            let only = (swap - base).to_string();
            plan.push(Write { optional: only == "0", ..must("memory.swap.max", only) });
        }
    }
    for (file, value) in [("memory.max", limit), ("memory.low", reservation)] {
        if value != 0 {
            plan.push(must(file, maximum(value)));
        }
    }
    Ok(())
}

fn plan_cpu(cpu: &LinuxCpu, now: &Now, plan: &mut Vec<Write>) -> Result<()> {
    if let Some(idle) = cpu.idle() {
        plan.push(must("cpu.idle", idle.to_string()));
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares > 0) {
        plan.push(must("cpu.weight", weight(shares).to_string()));
    }
    let (quota, period) = (cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0));
    let burst = cpu.burst().map(|burst| burst.to_string());
    if quota != 0 || period != 0 {
        // Of the two, the one that is not named keeps its value.
        let mut known = now.cpu_max.split_whitespace();
        let (known_quota, known_period) = (known.next().unwrap_or("max"), known.next());
        let quota = match quota {
            0 => known_quota.to_owned(),
            quota => maximum(quota.max(-1)),
        };
        let period = match period {
            0 => known_period.and_then(|period| period.parse().ok()).unwrap_or(DEFAULT_PERIOD),
            period => period,
        };
        if burst.is_some() {
            // A burst is never above the quota, so an old one may not fit the new quota.
            plan.push(may("cpu.max.burst", "0".into()));
        }
        plan.push(must("cpu.max", format!("{quota} {period}")));
    }
    if let Some(burst) = burst {
        plan.push(must("cpu.max.burst", burst));
    }
    // Numbers that the guest does not have are the host's; without any that it has, all are meant.
    for (file, asked, present) in
        [("cpuset.cpus", cpu.cpus(), &now.cpus), ("cpuset.mems", cpu.mems(), &now.nodes)]
    {
        let Some(asked) = asked.as_deref().filter(|asked| !asked.is_empty()) else { continue };
        let value = cpuset::within(asked, present)?.unwrap_or_else(|| present.trim().to_owned());
        plan.push(must(file, value));
    }
    Ok(())
}

fn plan_block_io(block_io: &LinuxBlockIo, plan: &mut Vec<Write>) -> Result<()> {
    if let Some(weight) = block_io.weight().filter(|weight| *weight > 0) {
        if !(10..=1000).contains(&weight) {
            return Err(Error::invalid(format!("blockIO.weight: {weight} is not in 10..1000")));
        }
        let weight = u64::from(weight);
        plan.push(may("io.bfq.weight", weight.to_string()));
        plan.push(may("io.weight", (1 + (weight - 10) * 9999 / 990).to_string()));
    }
    let throttles = [
        ("throttleReadBpsDevice", block_io.throttle_read_bps_device()),
        ("throttleWriteBpsDevice", block_io.throttle_write_bps_device()),
        ("throttleReadIOPSDevice", block_io.throttle_read_iops_device()),
        ("throttleWriteIOPSDevice", block_io.throttle_write_iops_device()),
    ];
    for (name, devices) in throttles {
        if let Some(device) = devices.iter().flatten().next() {
            let (major, minor) = (device.major(), device.minor());
            return Err(Error::new(
                Code::UNIMPLEMENTED,
                format!(
                    "blockIO.{name}: {major}:{minor} is a device of the host, which the guest does not see"
                ),
            ));
        }
    }
    Ok(())
}

fn must(file: &str, value: String) -> Write {
    Write { file: file.into(), value, optional: false }
}

fn may(file: &str, value: String) -> Write {
    Write { optional: true, ..must(file, value) }
}

fn maximum(limit: i64) -> String {
    if limit < 0 { "max".into() } else { limit.to_string() }
}

/// 2..262144 -> 1..10000, as runc and the kernel's documentation have it.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(resources: serde_json::Value) -> Result<Vec<(String, String)>> {
        let now = Now {
            memory_limit: Some(1000),
            memory_usage: 600,
            cpu_max: "50000 100000\n".into(),
            cpus: "0-1\n".into(),
            nodes: "0\n".into(),
        };
        let resources = serde_json::from_value(resources).unwrap();
        Ok(plan(&resources, &now)?.into_iter().map(|write| (write.file, write.value)).collect())
    }

    #[test]
    fn resources_become_version_2s_files() {
        for (resources, files) in [
            (r#"{}"#, vec![]),
            (r#"{"memory":{"limit":0,"swap":0,"reservation":0}}"#, vec![]),
            (r#"{"memory":{"limit":500}}"#, vec![("memory.max", "500")]),
            (r#"{"memory":{"limit":-1}}"#, vec![("memory.swap.max", "max"), ("memory.max", "max")]),
            (
                r#"{"memory":{"limit":500,"swap":-1}}"#,
                vec![("memory.swap.max", "max"), ("memory.max", "500")],
            ),
            (
                r#"{"memory":{"limit":500,"swap":800}}"#,
                vec![("memory.swap.max", "300"), ("memory.max", "500")],
            ),
            (r#"{"memory":{"limit":500,"swap":500}}"#, vec![("memory.swap.max", "0"), ("memory.max", "500")]),
            (r#"{"memory":{"swap":1500}}"#, vec![("memory.swap.max", "500")]),
            (r#"{"memory":{"reservation":7}}"#, vec![("memory.low", "7")]),
            (r#"{"cpu":{"shares":1024}}"#, vec![("cpu.weight", "39")]),
            (r#"{"cpu":{"shares":2}}"#, vec![("cpu.weight", "1")]),
            (r#"{"cpu":{"quota":20000,"period":50000}}"#, vec![("cpu.max", "20000 50000")]),
            (r#"{"cpu":{"quota":20000}}"#, vec![("cpu.max", "20000 100000")]),
            (r#"{"cpu":{"period":50000}}"#, vec![("cpu.max", "50000 50000")]),
            (r#"{"cpu":{"quota":-1}}"#, vec![("cpu.max", "max 100000")]),
            (r#"{"cpu":{"burst":5000}}"#, vec![("cpu.max.burst", "5000")]),
            (
                r#"{"cpu":{"quota":9000,"burst":5000}}"#,
                vec![("cpu.max.burst", "0"), ("cpu.max", "9000 100000"), ("cpu.max.burst", "5000")],
            ),
            (r#"{"cpu":{"idle":1}}"#, vec![("cpu.idle", "1")]),
            (r#"{"cpu":{"cpus":"1-7","mems":"0"}}"#, vec![("cpuset.cpus", "1"), ("cpuset.mems", "0")]),
            (r#"{"cpu":{"cpus":"5"}}"#, vec![("cpuset.cpus", "0-1")]),
            (r#"{"pids":{"limit":-1}}"#, vec![("pids.max", "max")]),
            (r#"{"pids":{"limit":9}}"#, vec![("pids.max", "9")]),
            (r#"{"blockIO":{"weight":10}}"#, vec![("io.bfq.weight", "10"), ("io.weight", "1")]),
            (r#"{"hugepageLimits":[{"pageSize":"2MB","limit":5}]}"#, vec![("hugetlb.2MB.max", "5")]),
            (
                r#"{"unified":{"memory.high":"5","cpu.idle":"1"}}"#,
                vec![("cpu.idle", "1"), ("memory.high", "5")],
            ),
        ] {
            let expected: Vec<_> =
                files.into_iter().map(|(file, value)| (file.to_owned(), value.to_owned())).collect();
            assert_eq!(planned(serde_json::from_str(resources).unwrap()).unwrap(), expected, "{resources}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (resources, word) in [
            (r#"{"memory":{"limit":-2}}"#, "-2"),
            (r#"{"memory":{"limit":500,"swap":400}}"#, "should be >= memory limit"),
            (r#"{"memory":{"limit":-1,"swap":400}}"#, "without memory limit"),
            (
                r#"{"memory":{"limit":500,"checkBeforeUpdate":true}}"#,
                "rejecting memory limit 500 <= usage 600",
            ),
            (r#"{"unified":{"../x.y":"1"}}"#, "../x.y"),
            (r#"{"unified":{"cgroup.procs":"1"}}"#, "cgroup.procs"),
            (r#"{"hugepageLimits":[{"pageSize":"../B","limit":5}]}"#, "page size"),
            (r#"{"cpu":{"cpus":"x"}}"#, "list of CPUs"),
            (r#"{"blockIO":{"weight":5}}"#, "weight"),
            (r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":5}]}}"#, "8:0"),
        ] {
            let error = planned(serde_json::from_str(resources).unwrap()).unwrap_err();
            assert!(error.to_string().contains(word), "{resources}: {error}");
        }
    }
}

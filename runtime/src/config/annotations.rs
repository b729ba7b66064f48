//! A sandbox's annotations over the configuration, by allow-list. Pure but for a look at the host: its size, and whether
//! a file that is named is there.
//!
//! Contract: Kata's names, all below `io.katacontainers.`, and the rules of its Go runtime. What shapes the hypervisor needs
//! a pattern in `enable_annotations`, a program or a source of randomness one in its list of paths as well; what is
//! about the runtime or the agent is always allowed. A value that cannot be is refused: nothing is silently ignored.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    str::FromStr,
};

use nix::sys::sysinfo::sysinfo;
use regex::Regex;
use serde::{Deserialize, de::value};
use toml::de::DeValue;

use super::{
    AgentConfig, Config, HypervisorConfig, RuntimeConfig, hypervisor::LEAST_MEMORY_MIB, patterns, unserved,
};
use crate::error::{Context, Error, Result};

const PREFIX: &str = "io.katacontainers.";
const HYPERVISOR: &str = "config.hypervisor.";
const AGENT: &str = "config.agent.";
const RUNTIME: &str = "config.runtime.";
/// Set by runtimes themselves, for their agents.
const MARKS: &str = "pkg.oci.";

/// QEMU's own limit.
const MOST_MEMORY_SLOTS: u32 = 256;
/// As much of a value as an error repeats.
const SHOWN: usize = 100;

/// Names that differ from the key that they stand for.
const RENAMED: [(&str, &str); 6] = [
    ("blk_logical_sector_size", "block_device_logical_sector_size"),
    ("blk_physical_sector_size", "block_device_physical_sector_size"),
    ("block_device_num_queues", "num_queues"),
    ("block_device_queue_size", "queue_size"),
    ("cc_init_data", "initdata"),
    ("prefetch_files.list", "prefetch_list_path"),
];

/// What a VM can be at most.
#[derive(Debug, Clone, Copy)]
struct Host {
    cpus: u32,
    memory_mib: u64,
}

/// What became of an annotation.
#[derive(Debug, PartialEq)]
enum Outcome {
    Read,
    Ignored(&'static str),
}
use Outcome::{Ignored, Read};

impl Config {
    /// With what the annotations of a sandbox say, and a word for the log about each that is not read.
    pub fn annotated<'a>(
        self,
        annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Result<(Self, Vec<String>)> {
        let ours = annotations.into_iter();
        let ours = ours.filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, value.as_str())));
        let ours: Vec<_> = ours.filter(|(name, _)| !name.starts_with(MARKS)).collect();
        if ours.is_empty() {
            return Ok((self, Vec::new()));
        }
        self.annotated_on(Host::look(), ours)
    }

    fn annotated_on(self, host: Host, mut annotations: Vec<(&str, &str)>) -> Result<(Self, Vec<String>)> {
        // Of several faults the same is told each time, and a limit is read before what it limits.
        annotations.sort_unstable();
        let mut config = self.clone();
        let mut ignored = Vec::new();
        for (name, value) in &annotations {
            let outcome = set(&mut config, host, name, value).map_err(|why| {
                let shown: String = value.chars().take(SHOWN).collect();
                Error::invalid(format!("annotation {PREFIX}{name} is {shown:?}: {why}"))
            })?;
            if let Ignored(why) = outcome {
                ignored.push(format!("annotation {PREFIX}{name}: {why}, ignored"));
            }
        }
        let has =
            |name: &str| annotations.iter().any(|(other, _)| other.strip_prefix(HYPERVISOR) == Some(name));
        match (has("image"), has("initrd")) {
            (true, false) => config.hypervisor.initrd = PathBuf::new(),
            (false, true) => config.hypervisor.image = PathBuf::new(),
            _ => {}
        }
        let checked = config.hypervisor.check().and_then(|()| config.check_templates());
        checked.context("the configuration with the sandbox's annotations")?;
        config.template_of_its_own = config.templates_hypervisor() != self.hypervisor
            || config.agent.container_pipe_size != self.agent.container_pipe_size;
        Ok((config, ignored))
    }
}

impl Host {
    fn look() -> Self {
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32),
            memory_mib: sysinfo().map_or(0, |info| info.ram_total() >> 20),
        }
    }
}

fn set(config: &mut Config, host: Host, name: &str, value: &str) -> Result<Outcome, String> {
    if let Some(name) = name.strip_prefix(HYPERVISOR) {
        let enabled = &config.hypervisor.enable_annotations;
        if !patterns::found_by(enabled, name) {
            return Err(format!(
                "not enabled; enable_annotations below [hypervisor.qemu] in {} has no pattern for {name:?}",
                config.path.display()
            ));
        }
        return match set_hypervisor(&mut config.hypervisor, host, name, value)? {
            true => Ok(Read),
            false => unserved("hypervisor.qemu", name, value),
        };
    }
    if let Some(name) = name.strip_prefix(AGENT) {
        return match set_agent(&mut config.agent, name, value)? {
            true => Ok(Read),
            false => unserved("agent.kata", name, value),
        };
    }
    match name.strip_prefix(RUNTIME) {
        // The agent's deadline under the name of Kata's Go runtime.
        Some("create_container_timeout") => {
            config.agent.create_container_timeout = seconds(value)?;
            Ok(Read)
        }
        Some(name) => match set_runtime(&mut config.runtime, name, value)? {
            true => Ok(Read),
            false => unserved("runtime", name, value),
        },
        None if name == "config_path" => {
            Ok(Ignored("no longer read, nor is it by Kata: a RuntimeClass chooses a configuration"))
        }
        None => Ok(Ignored("nobody reads it")),
    }
}

/// False if the name is not served.
fn set_hypervisor(
    hypervisor: &mut HypervisorConfig,
    host: Host,
    name: &str,
    value: &str,
) -> Result<bool, String> {
    let h = hypervisor;
    match name {
        "path" => h.path = listed(value, "valid_hypervisor_paths", &h.valid_hypervisor_paths)?,
        "virtio_fs_daemon" => {
            h.virtio_fs_daemon =
                listed(value, "valid_virtio_fs_daemon_paths", &h.valid_virtio_fs_daemon_paths)?;
        }
        "entropy_source" => {
            h.entropy_source = listed(value, "valid_entropy_sources", &h.valid_entropy_sources)?;
        }
        "kernel" => h.kernel = file(value)?,
        "initrd" => h.initrd = file(value)?,
        "image" => h.image = file(value)?,
        "firmware" => h.firmware = file(value)?,
        "kernel_params" => h.kernel_params = format!("{} {}", h.kernel_params, value).trim().to_owned(),
        "machine_type" => h.machine_type = value.to_owned(),
        "machine_accelerators" => h.machine_accelerators = value.to_owned(),
        "cpu_features" => h.cpu_features = value.to_owned(),
        "default_vcpus" => h.default_vcpus = cpus(value, most_cpus(h, host))?,
        "default_max_vcpus" => h.default_maxvcpus = number(value, 0, most_cpus(h, host))?,
        "default_memory" => h.default_memory = memory(value, most_memory(h, host))?,
        "memory_slots" => h.memory_slots = number(value, 0, MOST_MEMORY_SLOTS)?,
        "enable_mem_prealloc" => h.enable_mem_prealloc = switch(value)?,
        "shared_fs" => h.shared_fs = word(value)?,
        "virtio_fs_cache" => h.virtio_fs_cache = word(value)?,
        "virtio_fs_extra_args" => h.virtio_fs_extra_args.extend(arguments(value)?),
        "msize_9p" => h.msize_9p = number(value, 4096, u32::MAX)?,
        "disable_vhost_net" => h.disable_vhost_net = switch(value)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn set_agent(agent: &mut AgentConfig, name: &str, value: &str) -> Result<bool, String> {
    match name {
        "kernel_modules" => {
            let modules = value.split(';').map(str::trim).filter(|module| !module.is_empty());
            agent.kernel_modules = modules.map(str::to_owned).collect();
        }
        "container_pipe_size" => agent.container_pipe_size = number(value, 0, u32::MAX)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn set_runtime(runtime: &mut RuntimeConfig, name: &str, value: &str) -> Result<bool, String> {
    match name {
        "disable_guest_seccomp" => runtime.disable_guest_seccomp = switch(value)?,
        "disable_new_netns" => runtime.disable_new_netns = switch(value)?,
        "internetworking_model" => runtime.internetworking_model = word(value)?,
        "sandbox_cgroup_only" => runtime.sandbox_cgroup_only = switch(value)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// What the configuration file may say of a key that is not served, an annotation may, too.
fn unserved(table: &str, name: &str, value: &str) -> Result<Outcome, String> {
    if name.ends_with("_hash") {
        return Err("files are not compared with hashes by this version; remove the annotation".into());
    }
    if name == "asset_hash_type" {
        return Ok(Read);
    }
    let key = RENAMED.iter().find(|(other, _)| *other == name).map_or(name, |(_, key)| key);
    let parsed = DeValue::parse(value.trim()).map(toml::Spanned::into_inner);
    let value = parsed.unwrap_or(DeValue::String(Cow::Borrowed(value)));
    match unserved::judge(&format!("{table}.{key}"), &value) {
        unserved::Verdict::Harmless => Ok(Read),
        unserved::Verdict::Unknown => Ok(Ignored("nobody reads it")),
        unserved::Verdict::Refused(_) => {
            Err("not served by this version; remove the annotation or give it its default".into())
        }
    }
}

fn most_cpus(hypervisor: &HypervisorConfig, host: Host) -> u32 {
    match hypervisor.default_maxvcpus {
        0 => host.cpus,
        limit => limit.min(host.cpus),
    }
}

fn most_memory(hypervisor: &HypervisorConfig, host: Host) -> u64 {
    match hypervisor.default_maxmemory {
        0 => host.memory_mib,
        limit => limit.min(host.memory_mib),
    }
}

fn cpus(value: &str, most: u32) -> Result<f64, String> {
    let cpus = value.trim().parse().ok().filter(|cpus| *cpus > 0.0 && *cpus <= f64::from(most));
    cpus.ok_or_else(|| format!("a number of CPUs is wanted, above 0 and at most {most}"))
}

fn number<T: FromStr + PartialOrd + std::fmt::Display>(value: &str, least: T, most: T) -> Result<T, String> {
    let number = value.trim().parse().ok().filter(|number| (&least..=&most).contains(&number));
    number.ok_or_else(|| format!("a whole number from {least} to {most} is wanted"))
}

fn seconds(value: &str) -> Result<u64, String> {
    number(value, 1, u64::from(u32::MAX)).map_err(|why| format!("{why}, of seconds"))
}

/// MiB, unless it has a unit.
fn memory(value: &str, most: u64) -> Result<u64, String> {
    let value = value.trim();
    let digits = value.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(value.len());
    let (amount, unit) = value.split_at(digits);
    let bytes: Option<u64> = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "mi" | "mib" => Some(1 << 20),
        "gi" | "gib" => Some(1 << 30),
        "m" | "mb" => Some(1_000_000),
        "g" | "gb" => Some(1_000_000_000),
        _ => None,
    };
    let amount = amount.parse::<u64>().ok();
    let memory = amount.zip(bytes).and_then(|(amount, bytes)| amount.checked_mul(bytes));
    let memory = memory.map(|bytes| bytes >> 20).filter(|mib| (LEAST_MEMORY_MIB..=most).contains(mib));
    memory.ok_or_else(|| {
        format!("MiB from {LEAST_MEMORY_MIB} to {most} are wanted, or an amount with the unit MiB or GiB")
    })
}

/// As Go reads it.
fn switch(value: &str) -> Result<bool, String> {
    match value.trim() {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        _ => Err("true or false is wanted".into()),
    }
}

/// One of few words; serde names them all.
fn word<'de, T: Deserialize<'de>>(value: &'de str) -> Result<T, String> {
    let deserializer: value::BorrowedStrDeserializer<'de, value::Error> =
        value::BorrowedStrDeserializer::new(value.trim());
    T::deserialize(deserializer).map_err(|error| error.to_string())
}

/// Kata's Go runtime has a list in JSON, its Rust runtime one with commas.
fn arguments(value: &str) -> Result<Vec<String>, String> {
    if value.trim_start().starts_with('[') {
        return serde_json::from_str(value).map_err(|error| format!("a list of texts is wanted: {error}"));
    }
    Ok(value.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect())
}

/// A path that one of the patterns in the list `key` stands for.
fn listed(value: &str, key: &str, globs: &[String]) -> Result<PathBuf, String> {
    let matches = |glob: &String| patterns::of_glob(glob).is_ok_and(|pattern: Regex| pattern.is_match(value));
    // A pattern's `*` may stand for "..".
    if !is_plain(value) || !globs.iter().any(matches) {
        return Err(format!("{key} below [hypervisor.qemu] does not list it"));
    }
    match Path::new(value).exists() {
        true => Ok(value.into()),
        false => Err("there is no such file".into()),
    }
}

fn file(value: &str) -> Result<PathBuf, String> {
    match is_plain(value) && Path::new(value).is_file() {
        true => Ok(value.into()),
        false => Err("the absolute path of a file of the host is wanted".into()),
    }
}

/// Whether it is an absolute path that goes only down.
fn is_plain(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|part| part != "." && part != "..")
}

#[cfg(test)]
mod tests;

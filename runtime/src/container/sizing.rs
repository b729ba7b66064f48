//! How large a VM is for what its containers ask. Pure.
//!
//! Kata's Go rule: the configured default is what guest and agent need, the containers' limits come on top. A VM of
//! one container is booted at its full size; nothing has to be plugged. That of a pod grows as its containers come, or is
//! booted at the size that the engine's marks name and keeps it, if `static_sandbox_resource_mgmt` says so. Memory grows in
//! few steps, for each takes one of few slots.

use oci_spec::runtime::{LinuxResources, Spec};

use crate::{
    bundle::{Bundle, Role},
    config::HypervisorConfig,
    vm::{MiB, VmSize},
};

/// vCPUs of a VM that is to grow, most of which sleep at first. Each costs start-up time and a thread.
const VCPUS_TO_GROW: u32 = 16;
/// Guest kernels take memory in blocks of this size.
const MEMORY_BLOCK: MiB = MiB(128);
/// The last slots, in which a VM takes more memory at a time than it is asked for.
const LAST_SLOTS: u32 = 3;

/// What all containers of a pod are allowed together, as containerd's CRI plugin tells it: microseconds and bytes.
pub(crate) const POD_QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
pub(crate) const POD_PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";
pub(crate) const POD_MEMORY: &str = "io.kubernetes.cri.sandbox-memory";

/// Of the CPU quota, where only the quota is named: the kernel's, in microseconds.
const DEFAULT_PERIOD: f64 = 100_000.0;

/// What containers ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Workload {
    /// CPUs, with fractions.
    pub cpus: f64,
    pub memory: MiB,
}

impl Workload {
    /// What a sandbox begins with: the limits of the one container that will be in it. A pod's containers come later,
    /// but one whose size is `fixed` has all at once.
    pub fn of_sandbox(bundle: &Bundle, fixed: bool) -> Self {
        match bundle.role {
            Role::Single => Self::of(&bundle.spec),
            Role::PodSandbox if fixed => Self::announced(bundle),
            Role::PodSandbox | Role::PodContainer { .. } => Self::default(),
        }
    }

    /// What a pod's containers will ask for together, if its engine says so.
    pub fn announced(pod: &Bundle) -> Self {
        match pod.role {
            Role::PodSandbox => Self::marked(&pod.spec),
            Role::Single | Role::PodContainer { .. } => Self::default(),
        }
    }

    /// What is no number counts for nothing.
    fn marked(spec: &Spec) -> Self {
        let mark = |key: &str| -> i64 {
            let marks = spec.annotations().as_ref();
            marks.and_then(|marks| marks.get(key)?.parse().ok()).unwrap_or(0)
        };
        let (quota, period) = (mark(POD_QUOTA), mark(POD_PERIOD));
        let cpus = if quota > 0 && period > 0 { quota as f64 / period as f64 } else { 0.0 };
        Self { cpus, memory: MiB(mark(POD_MEMORY).max(0).unsigned_abs() >> 20) }
    }

    /// The limits in a container's own spec; without limits, nothing.
    pub fn of(spec: &Spec) -> Self {
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        resources.map_or_else(Self::default, |resources| Self::default().updated(resources))
    }

    /// With new limits; what they do not name stays.
    pub fn updated(self, resources: &LinuxResources) -> Self {
        let cpu = resources.cpu().as_ref();
        let cpus = match cpu.map(|cpu| (cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0))) {
            Some((quota, period)) if quota > 0 && period > 0 => quota as f64 / period as f64,
            Some((quota, 0)) if quota > 0 => quota as f64 / DEFAULT_PERIOD,
            Some((quota, _)) if quota < 0 => 0.0,
            _ => self.cpus,
        };
        let memory = match resources.memory().as_ref().and_then(|memory| memory.limit()) {
            None | Some(0) => self.memory,
            Some(limit) if (0..i64::MAX / 2).contains(&limit) => MiB(limit.unsigned_abs() >> 20),
            // A limit beyond what any host has means "none" to the engines that send it.
            Some(_) => MiB(0),
        };
        Self { cpus, memory }
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self { cpus: self.cpus + other.cpus, memory: MiB(self.memory.0 + other.memory.0) }
    }

    /// The larger of both, in each respect.
    pub fn or_more(self, other: Self) -> Self {
        Self { cpus: self.cpus.max(other.cpus), memory: self.memory.max(other.memory) }
    }
}

/// The size of a VM for `workload` on a host with `host_cpus`.
pub(crate) fn vm_size(config: &HypervisorConfig, workload: Workload, host_cpus: u32) -> VmSize {
    let limit = match config.default_maxvcpus {
        0 => host_cpus,
        limit => limit.min(host_cpus),
    }
    .max(1);
    let default = match config.default_vcpus {
        negative if negative < 0.0 => f64::from(host_cpus),
        0.0 => 1.0,
        cpus => cpus,
    };
    let vcpus = ((default + workload.cpus).ceil() as u32).clamp(1, limit);
    let mut memory = config.default_memory + workload.memory.0;
    if config.default_maxmemory > 0 {
        memory = memory.min(config.default_maxmemory.max(config.default_memory));
    }
    VmSize {
        vcpus,
        max_vcpus: vcpus,
        memory: MiB(memory),
        max_memory: MiB(memory),
        memory_slots: config.memory_slots,
    }
}

/// The size of a template on that host: what every VM has at least, with room for its clones to grow.
pub(crate) fn template_size(config: &HypervisorConfig, host_cpus: u32, host_memory: MiB) -> VmSize {
    with_room(vm_size(config, Workload::default(), host_cpus), config, host_cpus, host_memory)
}

/// A VM that begins at that size and can grow to what that host has.
pub(crate) fn with_room(size: VmSize, config: &HypervisorConfig, host_cpus: u32, host_memory: MiB) -> VmSize {
    let largest = vm_size(config, Workload { cpus: f64::from(host_cpus), memory: host_memory }, host_cpus);
    VmSize {
        max_vcpus: largest.vcpus.min(VCPUS_TO_GROW).max(size.vcpus),
        max_memory: if config.memory_slots == 0 { size.memory } else { largest.max_memory.max(size.memory) },
        ..size
    }
}

/// The memory to plug into a VM of that size so that it has at least `wanted`, as far as it has room: all of `expected`
/// at once, and in the last slots as much as was plugged since it had `begun`.
pub(crate) fn memory_step(size: VmSize, wanted: MiB, expected: MiB, begun: MiB) -> MiB {
    if wanted <= size.memory || size.memory_slots == 0 {
        return MiB(0);
    }
    let whole = |memory: u64| memory / MEMORY_BLOCK.0 * MEMORY_BLOCK.0;
    let lacking = wanted.max(expected).0 - size.memory.0;
    let plugged = if size.memory_slots <= LAST_SLOTS { size.memory.0.saturating_sub(begun.0) } else { 0 };
    let room = whole(size.max_memory.0.saturating_sub(size.memory.0));
    MiB(lacking.next_multiple_of(MEMORY_BLOCK.0).max(whole(plugged)).min(room))
}

/// The VM after it has grown to so many vCPUs, and by that memory, which takes a slot.
pub(crate) fn grown(size: VmSize, vcpus: u32, added: MiB) -> VmSize {
    let memory_slots = size.memory_slots.saturating_sub(u32::from(added.0 > 0));
    VmSize { vcpus, memory: MiB(size.memory.0 + added.0), memory_slots, ..size }
}

/// What a clone of such a template lacks to be a VM of the size `wanted`: the vCPUs in total, and memory. `None` if it
/// cannot be one.
pub(crate) fn growth(template: VmSize, wanted: VmSize) -> Option<(u32, MiB)> {
    let lacking = wanted.memory.0.checked_sub(template.memory.0)?;
    let lacking = MiB(lacking.next_multiple_of(MEMORY_BLOCK.0));
    let fits = (template.vcpus..=template.max_vcpus).contains(&wanted.vcpus)
        && template.memory.0 + lacking.0 <= template.max_memory.0;
    fits.then_some((wanted.vcpus, lacking))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(default_vcpus: f64, max: u32, cpus: f64, memory: u64) -> (u32, u64) {
        let config = HypervisorConfig { default_vcpus, default_maxvcpus: max, ..Default::default() };
        let size = vm_size(&config, Workload { cpus, memory: MiB(memory) }, 8);
        (size.vcpus, size.memory.0)
    }

    #[test]
    fn limits_come_on_top_of_the_default_and_within_the_host() {
        for (default, max, cpus, memory, expected) in [
            (1.0, 0, 0.0, 0, (1, 2048)),
            (1.0, 0, 1.0, 512, (2, 2560)),
            (0.5, 0, 0.5, 0, (1, 2048)),
            (1.0, 0, 0.1, 0, (2, 2048)),
            (1.0, 0, 100.0, 0, (8, 2048)),
            (1.0, 2, 100.0, 0, (2, 2048)),
            (-1.0, 0, 0.0, 0, (8, 2048)),
            (0.0, 0, 0.0, 0, (1, 2048)),
        ] {
            assert_eq!(size(default, max, cpus, memory), expected, "{default} {max} {cpus} {memory}");
        }
    }

    #[test]
    fn a_clone_grows_as_far_as_its_template_has_room() {
        let config = HypervisorConfig::default();
        let template = template_size(&config, 4, MiB(8192));
        assert_eq!((template.vcpus, template.max_vcpus), (1, 4));
        assert_eq!((template.memory, template.max_memory), (MiB(2048), MiB(10240)));
        let grown =
            |cpus, memory| growth(template, vm_size(&config, Workload { cpus, memory: MiB(memory) }, 4));
        assert_eq!(grown(0.0, 0), Some((1, MiB(0))));
        assert_eq!(grown(1.5, 100), Some((3, MiB(128))));
        assert_eq!(grown(0.0, 8192), Some((1, MiB(8192))));
        assert_eq!(grown(0.0, 8193), None);
        let plugged = super::grown(template, 3, MiB(128));
        assert_eq!(
            (plugged.vcpus, plugged.memory, plugged.memory_slots),
            (3, MiB(2176), config.memory_slots - 1)
        );
        assert_eq!(super::grown(template, 1, MiB(0)), template);
        let without_slots = HypervisorConfig { memory_slots: 0, ..Default::default() };
        let template = template_size(&without_slots, 4, MiB(8192));
        assert_eq!(template.max_memory, template.memory);
        // A VM that is booted for more than a growing one may have.
        let large = vm_size(&config, Workload { cpus: 20.0, memory: MiB(0) }, 32);
        let large = with_room(large, &config, 32, MiB(8192));
        assert_eq!((large.vcpus, large.max_vcpus, large.max_memory), (21, 21, MiB(10240)));
    }

    #[test]
    fn memory_grows_in_few_steps() {
        let size = |memory, memory_slots| VmSize {
            vcpus: 1,
            max_vcpus: 1,
            memory: MiB(memory),
            max_memory: MiB(10_000),
            memory_slots,
        };
        for (what, memory, slots, wanted, expected, step) in [
            ("there is enough", 2048, 9, 2048, 0, 0),
            ("there is enough for now", 2048, 9, 2048, 4096, 0),
            ("whole blocks", 2048, 9, 2049, 0, 128),
            ("what was rounded up is there", 2176, 9, 2100, 0, 0),
            ("what all will ask for", 2048, 9, 2148, 2600, 640),
            ("more than was expected", 2048, 9, 4096, 2600, 2048),
            ("no more than there is room", 2048, 9, 20_000, 0, 7936),
            ("in the fourth last slot", 3072, 4, 3100, 0, 128),
            ("in the third last, as much again", 3072, 3, 3100, 0, 1024),
            ("in the last, what is asked for", 3072, 1, 6144, 0, 3072),
            ("in the last, within the room", 9000, 1, 9100, 0, 896),
            ("no slot", 2048, 0, 4096, 0, 0),
        ] {
            let found = memory_step(size(memory, slots), MiB(wanted), MiB(expected), MiB(2048));
            assert_eq!(found, MiB(step), "{what}");
        }
    }

    #[test]
    fn a_pods_marks_are_read_or_count_for_nothing() {
        let marked = |quota: &str, period: &str, memory: &str| {
            let annotations = serde_json::json!({POD_QUOTA: quota, POD_PERIOD: period, POD_MEMORY: memory});
            let spec = serde_json::json!({"ociVersion": "1.0.2", "annotations": annotations});
            Workload::marked(&serde_json::from_value(spec).unwrap())
        };
        assert_eq!(marked("150000", "100000", "536870912"), Workload { cpus: 1.5, memory: MiB(512) });
        assert_eq!(marked("-1", "100000", "-1"), Workload::default());
        assert_eq!(marked("1000", "0", "lots"), Workload::default());
        assert_eq!(Workload::marked(&Spec::default()), Workload::default());
    }

    #[test]
    fn limits_are_read_from_the_spec() {
        let spec = |resources: &str| -> Spec {
            serde_json::from_str(&format!(r#"{{"ociVersion":"1.0.2","linux":{{"resources":{resources}}}}}"#))
                .unwrap()
        };
        let workload =
            Workload::of(&spec(r#"{"cpu":{"quota":150000,"period":100000},"memory":{"limit":268435456}}"#));
        assert_eq!(workload, Workload { cpus: 1.5, memory: MiB(256) });
        let unlimited = Workload::of(&spec(r#"{"cpu":{"quota":-1,"period":100000},"memory":{"limit":-1}}"#));
        assert_eq!(unlimited, Workload::default());
        let update = |resources: &str| workload.updated(&serde_json::from_str(resources).unwrap());
        assert_eq!(update(r#"{"memory":{"limit":536870912}}"#), Workload { cpus: 1.5, memory: MiB(512) });
        assert_eq!(update(r#"{"cpu":{"quota":50000,"period":100000}}"#).cpus, 0.5);
        assert_eq!(update(r#"{"cpu":{"quota":-1},"memory":{"limit":-1}}"#), Workload::default());
        assert_eq!(update(r#"{"pids":{"limit":5}}"#), workload);
    }
}

//! From configuration and bundle to the description of a VM. Pure but for one look at the host.

use std::{fs::File, path::PathBuf, sync::Arc};

use nix::sys::sysinfo::sysinfo;
use oci_spec::runtime::LinuxNamespaceType;
use protocols::guest;

use crate::{
    bundle::{Bundle, Role},
    config::{AgentChannel, Config},
    container::sizing::{Workload, vm_size, with_room},
    ids::SandboxId,
    share_fs::ShareFs,
    vm::{
        Boot, Channel, Device, GuestRootfs, Journal, MemoryKind, MiB, NetworkNamespace, Origin, VmSize,
        VmSpec, vhost_vsock,
    },
};

/// What the host offers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Host {
    pub cpus: u32,
    pub memory: MiB,
    pub vhost_vsock: fn() -> bool,
}

impl Host {
    pub fn look() -> Self {
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32),
            memory: sysinfo().map_or(MiB(0), |info| MiB(info.ram_total() >> 20)),
            vhost_vsock: vhost_vsock_works,
        }
    }
}

/// Only where it is wanted: the look makes and ends a thread of the kernel's.
fn vhost_vsock_works() -> bool {
    vhost_vsock::is_usable()
        .inspect_err(|error| tracing::debug!(%error, "the agent is reached by its serial port"))
        .is_ok()
}

/// Where the hypervisor process is to run: in the network namespace that the engine made for the sandbox.
pub(super) fn network_namespace(config: &Config, bundle: &Bundle) -> NetworkNamespace {
    match bundle.namespace(LinuxNamespaceType::Network) {
        Some(Some(path)) => NetworkNamespace::Path(path),
        Some(None) if !config.runtime.disable_new_netns => NetworkNamespace::New,
        _ => NetworkNamespace::Host,
    }
}

/// The name a container of this bundle would see without a VM, at most the 64 bytes that the kernel takes.
pub(super) fn hostname(bundle: &Bundle) -> String {
    let hosts_own = || nix::sys::utsname::uname().map(|host| host.nodename().to_string_lossy().into_owned());
    let name = bundle.spec.hostname().clone().filter(|name| !name.is_empty());
    let name = name.or_else(|| hosts_own().ok()).unwrap_or_default();
    name.char_indices().take_while(|(at, c)| at + c.len_utf8() <= 64).map(|(_, c)| c).collect()
}

pub(super) fn vm_spec(
    config: &Config,
    id: &SandboxId,
    bundle: &Bundle,
    share: &ShareFs,
    vm_dir: PathBuf,
    host: Host,
) -> VmSpec {
    let hypervisor = &config.hypervisor;
    let channel = channel(hypervisor.agent_channel, host);
    let memory = match channel {
        Channel::VhostUserVsock => MemoryKind::Shared,
        Channel::Vsock | Channel::Serial => share.memory(),
    };
    let is_static = config.runtime.static_sandbox_resource_mgmt;
    let mut size = vm_size(hypervisor, Workload::of_sandbox(bundle, is_static), host.cpus);
    if bundle.role == Role::PodSandbox && !is_static {
        size = with_room(size, hypervisor, host.cpus, host.memory);
    }
    let rootfs = if hypervisor.image.as_os_str().is_empty() {
        GuestRootfs::Initrd(hypervisor.initrd.clone())
    } else {
        GuestRootfs::Image { path: hypervisor.image.clone(), fstype: hypervisor.rootfs_type.clone() }
    };
    VmSpec {
        id: id.clone(),
        dir: vm_dir,
        size,
        boot: Boot::Kernel {
            kernel: hypervisor.kernel.clone(),
            rootfs,
            parameters: kernel_parameters(config, channel),
        },
        origin: Origin::Boot,
        added: Vec::new(),
        nics: Vec::new(),
        memory,
        devices: vec![
            Device::Console,
            Device::Rng { source: hypervisor.entropy_source.clone() },
            share.device(),
        ],
        channel,
        network: network_namespace(config, bundle),
        journal: Journal::default(),
    }
}

/// The VM to be saved so that one like `wanted` can be its clone. `dir` takes its sockets.
pub(super) fn template_spec(
    config: &Config,
    wanted: &VmSpec,
    size: VmSize,
    dir: PathBuf,
    memory: File,
) -> VmSpec {
    let mut spec =
        clone_spec(config, wanted, size, MemoryKind::File { file: Arc::new(memory), shared: true });
    spec.origin = Origin::Template;
    spec.channel = Channel::Serial;
    spec.network = NetworkNamespace::New;
    // What another VM says is not the sandbox's.
    spec.journal = Journal::default();
    spec.added.clear();
    spec.nics.clear();
    for device in &mut spec.devices {
        if let Device::NineP { path, .. } = device {
            // Nobody mounts it.
            path.clone_from(&dir);
        }
    }
    spec.dir = dir;
    spec
}

/// `wanted` as a clone. What its template cannot have is added: a vhost-user device cannot be saved.
pub(super) fn clone_spec(config: &Config, wanted: &VmSpec, size: VmSize, memory: MemoryKind) -> VmSpec {
    let mut spec = wanted.clone();
    let Boot::Kernel { parameters, .. } = &mut spec.boot;
    *parameters = kernel_parameters(config, Channel::Serial);
    let (added, devices) =
        spec.devices.into_iter().partition(|device| matches!(device, Device::VirtioFs { .. }));
    VmSpec { origin: Origin::Clone, size, memory, devices, added, ..spec }
}

fn channel(wanted: AgentChannel, host: Host) -> Channel {
    match wanted {
        AgentChannel::Auto if (host.vhost_vsock)() => Channel::Vsock,
        AgentChannel::Auto | AgentChannel::Serial => Channel::Serial,
        AgentChannel::Vsock => Channel::Vsock,
        AgentChannel::VhostUserVsock => Channel::VhostUserVsock,
    }
}

/// The agent's words, then the user's, which win.
fn kernel_parameters(config: &Config, channel: Channel) -> Vec<String> {
    let agent = &config.agent;
    let mut parameters = vec!["cgroup_no_v1=all".to_owned()];
    if channel == Channel::Serial {
        parameters.push(format!("{}=serial://{}", guest::PARAM_SERVER_ADDR, guest::SERIAL_PORT_NAME));
    }
    let level = if agent.enable_debug { "debug" } else { agent.log_level.as_str() };
    if level != "info" {
        parameters.push(format!("{}={level}", guest::PARAM_LOG_LEVEL));
    }
    if agent.container_pipe_size > 0 {
        parameters.push(format!("{}={}", guest::PARAM_PIPE_SIZE, agent.container_pipe_size));
    }
    if agent.debug_console_enabled {
        parameters.push(guest::PARAM_DEBUG_CONSOLE.to_owned());
        parameters.push(format!("{}={}", guest::PARAM_DEBUG_CONSOLE_PORT, guest::DEBUG_CONSOLE_PORT));
    }
    parameters.extend(config.hypervisor.kernel_params.split_whitespace().map(str::to_owned));
    parameters
}

//! `[hypervisor.qemu]`: the VM and its devices. Key names and defaults are Kata's; ours are marked.

use std::path::PathBuf;

use regex::Regex;
use serde::Deserialize;

use super::{factory::FactoryTable, patterns};
use crate::error::{Error, Result};

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct HypervisorConfig {
    /// The hypervisor program.
    pub path: PathBuf,
    pub valid_hypervisor_paths: Vec<String>,
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    /// A disk image instead of `initrd`.
    pub image: PathBuf,
    pub rootfs_type: String,
    pub machine_type: String,
    /// Appended to `-machine`.
    pub machine_accelerators: String,
    /// Ours: which accelerator runs the guest.
    pub accelerator: Accelerator,
    /// Appended to the CPU model.
    pub cpu_features: String,
    pub firmware: PathBuf,
    /// Appended to the guest's kernel command line.
    pub kernel_params: String,
    pub default_vcpus: f64,
    pub default_maxvcpus: u32,
    /// MiB.
    pub default_memory: u64,
    /// MiB; 0 is all of the host's.
    pub default_maxmemory: u64,
    pub memory_slots: u32,
    pub enable_mem_prealloc: bool,
    pub shared_fs: SharedFs,
    pub virtio_fs_daemon: PathBuf,
    pub valid_virtio_fs_daemon_paths: Vec<String>,
    pub virtio_fs_queue_size: u32,
    pub virtio_fs_extra_args: Vec<String>,
    pub virtio_fs_cache: VirtioFsCache,
    pub msize_9p: u32,
    /// Whether QEMU carries packets even where the host's kernel can.
    pub disable_vhost_net: bool,
    pub entropy_source: PathBuf,
    pub valid_entropy_sources: Vec<String>,
    #[serde(alias = "seccomp_sandbox")]
    pub seccompsandbox: String,
    pub enable_debug: bool,
    /// Regular expressions of the hypervisor annotations that a pod may set.
    pub enable_annotations: Vec<String>,
    /// Ours: what carries the connection to the agent.
    pub agent_channel: AgentChannel,
    /// Ours: the program behind `agent_channel = "vhost-user-vsock"`.
    pub vhost_user_vsock_daemon: PathBuf,
    /// As it stands in the file; what counts is [`Config::factory`](super::Config::factory).
    pub factory: FactoryTable,
}

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// KVM if it truly runs guests, else emulation.
    Auto,
    Kvm,
    /// Emulation: slow, and no security boundary by QEMU's own promise.
    Tcg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum SharedFs {
    #[serde(rename = "virtio-fs")]
    VirtioFs,
    #[serde(rename = "virtio-9p")]
    Virtio9p,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VirtioFsCache {
    #[serde(alias = "none")]
    Never,
    Auto,
    Always,
    Metadata,
}

impl VirtioFsCache {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Metadata => "metadata",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentChannel {
    /// The host kernel's vsock if it has one, else the serial port.
    Auto,
    Vsock,
    VhostUserVsock,
    Serial,
}

impl Default for HypervisorConfig {
    fn default() -> Self {
        Self {
            path: "/usr/bin/qemu-system-x86_64".into(),
            valid_hypervisor_paths: Vec::new(),
            kernel: "/usr/share/kata-containers/vmlinux.container".into(),
            initrd: PathBuf::new(),
            image: PathBuf::new(),
            rootfs_type: "ext4".into(),
            machine_type: "q35".into(),
            machine_accelerators: String::new(),
            accelerator: Accelerator::Auto,
            cpu_features: "pmu=off".into(),
            firmware: PathBuf::new(),
            kernel_params: String::new(),
            default_vcpus: 1.0,
            default_maxvcpus: 0,
            default_memory: 2048,
            default_maxmemory: 0,
            memory_slots: 24,
            enable_mem_prealloc: false,
            shared_fs: SharedFs::VirtioFs,
            virtio_fs_daemon: "/usr/libexec/virtiofsd".into(),
            valid_virtio_fs_daemon_paths: Vec::new(),
            virtio_fs_queue_size: 1024,
            virtio_fs_extra_args: Vec::new(),
            virtio_fs_cache: VirtioFsCache::Auto,
            msize_9p: 512_000,
            disable_vhost_net: false,
            entropy_source: "/dev/urandom".into(),
            valid_entropy_sources: Vec::new(),
            seccompsandbox: String::new(),
            enable_debug: false,
            enable_annotations: Vec::new(),
            agent_channel: AgentChannel::Auto,
            vhost_user_vsock_daemon: "/usr/libexec/vhost-device-vsock".into(),
            factory: FactoryTable::default(),
        }
    }
}

/// The least memory with which a guest of ours boots.
pub(super) const LEAST_MEMORY_MIB: u64 = 64;

impl HypervisorConfig {
    /// Refuses values with which no VM can start, naming key and remedy.
    pub(super) fn check(&self) -> Result<()> {
        let key = |name: &str, fault: String| Err(Error::invalid(format!("hypervisor.qemu.{name}: {fault}")));
        for (name, path) in [("path", &self.path), ("kernel", &self.kernel)] {
            if !path.is_file() {
                return key(
                    name,
                    format!("{} is not a file; install it or set another path", path.display()),
                );
            }
        }
        match (self.initrd.as_os_str().is_empty(), self.image.as_os_str().is_empty()) {
            (true, true) => {
                return key("initrd", "the guest needs an initrd (or an image): set one of them".into());
            }
            (false, false) => return key("initrd", "initrd and image exclude each other: remove one".into()),
            _ => {}
        }
        for (name, path) in [("initrd", &self.initrd), ("image", &self.image), ("firmware", &self.firmware)] {
            if !path.as_os_str().is_empty() && !path.is_file() {
                return key(name, format!("{} is not a file", path.display()));
            }
        }
        if self.shared_fs == SharedFs::VirtioFs && !self.virtio_fs_daemon.is_file() {
            let path = self.virtio_fs_daemon.display();
            return key(
                "virtio_fs_daemon",
                format!("{path} is not a file; install virtiofsd or set shared_fs = \"virtio-9p\""),
            );
        }
        if !self.default_vcpus.is_finite() {
            return key("default_vcpus", format!("{} is not a number of CPUs", self.default_vcpus));
        }
        if self.default_memory < LEAST_MEMORY_MIB {
            return key(
                "default_memory",
                format!("{} MiB is too little, the least is {LEAST_MEMORY_MIB}", self.default_memory),
            );
        }
        if !self.virtio_fs_queue_size.is_power_of_two() || !(2..=1024).contains(&self.virtio_fs_queue_size) {
            return key(
                "virtio_fs_queue_size",
                format!("{} is not a power of two in 2..1024", self.virtio_fs_queue_size),
            );
        }
        if self.msize_9p < 4096 {
            return key("msize_9p", format!("{} is below 4096", self.msize_9p));
        }
        self.check_patterns()
    }

    fn check_patterns(&self) -> Result<()> {
        let globs = [
            ("valid_hypervisor_paths", &self.valid_hypervisor_paths),
            ("valid_virtio_fs_daemon_paths", &self.valid_virtio_fs_daemon_paths),
            ("valid_entropy_sources", &self.valid_entropy_sources),
        ];
        let globs = globs.into_iter().flat_map(|(name, list)| {
            list.iter().map(move |glob| (name, glob, patterns::of_glob(glob).map(drop)))
        });
        let names = self.enable_annotations.iter();
        let names = names.map(|name| ("enable_annotations", name, Regex::new(name).map(drop)));
        for (name, pattern, compiled) in globs.chain(names) {
            compiled.map_err(|error| {
                Error::invalid(format!("hypervisor.qemu.{name}: {pattern:?} is no pattern: {error}"))
            })?;
        }
        Ok(())
    }
}

//! Plain description of a VM and of one device: the same for cold and hot plug. No handles, no decisions.

use std::{fs::File, os::fd::OwnedFd, path::PathBuf, sync::Arc};

use crate::{ids::SandboxId, journal::Journal};

/// Memory in MiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MiB(pub u64);

impl MiB {
    pub const fn bytes(self) -> u64 {
        self.0 << 20
    }
}

/// Everything a backend needs to boot one VM.
#[derive(Debug, Clone)]
pub struct VmSpec {
    pub id: SandboxId,
    /// The VM's own directory on the host, which exists and is removed by its maker; sockets go here.
    pub dir: PathBuf,
    pub size: VmSize,
    pub boot: Boot,
    pub origin: Origin,
    pub memory: MemoryKind,
    pub devices: Vec<Device>,
    /// What a clone has beyond its template. The guest does not look for it by itself.
    pub added: Vec<Device>,
    /// Its network cards. A template has none.
    pub nics: Vec<Nic>,
    pub channel: Channel,
    pub network: NetworkNamespace,
    /// Takes what is heard of it.
    pub journal: Journal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmSize {
    /// vCPUs at boot.
    pub vcpus: u32,
    /// Ceiling for hot plug; equal to `vcpus` when nothing will be plugged.
    pub max_vcpus: u32,
    /// Memory at boot.
    pub memory: MiB,
    /// Ceiling for hot plug; equal to `memory` when nothing will be plugged.
    pub max_memory: MiB,
    /// Hot-plug slots for memory.
    pub memory_slots: u32,
}

/// Where a VM comes from. A template and its clones have the same [`VmSpec`], but for `added`, paths and channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Its kernel is booted.
    Boot,
    /// Its kernel is booted, and it is saved later: the agent is on a serial port whatever the channel.
    Template,
    /// It waits for [`Vm::restore`](super::Vm::restore).
    Clone,
}

/// Where guest memory lives on the host.
#[derive(Debug, Clone)]
pub enum MemoryKind {
    /// Anonymous, private to the hypervisor process.
    Private,
    /// Shared, so that vhost-user devices can map it.
    Shared,
    /// This file, of the memory's size.
    File {
        file: Arc<File>,
        /// Whether what the guest writes gets into the file.
        shared: bool,
    },
}

/// What the VM starts from.
#[derive(Debug, Clone)]
pub enum Boot {
    Kernel {
        kernel: PathBuf,
        rootfs: GuestRootfs,
        /// Appended to the backend's own parameters; later words win in the kernel.
        parameters: Vec<String>,
    },
}

/// The guest's own root file system.
#[derive(Debug, Clone)]
pub enum GuestRootfs {
    Initrd(PathBuf),
    /// A disk image whose first partition holds a file system of this type.
    Image {
        path: PathBuf,
        fstype: String,
    },
}

/// A device of the VM. Backends describe each exactly once, whether it is there at boot or plugged later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// Entropy from a host file.
    Rng { source: PathBuf },
    /// The guest's console.
    Console,
    /// A directory served by a vhost-user daemon that listens on `socket`.
    VirtioFs { tag: String, socket: PathBuf, queue_size: u32 },
    /// A directory served by the hypervisor itself over 9p.
    NineP { tag: String, path: PathBuf },
}

/// How many devices a VM takes while it runs; a clone also what its template has not.
pub const PORTS: usize = 31;

/// A network card, whose cable ends in a tap device.
#[derive(Debug, Clone)]
pub struct Nic {
    /// Which of the VM's it is; no number is used twice.
    pub number: usize,
    pub mac: [u8; 6],
    /// The tap's descriptors, one for each queue.
    pub queues: Arc<[OwnedFd]>,
}

/// A disk of the host's that the guest is given while it runs.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Which of the VM's it is; no number is used twice.
    pub number: usize,
    /// The block device, open.
    pub device: Arc<OwnedFd>,
    pub read_only: bool,
}

/// How bytes reach the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// The host kernel's vhost-vsock; the backend picks and holds a free CID.
    Vsock,
    /// A vhost-user vsock device with a helper process; needs [`MemoryKind::Shared`].
    VhostUserVsock,
    /// One virtio-serial port that carries multiplexed streams.
    Serial,
}

/// The network namespace in which the hypervisor process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkNamespace {
    /// That of the caller.
    Host,
    /// A fresh one that lives as long as the process.
    New,
    /// An existing one.
    Path(PathBuf),
}

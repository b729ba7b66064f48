//! The seam between the engine and a hypervisor: a backend boots a [`VmSpec`] into a [`Vm`].

mod spec;
pub mod vhost_vsock;

use std::{fs::File, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use tokio::sync::watch;

pub use crate::agent::AgentAddr;
pub use crate::journal::Journal;
use crate::{error::Result, ledger::Ledger};
pub use protocols::guest::SERIAL_PORT_NAME;

pub use spec::{
    Boot, Channel, Device, Disk, GuestRootfs, MemoryKind, MiB, NetworkNamespace, Nic, Origin, PORTS, VmSize,
    VmSpec,
};

/// A hypervisor backend. Object-safe: the engine never knows which one it has.
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// Starts a VM. Returns when the guest is about to run; the agent may still be booting. Whatever is made on the
    /// host is claimed in `ledger` first, and a failed boot leaves its claims there for the caller's release walk.
    ///
    /// A clone is not run but waits for [`Vm::restore`].
    async fn boot(&self, spec: VmSpec, ledger: &Ledger) -> Result<Arc<dyn Vm>>;

    /// Everything of this backend and `spec` that shapes a saved VM: what was saved under one fingerprint must not be
    /// restored under another. `None` if VMs cannot be saved.
    async fn fingerprint(&self, spec: &VmSpec) -> Result<Option<String>>;
}

/// A running VM.
#[async_trait]
pub trait Vm: Send + Sync {
    /// The hypervisor process: what containerd reports as the task's pid, and whose `/proc/<pid>/ns/net` is the
    /// sandbox's network namespace.
    fn pid(&self) -> u32;

    /// Where the agent will answer.
    fn agent_address(&self) -> AgentAddr;

    /// Becomes `Some` when the VM has ended, for whatever reason; stays so.
    fn exited(&self) -> watch::Receiver<Option<VmExit>>;

    /// The socket behind the serial port of a template or clone, on which it is told what it is.
    fn template_port(&self) -> Option<PathBuf>;

    /// Stops the guest for good and writes the state of its devices to `state`; its memory is in the file of
    /// [`VmSpec::memory`].
    async fn save(&self, state: File) -> Result<()>;

    /// Loads the state that [`Self::save`] wrote and lets the guest go on.
    async fn restore(&self, state: File) -> Result<()>;

    /// Lets the guest stand still. What is sent to it waits.
    async fn pause(&self) -> Result<()>;

    /// Lets it go on.
    async fn resume(&self) -> Result<()>;

    /// Gives the running guest more memory, a multiple of its block size; returns when the guest has it.
    async fn add_memory(&self, memory: MiB) -> Result<()>;

    /// Gives the running guest a network card. The guest may have to be told to look.
    async fn add_network(&self, nic: Nic) -> Result<()>;

    /// Takes a network card away, and gives its taps up. On an error the guest may have it still.
    async fn remove_network(&self, number: usize) -> Result<()>;

    /// Puts the cable of a network card in, or takes it out.
    async fn connect_network(&self, number: usize, connected: bool) -> Result<()>;

    /// Gives the running guest a disk; where on its PCI bus the guest finds it: slots with slashes between them. The guest may
    /// have to be told to look.
    async fn add_disk(&self, disk: Disk) -> Result<String>;

    /// Takes a disk away. On an error the guest may have it still.
    async fn remove_disk(&self, number: usize) -> Result<()>;

    /// Ends the VM and its helper processes; orderly if it answers, by force within a bounded time if not.
    /// Idempotent.
    async fn stop(&self) -> Result<()>;
}

/// How a VM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmExit {
    /// For people: exit status or signal, and the last lines the hypervisor printed if they say why.
    pub reason: String,
    /// Whether the host had too little memory for it.
    pub wanted_memory: bool,
}

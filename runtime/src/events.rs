//! What happened, told once and in order. The receiver knows who wants to hear it.

use std::path::PathBuf;

use tokio::sync::mpsc;

use crate::{process::Exit, stdio::Stdio, storage::RootfsMount};

pub type Sender = mpsc::UnboundedSender<Event>;

/// In the order of a container's life: created < started < exited < deleted; an exec's exit comes before its
/// container's. `pid` is the hypervisor's, but for an exec.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Created {
        container: String,
        bundle: PathBuf,
        rootfs: Vec<RootfsMount>,
        stdio: Stdio,
        pid: u32,
    },
    Started {
        container: String,
        pid: u32,
    },
    ExecAdded {
        container: String,
        exec: String,
    },
    ExecStarted {
        container: String,
        exec: String,
        pid: u32,
    },
    /// `process` is the exec's id, or the container's for its init.
    Exited {
        container: String,
        process: String,
        pid: u32,
        exit: Exit,
    },
    /// A process was killed for want of memory. Comes before the exit of that process.
    OutOfMemory {
        container: String,
    },
    Paused {
        container: String,
    },
    Resumed {
        container: String,
    },
    Deleted {
        container: String,
        pid: u32,
        exit: Exit,
    },
}

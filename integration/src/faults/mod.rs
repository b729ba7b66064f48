//! What dies, fails or falls silent at each step of a container's life, and what is left afterwards, which is nothing.
//!
//! A run is one life of a container in a folder of its own, with one fault at one point (see `runtime::fault`). The
//! [`matrix`] has a run for each point that a life passes, and each kind of fault.

pub mod fake;
pub(crate) mod host;
mod life;
pub mod matrix;
pub mod place;
pub(crate) mod plan;
pub mod real;

use std::fmt;

use nix::libc;

/// What goes wrong at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    ShimKilled,
    QemuKilled,
    QemuEnded,
    /// The guest with it: nothing answers any more.
    QemuStopped,
    ShareKilled,
    VsockKilled,
    NoSpace,
    NoFiles,
    NoMemory,
    AgentHangs,
    AgentRefuses,
    AgentBabbles,
}

impl Fault {
    pub const ALL: [Self; 12] = [
        Self::ShimKilled,
        Self::QemuKilled,
        Self::QemuEnded,
        Self::QemuStopped,
        Self::ShareKilled,
        Self::VsockKilled,
        Self::NoSpace,
        Self::NoFiles,
        Self::NoMemory,
        Self::AgentHangs,
        Self::AgentRefuses,
        Self::AgentBabbles,
    ];

    /// As `runtime::fault::plan` has it.
    fn action(self) -> String {
        match self {
            Self::ShimKilled => "die".into(),
            Self::QemuKilled => format!("signal qemu {}", libc::SIGKILL),
            Self::QemuEnded => format!("signal qemu {}", libc::SIGTERM),
            Self::QemuStopped => format!("signal qemu {}", libc::SIGSTOP),
            Self::VsockKilled => format!("signal vhost-device-vsock {}", libc::SIGKILL),
            Self::ShareKilled => format!("signal virtiofsd {}", libc::SIGKILL),
            Self::NoSpace => format!("errno {}", libc::ENOSPC),
            Self::NoFiles => format!("errno {}", libc::EMFILE),
            Self::NoMemory => format!("errno {}", libc::ENOMEM),
            Self::AgentHangs => "hang".into(),
            Self::AgentRefuses => "error".into(),
            Self::AgentBabbles => "garbage".into(),
        }
    }

    /// Whether the host fails.
    fn is_the_hosts(self) -> bool {
        matches!(self, Self::NoSpace | Self::NoFiles | Self::NoMemory)
    }

    /// Whether it is the agent that answers wrongly.
    fn is_the_agents(self) -> bool {
        matches!(self, Self::AgentHangs | Self::AgentRefuses | Self::AgentBabbles)
    }
}

/// How a life went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// From the first call to the last.
    Whole,
    /// A call was refused with these words.
    Refused { call: &'static str, words: String },
    /// The shim went away in the middle of a call.
    Lost { call: &'static str },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.pad("-"),
            Self::Refused { call, .. } => f.pad(&format!("{call}!")),
            Self::Lost { call } => f.pad(&format!("{call}?")),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ShimKilled => "shim-9",
            Self::QemuKilled => "qemu-9",
            Self::QemuEnded => "qemu-15",
            Self::QemuStopped => "qemu-stop",
            Self::ShareKilled => "share-9",
            Self::VsockKilled => "vsock-9",
            Self::NoSpace => "ENOSPC",
            Self::NoFiles => "EMFILE",
            Self::NoMemory => "ENOMEM",
            Self::AgentHangs => "hang",
            Self::AgentRefuses => "error",
            Self::AgentBabbles => "garbage",
        })
    }
}

/// The `count`th time that a life passes the point of that name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Point {
    pub name: String,
    pub count: u64,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{} {}", self.name, self.count))
    }
}

//! containerd killed while a shim stands at a step of its work, and started again: it takes the container up or clears it
//! away, and never loses the one or keeps the other.
//!
//! A round has one container for each of some fault points (see `runtime::fault`), which hold their shims' work; when all
//! of them stand, containerd is killed once for all of them.

mod host;
mod life;
mod stage;

use std::fmt;

pub use {host::bundle, life::soon, stage::Stage};

use crate::faults::Point;

/// When containerd comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Back {
    /// The shim stands at its step until containerd is there again.
    During,
    /// The shim goes on alone, and has nothing more to do.
    After,
}

impl Back {
    /// The other.
    pub fn other(self) -> Self {
        match self {
            Self::During => Self::After,
            Self::After => Self::During,
        }
    }
}

/// What became of one container of a round.
#[derive(Debug)]
pub struct Fate {
    pub point: Point,
    pub back: Back,
    /// The call that containerd was killed in; none if the life passed no such point.
    pub call: Option<&'static str>,
    /// What the new containerd said of the task: its status, or nothing.
    pub status: String,
    /// What should not be.
    pub problems: Vec<String>,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let call = self.call.unwrap_or("~");
        let status = if self.status.is_empty() { "-" } else { &self.status };
        write!(
            f,
            "{:34} {:6} {call:8} {status:8} {}",
            self.point,
            format!("{:?}", self.back),
            self.problems.join("; ")
        )
    }
}

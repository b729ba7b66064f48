//! What all commands are told.

use std::path::PathBuf;

use runtime::{
    error::{Error, Result},
    ids::ContainerId,
    process::Status,
};

use super::record::{Home, Record, Root};

/// The flags before the command, read.
#[derive(Debug, Clone)]
pub struct Global {
    pub root: Root,
    /// The configuration file, if the caller names one.
    pub config: Option<PathBuf>,
    pub debug: bool,
}

impl Global {
    /// The home of a container that there is, and its record.
    pub fn find(&self, id: &str) -> Result<(Home, Record)> {
        let home = self.root.home(&container_id(id)?);
        let record = home.record()?;
        Ok((home, record))
    }
}

/// An id in runc's words.
pub fn container_id(id: &str) -> Result<ContainerId> {
    ContainerId::new(id).map_err(|_| Error::invalid("invalid container ID format"))
}

/// A status as the OCI's documents and engines name it.
pub fn word(status: Status) -> &'static str {
    match status {
        Status::Created => "created",
        Status::Running => "running",
        Status::Pausing | Status::Paused => "paused",
        Status::Stopped => "stopped",
    }
}

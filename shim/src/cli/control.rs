//! What is done to a container that there is, each by one call: `start`, `kill`, `delete`, `pause`, `resume`.

use clap::Args;
use runtime::{
    error::{Error, ErrorKind, Result},
    process::Status,
};

use super::{
    client::Client,
    end,
    global::{Global, container_id, word},
    signals,
};

/// A container's name.
#[derive(Debug, Args)]
pub struct Named {
    #[arg(value_name = "container-id")]
    id: String,
}

impl Named {
    /// Runs the program of a created container.
    pub fn start(self, global: &Global) -> Result<()> {
        let (home, record) = global.find(&self.id)?;
        match end::status(&home, &record)? {
            Status::Created => Client::connect(&home, &self.id)?.start(""),
            Status::Running => Err(Error::precondition("cannot start an already running container")),
            Status::Stopped => Err(Error::precondition("cannot start a container that has stopped")),
            Status::Pausing | Status::Paused => {
                Err(Error::precondition("cannot start a container in the paused state"))
            }
        }
    }

    pub fn pause(self, global: &Global) -> Result<()> {
        let (home, record) = global.find(&self.id)?;
        match end::status(&home, &record)? {
            Status::Running | Status::Created => Client::connect(&home, &self.id)?.pause(),
            _ => Err(not_running()),
        }
    }

    pub fn resume(self, global: &Global) -> Result<()> {
        let (home, record) = global.find(&self.id)?;
        match end::status(&home, &record)? {
            Status::Paused => Client::connect(&home, &self.id)?.resume(),
            _ => Err(Error::precondition("container not paused")),
        }
    }
}

#[derive(Debug, Args)]
pub struct Kill {
    #[arg(value_name = "container-id")]
    id: String,
    /// By name, with or without SIG, or by number
    #[arg(default_value = "SIGTERM")]
    signal: String,
    /// To all processes of the container
    #[arg(short, long)]
    all: bool,
}

impl Kill {
    pub fn run(self, global: &Global) -> Result<()> {
        let (home, _) = global.find(&self.id)?;
        let signal = signals::parse(&self.signal)?;
        let killed = Client::connect(&home, &self.id).and_then(|client| client.kill(signal, self.all));
        match killed {
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::NotFound) => {
                if self.all { Ok(()) } else { Err(not_running()) }
            }
            other => other,
        }
    }
}

#[derive(Debug, Args)]
pub struct Delete {
    #[arg(value_name = "container-id")]
    id: String,
    /// Kill it first if it runs; no error if there is none
    #[arg(short, long)]
    force: bool,
}

impl Delete {
    pub fn run(self, global: &Global) -> Result<()> {
        let home = global.root.home(&container_id(&self.id)?);
        let record = match home.record() {
            // Its creation was cut short before anything was made.
            Err(error) if error.kind() == ErrorKind::NotFound && self.force => return home.remove(),
            record => record?,
        };
        if self.force {
            return end::take_down(&home, &record);
        }
        match end::status(&home, &record)? {
            Status::Created | Status::Stopped => end::delete(&home, &record),
            status => Err(Error::precondition(format!(
                "cannot delete container {} that is not stopped: {}",
                self.id,
                word(status)
            ))),
        }
    }
}

pub fn not_running() -> Error {
    Error::precondition("container not running")
}

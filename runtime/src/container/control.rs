//! What is done to a living container: standing still, new limits, figures, its processes. The words of what is refused
//! are those of runc's shim, which engines pass on.

use std::time::Duration;

use oci_spec::runtime::LinuxResources;
use protocols::{agent::StatsContainerResponse, extras::ProcessEntry};
use tokio::time::timeout;

use super::{Container, EXEC_PIDS, Listed, lock, sizing::Workload};
use crate::{
    error::{Error, Result},
    events::Event,
    process::Status,
};

/// Added to the number that a process has in the guest: a number that no process of any host has, so that whoever looks
/// for it here finds none. Linux counts to 4194304.
const GUEST_PIDS: u32 = 1_000_000_000;
/// For the guest's list of processes.
const LIST_PATIENCE: Duration = Duration::from_secs(2);

impl Container {
    /// Makes every process stand still.
    pub async fn pause(&self) -> Result<()> {
        let _order = self.lifecycle.lock().await;
        let refused = match self.init.status() {
            Status::Running => None,
            Status::Created => Some("cannot pause task in created state"),
            Status::Pausing | Status::Paused => Some("cannot pause a paused container"),
            Status::Stopped => Some("cannot pause a stopped container"),
        };
        if let Some(words) = refused {
            return Err(Error::wrong_state(words));
        }
        self.init.change(Status::Running, Status::Pausing);
        if self.is_in_guest()
            && let Err(error) = self.agent.pause_container(self.id.as_str()).await
        {
            self.init.change(Status::Pausing, Status::Running);
            return Err(error);
        }
        if self.init.change(Status::Pausing, Status::Paused) {
            self.tell(Event::Paused { container: self.id.to_string() });
        }
        Ok(())
    }

    /// Lets a paused container go on.
    pub async fn resume(&self) -> Result<()> {
        let _order = self.lifecycle.lock().await;
        let refused = match self.init.status() {
            Status::Paused => None,
            Status::Created => Some("cannot resume task in created state"),
            Status::Running | Status::Pausing => Some("cannot resume a running process"),
            Status::Stopped => Some("cannot resume a stopped container"),
        };
        if let Some(words) = refused {
            return Err(Error::wrong_state(words));
        }
        if self.is_in_guest() {
            self.agent.resume_container(self.id.as_str()).await?;
        }
        if self.init.change(Status::Paused, Status::Running) {
            self.tell(Event::Resumed { container: self.id.to_string() });
        }
        Ok(())
    }

    /// Refuses new limits for a container that has ended.
    pub(crate) fn check_update(&self) -> Result<()> {
        match self.init.status() {
            Status::Stopped => Err(Error::wrong_state("cannot update a stopped container")),
            _ => Ok(()),
        }
    }

    /// Sets new limits in the guest.
    pub(crate) async fn update(&self, resources: &LinuxResources) -> Result<()> {
        self.check_update()?;
        if self.is_in_guest() {
            self.agent.update_container(self.id.as_str(), resources).await?;
        }
        let mut workload = lock(&self.workload);
        *workload = workload.updated(resources);
        Ok(())
    }

    /// What its limits ask of the VM.
    pub(crate) fn workload(&self) -> Workload {
        *lock(&self.workload)
    }

    /// What it uses, as the guest counts.
    pub async fn stats(&self) -> Result<StatsContainerResponse> {
        if !self.is_in_guest() {
            return Ok(StatsContainerResponse::new());
        }
        self.agent.stats_container(self.id.as_str()).await
    }

    /// Its processes, the init first; none when it has ended.
    pub async fn pids(&self) -> Result<Vec<Listed>> {
        if self.init.status() == Status::Stopped {
            return Ok(Vec::new());
        }
        let init = Listed { pid: self.pid, exec: None };
        if !self.is_in_guest() {
            return Ok(vec![init]);
        }
        let Some(processes) = self.list_in_guest().await else {
            // These are the ones that were asked for.
            let execs = lock(&self.execs);
            let running = execs.iter().filter(|(_, exec)| exec.status() == Status::Running);
            let execs = running.map(|(id, exec)| Listed { pid: exec.pid(), exec: Some(id.clone()) });
            return Ok([init].into_iter().chain(execs).collect());
        };
        let execs = lock(&self.execs);
        let others =
            processes.into_iter().filter(|process| process.exec_id != self.id.as_str()).map(|process| {
                // Only what is known here: names are the guest's word.
                match execs.get(&process.exec_id) {
                    Some(exec) => Listed { pid: exec.pid(), exec: Some(process.exec_id) },
                    None => {
                        Listed { pid: GUEST_PIDS.saturating_add(process.pid).min(EXEC_PIDS - 1), exec: None }
                    }
                }
            });
        Ok([init].into_iter().chain(others).collect())
    }

    /// What the guest says; `None` if it says nothing. A containerd that starts asks each container, one after the other,
    /// and throws away those of which it hears an error: a guest that has no time must not be taken for one that is gone.
    async fn list_in_guest(&self) -> Option<Vec<ProcessEntry>> {
        match timeout(LIST_PATIENCE, self.agent.list_processes(self.id.as_str())).await {
            Ok(Ok(listed)) => listed,
            Ok(Err(error)) => {
                tracing::warn!(%error, container = %self.id, "the guest lists no processes");
                None
            }
            Err(_) => {
                tracing::warn!(container = %self.id, "the guest lists no processes in time");
                None
            }
        }
    }

    /// Whether one of its processes was killed for want of memory.
    pub fn has_lacked_memory(&self) -> bool {
        *lock(&self.oom_kills) > 0
    }

    /// The guest has run out of memory and killed: `kills` processes since the container was made, or one more if that
    /// is not known.
    pub(crate) fn ran_out_of_memory(&self, kills: Option<u64>) {
        let mut told = lock(&self.oom_kills);
        let kills = kills.unwrap_or(*told + 1);
        if kills > *told {
            *told = kills;
            self.tell(Event::OutOfMemory { container: self.id.to_string() });
        }
    }
}

//! Exits of processes that the agent did not start itself but inherits: it is pid 1 or their adopter.
//!
//! There is one `waitpid(-1)` loop. An exit may come before the process is registered, since the pid arrives from the
//! launcher on another way; so while a launch is under way, strangers' exits are kept. At other times they are dropped,
//! for a kept one could be taken for a later process with the same pid.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::{
    errno::Errno,
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    unistd::Pid,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::error::{Context, Result};

/// Becomes `Some` with the exit code when the process has ended: 0 to 255, or 128 + n after signal n.
pub type ExitWatch = watch::Receiver<Option<i32>>;

#[derive(Default)]
struct Table {
    watched: HashMap<i32, watch::Sender<Option<i32>>>,
    strangers: HashMap<i32, i32>,
    launches: usize,
}

/// The one place that waits for children.
#[derive(Clone, Default)]
pub struct Reaper {
    table: Arc<Mutex<Table>>,
}

/// While it lives, exits of processes that nobody watches yet are kept.
pub struct Launching {
    reaper: Reaper,
}

impl Reaper {
    /// Starts the loop in the current runtime.
    pub fn start() -> Result<Self> {
        let reaper = Self::default();
        let mut children = signal(SignalKind::child()).context("listen for SIGCHLD")?;
        let looping = reaper.clone();
        tokio::spawn(async move {
            loop {
                looping.reap();
                if children.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(reaper)
    }

    /// Announces a launch; to be held until its process is watched.
    pub fn launching(&self) -> Launching {
        self.lock().launches += 1;
        Launching { reaper: self.clone() }
    }

    /// Watches a process that was launched under `_launching`.
    pub fn watch(&self, pid: i32, _launching: &Launching) -> ExitWatch {
        let mut table = self.lock();
        let early = table.strangers.remove(&pid);
        let (sender, exit) = watch::channel(early);
        if early.is_none() {
            table.watched.insert(pid, sender);
        }
        exit
    }

    fn reap(&self) {
        loop {
            let (pid, code) = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "cannot wait for children");
                    return;
                }
            };
            let mut table = self.lock();
            match table.watched.remove(&pid.as_raw()) {
                Some(sender) => drop(sender.send(Some(code))),
                None if table.launches > 0 => drop(table.strangers.insert(pid.as_raw(), code)),
                None => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Each change is a single step on a map.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Launching {
    fn drop(&mut self) {
        let mut table = self.reaper.lock();
        table.launches -= 1;
        if table.launches == 0 {
            table.strangers.clear();
        }
    }
}

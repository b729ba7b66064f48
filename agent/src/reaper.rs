//! Exits of processes that the agent did not start itself but inherits: it is pid 1 or their adopter.
//!
//! There is one `waitpid(-1)` loop. An exit may come before the process is registered, since the pid arrives from the
//! launcher on another way; so while a launch is under way, strangers' exits are kept. At other times they are dropped,
//! for a kept one could be taken for a later process with the same pid.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::{errno::Errno, libc};
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
            let (pid, code) = match wait_any() {
                Ok(Some((pid, status))) => match exit_code(status) {
                    Some(code) => (pid, code),
                    None => continue,
                },
                Ok(None) | Err(Errno::ECHILD) => return,
                Err(Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "cannot wait for children");
                    return;
                }
            };
            let mut table = self.lock();
            match table.watched.remove(&pid) {
                Some(sender) => drop(sender.send(Some(code))),
                None if table.launches > 0 => drop(table.strangers.insert(pid, code)),
                None => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Each change is a single step on a map.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A child that has changed, and its wait status. Not by way of a list of signals, which knows no real-time ones.
fn wait_any() -> nix::Result<Option<(i32, libc::c_int)>> {
    let mut status = 0;
    // SAFETY: the status lives across the call.
    let pid = Errno::result(unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) })?;
    Ok((pid != 0).then_some((pid, status)))
}

/// 0 to 255, or 128 + n after signal n; `None` if the child lives.
fn exit_code(status: libc::c_int) -> Option<i32> {
    if libc::WIFEXITED(status) {
        Some(libc::WEXITSTATUS(status))
    } else if libc::WIFSIGNALED(status) {
        Some(128 + libc::WTERMSIG(status))
    } else {
        None
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_is_a_code_and_a_stop_is_none() {
        // As wait(2) has them: the code in the second byte, the signal in the first, 0x80 for a core.
        for (status, code) in
            [(0, Some(0)), (0xff00, Some(255)), (9, Some(137)), (0x86, Some(134)), (64, Some(192))]
        {
            assert_eq!(exit_code(status), code, "{status:#x}");
        }
        assert_eq!((exit_code(0x137f), exit_code(0xffff)), (None, None));
    }
}

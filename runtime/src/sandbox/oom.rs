//! Hears when the guest runs out of memory, and has the host's kernel say so too.

use std::{process::Command, sync::Arc, time::Duration};

use tokio::{spawn, task::spawn_blocking, time::timeout};

use super::{Running, Sandbox, lock};
use crate::{
    cgroup,
    ledger::Resource,
    oom::{self, victim},
};

/// How long an end may be held up until the engine can know its reason.
const PATIENCE: Duration = Duration::from_secs(5);

impl Sandbox {
    /// Passes kills for want of memory on to their containers, until the guest or the sandbox ends.
    pub(super) fn listen_for_oom(self: &Arc<Self>, running: &Running) {
        let mut listener = lock(&self.oom_listener);
        if listener.is_some() {
            return;
        }
        let (sandbox, agent) = (Arc::downgrade(self), running.agent.clone());
        *listener = Some(spawn(async move {
            loop {
                let (container, kills) = match agent.oom_kill().await {
                    Ok(told) => told,
                    // The guest ends, or its agent does not know the call: either way nothing more is to be heard.
                    Err(error) => return tracing::debug!(%error, "no more news of the guest's memory"),
                };
                let Some(sandbox) = sandbox.upgrade() else { return };
                match sandbox.container(&container) {
                    Ok(container) => container.ran_out_of_memory(kills),
                    Err(error) => tracing::debug!(%error, "out of memory"),
                }
            }
        }));
    }

    /// Repeats in the cgroup of a stand-in the kill for want of memory that has ended its container. `victim` is as
    /// [`victim::kill_in`] has it. Not where a VM in which others still run would have less memory meanwhile, nor in a group
    /// that is not the container's alone.
    pub async fn repeat_kill(&self, stand_in: u32, victim: Command) {
        let Some(group) = cgroup::of(stand_in, oom::CONTROLLER) else { return };
        let is_ours = |claim: &Resource| matches!(claim, Resource::Cgroup { path, .. } if *path == group);
        let is_the_vms = cgroup::own(oom::CONTROLLER).as_ref() == Some(&group);
        if !self.store.record().own.ledger.iter().any(is_ours) || is_the_vms && !self.is_over() {
            return;
        }
        let killed = timeout(PATIENCE, spawn_blocking(move || victim::kill_in(&group, victim)));
        match killed.await {
            Ok(Ok(Ok(true))) => {}
            unknown => tracing::warn!(?unknown, "the engine is not told of a kill for want of memory"),
        }
    }
}

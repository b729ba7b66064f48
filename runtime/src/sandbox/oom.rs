//! Hears when the guest runs out of memory.

use std::sync::Arc;

use tokio::spawn;

use super::{Running, Sandbox, lock};

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
}

//! Watches the VM: when it ends by itself, everything in it has ended too.

use std::sync::Weak;

use tokio::sync::watch;

use super::Sandbox;
use crate::vm::VmExit;

/// As if each process had been killed: 128 + SIGKILL.
const KILLED: u32 = 137;

pub(super) async fn watch(sandbox: Weak<Sandbox>, mut exited: watch::Receiver<Option<VmExit>>) {
    let reason = match exited.wait_for(Option::is_some).await {
        Ok(exit) => exit.as_ref().map(|exit| exit.reason.clone()).unwrap_or_default(),
        Err(_) => return, // The VM's owner is gone, and with it the process that would care.
    };
    if let Some(sandbox) = sandbox.upgrade() {
        tracing::error!(sandbox = %sandbox.setup.id, reason, "the VM ended by itself");
        sandbox.guest_died(KILLED);
    }
}

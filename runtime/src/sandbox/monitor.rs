//! Watches what a sandbox stands on: when the VM or the share's daemon ends by itself, everything in the guest has.

use std::process::ExitStatus;

use tokio::sync::watch;

use crate::vm::VmExit;

/// Waits for the first end and returns why. Without a daemon only the VM is watched. A guest that does not answer any
/// more counts as ended.
pub(super) async fn first_end(
    mut vm: watch::Receiver<Option<VmExit>>,
    daemon: Option<watch::Receiver<Option<ExitStatus>>>,
    silence: impl Future<Output = String>,
) -> String {
    let vm_end = async {
        let exit = vm.wait_for(Option::is_some).await.map(|exit| exit.clone());
        // The watch goes with the VM's owner, which is as good as an end.
        exit.ok().flatten().map_or_else(|| "the VM is no longer watched".into(), |exit| exit.reason)
    };
    let daemon_end = async {
        if let Some(mut daemon) = daemon {
            let ended = daemon.wait_for(Option::is_some).await.map(|status| *status);
            if let Ok(Some(status)) = ended {
                // Without the share no container has its files any more.
                return format!("the share's daemon ended: {status}");
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        biased;
        exit = vm_end => exit,
        why = daemon_end => why,
        why = silence => why,
    }
}

//! Watches what a sandbox stands on: when the VM or the share's daemon ends by itself, everything in the guest has.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};

use crate::{child::Child, vm::VmExit};

/// How much later than its consequences the end of a VM may be known.
const NEWS_OF_DEATH: Duration = Duration::from_secs(3);

/// Waits for the first end and returns why. Without a daemon only the VM is watched. A guest that does not answer any
/// more counts as ended.
pub(super) async fn first_end(
    vm: watch::Receiver<Option<VmExit>>,
    daemon: Option<Arc<Child>>,
    silence: impl Future<Output = String>,
) -> VmExit {
    tokio::select! {
        biased;
        exit = end_of(vm.clone()) => exit,
        exit = end_of_share(daemon, vm) => exit,
        reason = silence => VmExit { reason, wanted_memory: false },
    }
}

async fn end_of(mut vm: watch::Receiver<Option<VmExit>>) -> VmExit {
    let exit = vm.wait_for(Option::is_some).await.map(|exit| exit.clone());
    // The watch goes with the VM's owner, which is as good as an end.
    let unwatched = || VmExit { reason: "the VM is no longer watched".into(), wanted_memory: false };
    exit.ok().flatten().unwrap_or_else(unwatched)
}

/// Without the share no container has its files any more.
async fn end_of_share(daemon: Option<Arc<Child>>, vm: watch::Receiver<Option<VmExit>>) -> VmExit {
    let Some(daemon) = daemon else { return std::future::pending().await };
    let Ok(status) = daemon.exited().wait_for(Option::is_some).await.map(|status| *status) else {
        return std::future::pending().await;
    };
    // It ends in good order when the VM has, which is what there is to tell.
    if status.is_some_and(|status| status.success())
        && let Ok(exit) = timeout(NEWS_OF_DEATH, end_of(vm)).await
    {
        return exit;
    }
    VmExit {
        reason: format!("the share's daemon: {}", daemon.epitaph()),
        wanted_memory: daemon.wanted_memory(),
    }
}

//! Into the cgroup that the engine names for the sandbox, if the configuration wants that.

use tokio::task::spawn_blocking;

use crate::{
    bundle::Bundle,
    cgroup,
    config::Config,
    error::{Error, Result},
    ledger::{Ledger, Resource},
};

/// Moves the processes there. What they start later is born there.
pub(super) async fn group(
    config: &Config,
    bundle: &Bundle,
    processes: Vec<u32>,
    ledger: &Ledger,
) -> Result<()> {
    let name = bundle.spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
    let Some(name) = name.filter(|name| config.runtime.sandbox_cgroup_only && !name.as_os_str().is_empty())
    else {
        return Ok(());
    };
    let ledger = ledger.clone();
    let claim = move |path, home| ledger.claim(Resource::Cgroup { path, home });
    // The kernel may take its time over each.
    let entered = spawn_blocking(move || cgroup::enter(&name, &processes, claim)).await;
    entered.map_err(|error| Error::internal(error.to_string()))?
}

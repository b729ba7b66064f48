//! A dead sandbox's record -> everything released. The same walk as an orderly stop, used by every door.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use crate::{
    error::{Context, Error, ErrorKind, Result},
    ids::SandboxId,
    ledger::Ledger,
    paths::Paths,
    state::StateStore,
};

/// Takes down the sandbox `id`, whose owner must be dead. `false` if there is none.
pub async fn cleanup(paths: &Paths, id: &SandboxId) -> Result<bool> {
    let dir = paths.sandbox(id);
    let clean = move || {
        let store = match StateStore::load(&dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            other => Arc::new(other?),
        };
        if let Some(owner) = store.record().own.owner
            && owner.is_alive()
            && owner.pid != std::process::id()
        {
            return Err(Error::precondition(format!("its owner, process {}, is alive", owner.pid)));
        }
        Ledger::new(store.clone()).release_all()?;
        store.remove()?;
        Ok(true)
    };
    spawn_blocking(clean)
        .await
        .map_err(|error| Error::internal(error.to_string()))?
        .with_context(|| format!("clean up sandbox {id}"))
}

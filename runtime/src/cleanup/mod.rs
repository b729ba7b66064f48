//! A dead sandbox's record -> everything released. The same walk as an orderly stop, used by every door.

mod sweep;

use std::{fs, path::Path, sync::Arc, time::Duration};

use tokio::task::spawn_blocking;

use crate::{
    accident::{Report, Shelf},
    error::{Context, Error, ErrorKind, Result},
    ids::SandboxId,
    ledger::{Ledger, Resource},
    oom,
    paths::Paths,
    state::{StateStore, boot_id},
};

/// For an owner that was killed just now.
const LAST_BREATH: Duration = Duration::from_secs(5);

/// A sandbox whose owner is dead.
#[derive(Debug, Clone)]
pub struct Ownerless {
    pub id: SandboxId,
    /// What its clean-up would take away, or what is known of it.
    pub holds: Vec<String>,
}

/// Takes down the sandbox `id`, whose owner must be dead. `false` if there is none.
///
/// A record that cannot be read, or that another runtime wrote, says nothing that can be relied on: then what lies under
/// the sandbox's own paths is taken away, and no process is touched. [`ErrorKind::FailedPrecondition`] while somebody
/// uses it.
pub async fn cleanup(paths: &Paths, id: &SandboxId) -> Result<bool> {
    let (paths, name) = (paths.clone(), id.clone());
    spawn_blocking(move || clean(&paths, &name))
        .await
        .map_err(|error| Error::internal(error.to_string()))?
        .with_context(|| format!("clean up sandbox {id}"))
}

/// The sandboxes that nobody owns any more, and those whose record cannot be read and that nobody uses. Blocks.
pub fn ownerless(paths: &Paths) -> Result<Vec<Ownerless>> {
    let entries = match fs::read_dir(paths.sandboxes()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("read {}", paths.sandboxes().display()))?,
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| SandboxId::new(name).ok()) else {
            continue;
        };
        let holds = match known(&entry.path()) {
            Ok(Some(store)) => store.record().own.ledger.iter().rev().map(Resource::to_string).collect(),
            Ok(None) if sweep::user(paths, &id).is_none() => vec!["no record that can be read".into()],
            _ => continue,
        };
        found.push(Ownerless { id, holds });
    }
    Ok(found)
}

fn clean(paths: &Paths, id: &SandboxId) -> Result<bool> {
    let dir = paths.sandbox(id);
    if !dir.exists() {
        return Ok(false);
    }
    if let Some(store) = known(&dir)? {
        let store = Arc::new(store);
        report(paths, &store);
        if !of_this_boot(&store) {
            // Its processes ended with the host, and their numbers may be others' by now.
            store.note(|record| {
                let is_its =
                    |claim: &Resource| matches!(claim, Resource::Process { .. } | Resource::Group { .. });
                record.own.ledger.retain(|claim| !is_its(claim));
            });
        }
        Ledger::new(store.clone()).release_all()?;
        store.remove()?;
    } else {
        sweep::sweep(paths, id)?;
    }
    Ok(true)
}

/// What was said last went with the owner.
fn report(paths: &Paths, store: &StateStore) {
    let record = store.record();
    let owner = record.own.owner.map_or(0, |owner| owner.pid);
    let mut what = format!("its owner, process {owner}, ended without taking it down");
    if let Some(want) = wanted_memory(&record.own.ledger) {
        what = format!("{what}; processes of it were {want}");
    }
    let mut report = Report::new(&record.sandbox_container, &what);
    report.containers = record.config.container_configs.into_iter().map(|container| container.id).collect();
    tracing::error!(sandbox = report.sandbox, reason = what, "a sandbox is cleaned up after its owner");
    if let Err(error) = Shelf::new(paths.accidents()).put(&report) {
        tracing::warn!(%error, "kata-runtime logs will not know of this");
    }
}

/// What its group of processes had too little of.
fn wanted_memory(ledger: &[Resource]) -> Option<oom::Want> {
    ledger.iter().find_map(|claim| match claim {
        Resource::Cgroup { path, .. } => oom::want_in(path),
        _ => None,
    })
}

/// The record in `dir`; `None` if it is none of ours. An error if its owner lives; a dying one is waited for.
fn known(dir: &Path) -> Result<Option<StateStore>> {
    let store = match StateStore::load(dir) {
        Ok(store) => store,
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                tracing::warn!(%error, "a record cannot be read");
            }
            return Ok(None);
        }
    };
    let Some(owner) = store.record().own.owner else { return Ok(None) };
    let is_another = owner.pid != std::process::id();
    if of_this_boot(&store) && is_another && !owner.has_ended(LAST_BREATH) {
        return Err(Error::precondition(format!("its owner, process {}, is alive", owner.pid)));
    }
    Ok(Some(store))
}

/// Whether the record was written since the host was started; older versions did not say.
fn of_this_boot(store: &StateStore) -> bool {
    let boot = store.record().own.boot;
    boot.is_empty() || boot == boot_id()
}

#[cfg(test)]
mod tests;

//! Host resources claimed so far, and the one backwards walk that gives them back.
//!
//! Nothing is made on the host before its claim is on disk. Orderly delete, failed create and the clean-up after a
//! crash are the same walk.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, OnceLock},
};

pub use crate::state::{ProcessId, Resource};
use crate::{
    error::{Context, Error, Result},
    fault::{self, Side},
    state::StateStore,
};

/// The claims of one sandbox. Clones are the same ledger.
#[derive(Debug, Clone)]
pub struct Ledger {
    store: Arc<StateStore>,
    group: Arc<OnceLock<Arc<OwnedFd>>>,
}

impl Ledger {
    pub fn new(store: Arc<StateStore>) -> Self {
        Self { store, group: Arc::default() }
    }

    /// Has the sandbox's own processes started in the cgroup whose directory that is. Counts once.
    pub(crate) fn house(&self, group: OwnedFd) {
        let _ = self.group.set(Arc::new(group)); // The first one stays.
    }

    pub(crate) fn group(&self) -> Option<Arc<OwnedFd>> {
        self.group.get().cloned()
    }

    /// Records that `resource` is about to be made.
    pub fn claim(&self, resource: Resource) -> Result<()> {
        let what = resource.kind();
        fault::point("claim", what, Side::Before)?;
        self.store
            .update(|record| record.own.ledger.push(resource.clone()))
            .with_context(|| format!("claim {resource}"))?;
        fault::point("claim", what, Side::After)
    }

    /// Takes `resource` away and strikes its claim. Blocks.
    pub fn release(&self, resource: &Resource) -> Result<()> {
        let what = resource.kind();
        fault::point("release", what, Side::Before)?;
        resource.release()?;
        fault::point("release", what, Side::After)?;
        if let Err(error) = self.forget(resource) {
            // Released twice is released once; a full disk must not keep what it would free.
            tracing::warn!(%error, "the record still lists what is released");
        }
        Ok(())
    }

    /// Strikes the claim of a resource that has ended by itself, such as a process that was waited for.
    pub fn forget(&self, resource: &Resource) -> Result<()> {
        self.store.update(|record| {
            if let Some(last) = record.own.ledger.iter().rposition(|claimed| claimed == resource) {
                record.own.ledger.remove(last);
            }
        })
    }

    /// Releases everything, newest first. Goes on past failures; what could not be released stays claimed, and the
    /// error names all of it. Blocks.
    pub fn release_all(&self) -> Result<()> {
        self.release_those(|_| true)
    }

    /// The same for some.
    pub fn release_those(&self, which: impl Fn(&Resource) -> bool) -> Result<()> {
        let claims = self.store.record().own.ledger;
        let failures: Vec<String> = claims
            .iter()
            .rev()
            .filter(|resource| which(resource))
            .filter_map(|resource| self.release(resource).err())
            .map(|error| error.to_string())
            .collect();
        if failures.is_empty() { Ok(()) } else { Err(Error::internal(failures.join("; "))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Record;

    #[test]
    fn release_walks_backwards_and_keeps_what_failed() {
        let root = tempfile::tempdir().unwrap();
        let record = Record::new("s1", ProcessId { pid: 1, start_time: 2 });
        let store = Arc::new(StateStore::create(&root.path().join("s1"), record).unwrap());
        let ledger = Ledger::new(store.clone());
        let (outer, full) = (root.path().join("outer"), root.path().join("full"));
        for dir in [&outer, &outer.join("inner"), &full] {
            ledger.claim(Resource::Directory { path: dir.clone() }).unwrap();
            std::fs::create_dir(dir).unwrap();
        }
        std::fs::write(full.join("theirs"), "").unwrap();

        let error = ledger.release_all().unwrap_err();
        assert!(error.to_string().contains("full"), "{error}");
        assert!(!outer.exists(), "released inner before outer");
        assert_eq!(store.record().own.ledger, [Resource::Directory { path: full }]);
    }
}

//! The record's file: loaded by whoever cleans up, written by the sandbox's owner alone.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, RenameFlags, renameat2},
};

use super::record::Record;
use crate::error::{Context, Error, ErrorKind, Result};

const FILE: &str = "persist.json";
const NEW_FILE: &str = "persist.json.new";

/// One sandbox's record, in memory and on disk. A change is on disk when the call that made it returns.
#[derive(Debug)]
pub struct StateStore {
    dir: Mutex<PathBuf>,
    record: Mutex<Record>,
}

impl StateStore {
    /// Makes the sandbox's directory and its first record. [`ErrorKind::AlreadyExists`] if the sandbox exists.
    pub fn create(dir: &Path, record: Record) -> Result<Self> {
        let parent =
            dir.parent().ok_or_else(|| Error::internal(format!("{} has no parent", dir.display())))?;
        fs::DirBuilder::new().recursive(true).mode(0o711).create(parent).with_context(|| make(parent))?;
        fs::DirBuilder::new().mode(0o700).create(dir).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::already_exists(format!(
                "sandbox directory {} exists: the sandbox runs, or its clean-up has not finished",
                dir.display()
            )),
            _ => Error::from(error).with_kind(ErrorKind::Internal).context(make(dir)),
        })?;
        let store = Self { dir: Mutex::new(dir.into()), record: Mutex::new(record) };
        match store.update(|_| ()) {
            Ok(()) => Ok(store),
            Err(error) => {
                // The directory would block the next try; what could not be written holds nothing yet.
                let _ = fs::remove_dir_all(dir);
                Err(error)
            }
        }
    }

    /// Reads the record of a sandbox whose owner may be dead. [`ErrorKind::NotFound`] if there is none.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let text = fs::read(&path)
            .map_err(|error| Error::from(error).context(format!("read {}", path.display())))?;
        let record = serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))?;
        Ok(Self { dir: Mutex::new(dir.into()), record: Mutex::new(record) })
    }

    /// A copy of the record as it stands.
    pub fn record(&self) -> Record {
        self.lock().clone()
    }

    /// Changes the record and writes it; on failure the change stays in memory, so that a release walk still sees
    /// what was claimed.
    pub fn update<T>(&self, change: impl FnOnce(&mut Record) -> T) -> Result<T> {
        let mut record = self.lock();
        let result = change(&mut record);
        self.write(&record).with_context(|| format!("write {}", self.dir().join(FILE).display()))?;
        Ok(result)
    }

    /// The same for what only outsiders read: no reason to fail. The next change that can be written writes this one.
    pub fn note(&self, change: impl FnOnce(&mut Record)) {
        if let Err(error) = self.update(change) {
            tracing::warn!(%error, "what others read of the sandbox is out of date");
        }
    }

    /// Moves the sandbox's directory to `to`. [`ErrorKind::AlreadyExists`] if there is such a sandbox.
    pub fn rename(&self, to: &Path) -> Result<()> {
        let mut dir = self.dir.lock().unwrap_or_else(PoisonError::into_inner);
        renameat2(AT_FDCWD, &*dir, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE).map_err(
            |errno| match errno {
                Errno::EEXIST => Error::already_exists(format!("sandbox directory {}", to.display())),
                errno => Error::from(errno).context(format!("rename {} to {}", dir.display(), to.display())),
            },
        )?;
        *dir = to.into();
        Ok(())
    }

    /// Removes the record and the sandbox's directory with it.
    pub fn remove(&self) -> Result<()> {
        let dir = self.dir();
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.with_context(|| format!("remove {}", dir.display())),
        }
    }

    fn dir(&self) -> PathBuf {
        self.dir.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn write(&self, record: &Record) -> io::Result<()> {
        let dir = self.dir();
        let new = dir.join(NEW_FILE);
        let mut text = serde_json::to_vec(record).map_err(io::Error::other)?;
        text.push(b'\n');
        let mut file: File =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&text)?;
        file.sync_data()?;
        fs::rename(&new, dir.join(FILE))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Record> {
        // A panic elsewhere leaves the record as it was: plain data without an invariant across fields.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make(dir: &Path) -> String {
    format!("create directory {}", dir.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{ProcessId, Resource};

    fn fresh(dir: &Path) -> Result<StateStore> {
        StateStore::create(dir, Record::new("s1", ProcessId { pid: 1, start_time: 2 }))
    }

    #[test]
    fn what_was_updated_is_what_is_loaded() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("sbs/s1");
        let store = fresh(&dir).unwrap();
        store.update(|r| r.own.ledger.push(Resource::Directory { path: "/d".into() })).unwrap();
        assert_eq!(StateStore::load(&dir).unwrap().record().own.ledger.len(), 1);
        store.remove().unwrap();
        assert_eq!(StateStore::load(&dir).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_second_sandbox_of_the_same_name_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("s1");
        fresh(&dir).unwrap();
        assert_eq!(fresh(&dir).unwrap_err().kind(), ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_torn_record_is_an_error_and_no_panic() {
        let root = tempfile::tempdir().unwrap();
        for text in ["", "{", "42", "{\"kata_rs\":{\"ledger\":[{\"kind\":\"?\"}]}}"] {
            fs::write(root.path().join(FILE), text).unwrap();
            assert_eq!(StateStore::load(root.path()).unwrap_err().kind(), ErrorKind::Internal, "{text}");
        }
    }
}

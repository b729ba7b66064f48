//! A template in the making. Until it is finished nobody finds it, and if it is not, nothing of it stays.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::{DESCRIPTION, Description, MEMORY, STATE, STATE_LIMIT, Templates, VERSION, memory, now};
use crate::error::{Context, Error, Result};

/// A template in the making; dropping it gives it up.
#[derive(Debug)]
pub struct Draft {
    templates: Templates,
    dir: PathBuf,
    memory_size: u64,
    memory: File,
    state: File,
    /// Held by who makes this template; let go by the kernel when its process dies.
    _lock: Flock<File>,
}

impl Draft {
    pub(super) fn begin(templates: &Templates, memory_size: u64) -> Result<Option<Self>> {
        let root = &templates.root;
        let make = || format!("create {}", root.display());
        DirBuilder::new().recursive(true).mode(0o700).create(root).with_context(make)?;
        super::check_owner(&File::open(root).with_context(make)?, 0o022)
            .with_context(|| root.display().to_string())?;
        let lock = new_file(&root.join(format!(".{}.lock", templates.slot)), false)?;
        let lock = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(Error::from(errno).context("lock the template")),
        };
        let dir = root.join(format!(".{}.new", templates.slot));
        // Whoever left it does not live any more: the lock is ours.
        remove(&dir)?;
        DirBuilder::new().mode(0o700).create(&dir).with_context(|| format!("create {}", dir.display()))?;
        let made =
            memory::anonymous(memory_size).and_then(|memory| Ok((memory, new_file(&dir.join(STATE), true)?)));
        let (memory, state) = made.inspect_err(|_| drop(remove(&dir)))?;
        Ok(Some(Self { templates: templates.clone(), dir, memory_size, memory, state, _lock: lock }))
    }

    /// The file in which the VM has its memory while it lives.
    pub fn memory(&self) -> Result<File> {
        self.memory.try_clone().context("the file of guest memory")
    }

    /// The file for the hypervisor's state.
    pub fn state(&self) -> Result<File> {
        self.state.try_clone().context("the file of the state")
    }

    /// Makes it a template, once the VM has been saved and does not run any more. Blocks.
    pub fn finish(mut self) -> Result<()> {
        let saved = new_file(&self.dir.join(MEMORY), true)?;
        let extents = memory::save(&self.memory, self.memory_size, &saved)?;
        let mut state = Vec::new();
        self.state.rewind().context(STATE)?;
        (&self.state).take(STATE_LIMIT).read_to_end(&mut state).context(STATE)?;
        let description = Description {
            version: VERSION,
            key: self.templates.key.clone(),
            made: now().as_secs(),
            memory_size: self.memory_size,
            extents,
            state_size: state.len() as u64,
            state_crc: crc32fast::hash(&state),
        };
        let text = serde_json::to_vec(&description).context(DESCRIPTION)?;
        new_file(&self.dir.join(DESCRIPTION), true)?.write_all(&text).context(DESCRIPTION)?;
        self.templates.destroy()?;
        let dir = self.templates.dir();
        fs::rename(&self.dir, &dir).with_context(|| format!("name the template {}", dir.display()))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Of a finished one nothing is left here.
        if let Err(error) = remove(&self.dir) {
            tracing::warn!(%error, "a template that was given up stays");
        }
    }
}

fn new_file(path: &Path, new: bool) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .create_new(new)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
        .with_context(|| format!("create {}", path.display()))
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

//! A template in the making. Until it is finished nobody finds it, and if it is not, nothing of it stays.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::statvfs::statvfs,
};

use super::{
    DESCRIPTION, Description, MEMORY, STATE, STATE_LIMIT, Template, Templates, VERSION, memory, now,
};
use crate::error::{Context, Error, Result};

/// What a template takes: 72 MiB with the small kernel, 200 with a distribution's.
const ROOM: u64 = 64 << 20;
/// No template is taken away by another's maker before that.
const LEAST_AGE: Duration = Duration::from_secs(24 * 60 * 60);

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
        let room = statvfs(root).with_context(make)?;
        if room.blocks_available() * room.fragment_size() < ROOM {
            return Err(Error::precondition(format!(
                "{} has less than {} MiB left",
                root.display(),
                ROOM >> 20
            )));
        }
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
        fs::rename(&self.dir, &dir).with_context(|| format!("name the template {}", dir.display()))?;
        self.prune();
        Ok(())
    }
}

impl Draft {
    /// Takes away templates of configurations that nobody seems to use any more.
    fn prune(&self) {
        for entry in fs::read_dir(&self.templates.root).into_iter().flatten().flatten() {
            let path = entry.path();
            let others = path != self.templates.dir() && super::is_template(&path);
            let age = Template::open(&path).map(|template| template.age());
            if others && age.is_ok_and(|age| age > self.templates.max_age.max(LEAST_AGE)) {
                tracing::debug!(template = %path.display(), "a template that is too old is taken away");
                let _ = fs::remove_dir_all(&path); // The next one tries again.
            }
        }
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

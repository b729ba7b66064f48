//! VM templates: a VM that has booted, saved once, of which every later VM is a clone.
//!
//! A template is a directory of root's: `state` (the hypervisor's), `memory` (the guest's, with holes where it was never
//! used) and `template.json`, which is written last and tells what the others must be. A directory gets its name when it
//! is complete, so there is no half template; what is damaged, foreign, too old or made by anything else than what is
//! installed now is not used but made anew.

mod draft;
mod key;
mod memory;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::libc;
use serde::{Deserialize, Serialize};

pub use draft::Draft;
use memory::Extent;

use crate::{
    config::Config,
    error::{Context, Error, Result},
};

const STATE: &str = "state";
const MEMORY: &str = "memory";
const DESCRIPTION: &str = "template.json";
/// The device state of a VM is well below this.
const STATE_LIMIT: u64 = 64 << 20;
const DESCRIPTION_LIMIT: u64 = 4 << 20;

/// What is written down about a template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Description {
    /// Version of this shape.
    version: u32,
    /// Everything that made it; see [`key`].
    key: String,
    /// Seconds since 1970.
    made: u64,
    /// Bytes of guest memory.
    memory_size: u64,
    extents: Vec<Extent>,
    state_size: u64,
    state_crc: u32,
}

const VERSION: u32 = 1;
/// How long a failed clone is remembered: a start that tries in vain takes many seconds.
const FAILURE: Duration = Duration::from_secs(300);

/// The templates of one configuration: there is at most one that may be used.
#[derive(Debug, Clone)]
pub struct Templates {
    root: PathBuf,
    /// The same for whatever replaces each other.
    slot: String,
    key: String,
    max_age: Duration,
}

/// A template that is there and whole, as far as can be seen without reading its memory.
#[derive(Debug)]
pub struct Template {
    memory: File,
    state: File,
    description: Description,
}

impl Templates {
    /// The templates for VMs of `config` whose saved form is described by the hypervisor's `fingerprint`.
    pub fn new(config: &Config, fingerprint: &str) -> Result<Self> {
        let factory = &config.factory;
        Ok(Self {
            root: factory.template_path.clone(),
            slot: key::slot(config, fingerprint),
            key: key::key(config, fingerprint)?,
            max_age: factory.template_max_age,
        })
    }

    /// The template's directory, whether it is there or not.
    pub fn dir(&self) -> PathBuf {
        self.root.join(&self.slot)
    }

    /// The template if there is one that may be used. An error says why the one that is there may not. Blocks.
    pub fn find(&self) -> Result<Option<Template>> {
        let dir = self.dir();
        match Template::open(&dir) {
            Err(error) if error.kind() == crate::error::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.context(format!("template {}", dir.display()))),
            Ok(template) => {
                self.check(&template)
                    .map_err(|error| error.context(format!("template {}", dir.display())))?;
                Ok(Some(template))
            }
        }
    }

    fn check(&self, template: &Template) -> Result<()> {
        if template.description.key != self.key {
            return Err(Error::precondition(
                "was made by another hypervisor, kernel, initrd, configuration or host boot",
            ));
        }
        let age = now().checked_sub(Duration::from_secs(template.description.made));
        match age {
            Some(age) if self.max_age.is_zero() || age <= self.max_age => Ok(()),
            Some(_) => Err(Error::precondition("is older than factory.template_max_age")),
            None => Err(Error::precondition("was made in the future")),
        }
    }

    /// Whether a clone of a new template has failed so recently that VMs are better booted. Blocks.
    pub fn failed_lately(&self) -> bool {
        let failed = fs::metadata(self.failure()).and_then(|meta| meta.modified());
        failed.is_ok_and(|when| when.elapsed().is_ok_and(|age| age < FAILURE))
    }

    /// Takes the template away, of which a clone has failed. If it was new, another one would be no better: that is
    /// remembered for a while. Blocks.
    pub fn condemn(&self, new: bool) -> Result<()> {
        self.destroy()?;
        if !new {
            return Ok(());
        }
        File::create(self.failure()).map(drop).with_context(|| format!("create {}", self.failure().display()))
    }

    /// Forgets that clones have failed. Blocks.
    pub fn forgive(&self) -> Result<()> {
        match fs::remove_file(self.failure()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.failure().display()))
            }
            _ => Ok(()),
        }
    }

    fn failure(&self) -> PathBuf {
        self.root.join(format!(".{}.failed", self.slot))
    }

    /// Begins a new template. `None` if somebody else is at it. Blocks.
    pub fn begin(&self, memory_size: u64) -> Result<Option<Draft>> {
        Draft::begin(self, memory_size).map_err(|error| error.context("begin a template"))
    }

    /// Takes away the template, whatever state it is in. VMs that were cloned from it are not concerned. Blocks.
    pub fn destroy(&self) -> Result<()> {
        let dir = self.dir();
        let removed = match fs::symlink_metadata(&dir) {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(&dir),
            Ok(_) => fs::remove_file(&dir), // Something else in its place.
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove template {}", dir.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Template {
    fn open(dir: &Path) -> Result<Self> {
        for part in [dir.parent().unwrap_or(dir), dir] {
            check_owner(&File::open(part).map_err(Error::from)?, 0o022)
                .with_context(|| part.display().to_string())?;
        }
        let (mut description, state, memory) =
            (open(dir, DESCRIPTION)?, open(dir, STATE)?, open(dir, MEMORY)?);
        let mut text = String::new();
        (&mut description).take(DESCRIPTION_LIMIT).read_to_string(&mut text).context(DESCRIPTION)?;
        let description: Description = serde_json::from_str(&text).context(DESCRIPTION)?;
        if description.version != VERSION {
            return Err(Error::precondition("is of another version"));
        }
        let template = Self { memory, state, description };
        template.check_state()?;
        Ok(template)
    }

    fn check_state(&self) -> Result<()> {
        let mut bytes = Vec::new();
        let mut state = self.state.try_clone().context(STATE)?.take(STATE_LIMIT);
        state.read_to_end(&mut bytes).context(STATE)?;
        let size = bytes.len() as u64;
        if (size, crc32fast::hash(&bytes)) != (self.description.state_size, self.description.state_crc) {
            return Err(Error::internal(format!("{STATE} is damaged")));
        }
        use std::io::Seek;
        (&self.state).rewind().context(STATE)
    }

    /// Since it was made.
    pub fn age(&self) -> Duration {
        now().saturating_sub(Duration::from_secs(self.description.made))
    }

    /// Bytes of guest memory that a clone takes over.
    pub fn used_memory(&self) -> u64 {
        self.description.extents.iter().map(Extent::length).sum()
    }

    /// Bytes of guest memory.
    pub fn memory_size(&self) -> u64 {
        self.description.memory_size
    }

    /// The hypervisor's state, from its beginning. Only one clone can be made of a [`Template`].
    pub fn into_state(self) -> File {
        self.state
    }

    /// A file of a clone's own, for [`Self::copy_memory`].
    pub fn empty_memory(&self) -> Result<File> {
        memory::anonymous(self.memory_size())
    }

    /// Copies the memory to `file`. Blocks for as long as copying takes.
    pub fn copy_memory(&self, file: &File) -> Result<()> {
        memory::copy(&self.memory, self.memory_size(), &self.description.extents, file)
    }

    /// The template's memory itself, to be mapped privately.
    pub fn own_memory(&self) -> Result<File> {
        self.memory.try_clone().context(MEMORY)
    }

    /// Looks at every page of the template's memory. Blocks.
    pub fn check_memory(&self) -> Result<()> {
        memory::check(&self.memory, self.memory_size(), &self.description.extents)
    }
}

/// Whether `path` looks like a template or what one leaves that was given up.
pub(crate) fn is_template(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let slot = name.trim_start_matches('.').trim_end_matches(".new");
    is_slot(slot) && path.is_dir()
}

fn is_slot(name: &str) -> bool {
    name.len() == key::SLOT_LENGTH && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Opens a file of a template: no link, root's own, and only root's.
fn open(dir: &Path, name: &str) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(dir.join(name))
        .map_err(|error| match error.kind() {
            // The directory is there, so a file that is not is damage.
            io::ErrorKind::NotFound => Error::internal(format!("{name} is missing")),
            _ => Error::from(error).context(name),
        })?;
    check_owner(&file, 0o077).context(name)?;
    Ok(file)
}

/// Refuses what is not ours or has any of the permissions `forbidden`.
fn check_owner(file: &File, forbidden: u32) -> Result<()> {
    let meta = file.metadata().map_err(Error::from)?;
    if meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err(Error::precondition(format!("belongs to user {}", meta.uid())));
    }
    if meta.mode() & forbidden != 0 {
        return Err(Error::precondition(format!("has mode {:o}: others can reach it", meta.mode() & 0o7777)));
    }
    Ok(())
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

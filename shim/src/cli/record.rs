//! What is remembered of each container: `<root>/<id>/`, with `state.json` and the sockets of its server.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File},
    io::{ErrorKind, Write},
    iter,
    os::{
        fd::AsRawFd,
        unix::{
            fs::DirBuilderExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use runtime::{
    error::{Context, Error, Result},
    ids::{ContainerId, SandboxId},
    ledger::ProcessId,
};
use serde::{Deserialize, Serialize};

const RECORD: &str = "state.json";
const TASK_SOCKET: &str = "task.sock";
const STAND_IN_SOCKET: &str = "stand-in.sock";
const LOG: &str = "serve.log";
/// A socket's path is at most 107 bytes long.
const SOCKET_PATH: usize = 107;

/// What does not change in a container's life, and who to ask for the rest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Of the spec that its state follows.
    pub oci_version: String,
    pub id: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// In the words of RFC 3339.
    pub created: String,
    pub owner: u32,
    pub annotations: BTreeMap<String, String>,
    /// The sandbox that it is in.
    pub sandbox: String,
    /// Whether that was made for it.
    #[serde(default)]
    pub is_first: bool,
    /// The configuration that it was made with.
    pub config: Option<PathBuf>,
    /// None while it is being created.
    pub stand_in: Option<ProcessId>,
    pub server: Option<ProcessId>,
}

/// Below which all containers of one installation are remembered.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

/// One container's directory.
#[derive(Debug, Clone)]
pub struct Home {
    dir: PathBuf,
}

impl Root {
    pub fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// Takes the name for a new container.
    pub fn claim(&self, id: &ContainerId) -> Result<Home> {
        let dir = self.0.join(id.as_str());
        let make = || format!("create {}", dir.display());
        DirBuilder::new().recursive(true).mode(0o711).create(&self.0).with_context(make)?;
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(Error::already_exists("container with given ID already exists"))
            }
            made => made.map(|()| Home { dir: dir.clone() }).with_context(make),
        }
    }

    /// The name of a container's new sandbox: its own, unless others live on in one of that name.
    pub fn unused_sandbox(&self, id: &ContainerId) -> Result<SandboxId> {
        let known = self.all()?;
        let is_used = |name: &str| known.iter().any(|(_, record)| record.sandbox == name);
        let names = iter::once(id.to_string()).chain((2..).map(|number| format!("{id}.{number}")));
        let mut unused = names.filter(|name| !is_used(name));
        SandboxId::new(unused.next().expect("there are more names than containers"))
    }

    /// The home of a container, whether or not there is one.
    pub fn home(&self, id: &ContainerId) -> Home {
        Home { dir: self.0.join(id.as_str()) }
    }

    /// The containers that there are, by name; one that is half made or half gone is left out.
    pub fn all(&self) -> Result<Vec<(Home, Record)>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("read {}", self.0.display()))?,
        };
        let mut homes: Vec<_> = entries.flatten().map(|entry| Home { dir: entry.path() }).collect();
        homes.sort_by(|a, b| a.dir.cmp(&b.dir));
        let known = |home: Home| home.record().ok().map(|record| (home, record));
        Ok(homes.into_iter().filter_map(known).collect())
    }
}

impl Home {
    pub fn record(&self) -> Result<Record> {
        let path = self.dir.join(RECORD);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Error::not_found("container does not exist"));
            }
            text => text.with_context(|| format!("read {}", path.display()))?,
        };
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    }

    /// Writes the whole record or none.
    pub fn save(&self, record: &Record) -> Result<()> {
        let text = serde_json::to_vec_pretty(record).context("encode the record")?;
        write_whole(&self.dir.join(RECORD), &text)
    }

    /// Forgets the container; gone already is as good.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.dir.display()))
            }
            _ => Ok(()),
        }
    }

    /// Whether there are other containers in that sandbox.
    pub fn has_neighbours(&self, sandbox: &str) -> Result<bool> {
        let root = Root(self.dir.parent().unwrap_or(Path::new("/")).to_path_buf());
        let is_neighbour =
            |(home, record): &(Self, Record)| home.dir != self.dir && record.sandbox == sandbox;
        Ok(root.all()?.iter().any(is_neighbour))
    }

    /// Lets the server of another container serve this one as well, for as long as either has its sockets.
    pub fn share(&self, other: &Self) -> Result<()> {
        for name in [TASK_SOCKET, STAND_IN_SOCKET] {
            let (theirs, ours) = (other.dir.join(name), self.dir.join(name));
            fs::hard_link(&theirs, &ours).with_context(|| format!("link {}", theirs.display()))?;
        }
        Ok(())
    }

    /// Where the server's log goes.
    pub fn log(&self) -> PathBuf {
        self.dir.join(LOG)
    }

    pub fn listen_for_calls(&self) -> Result<UnixListener> {
        self.listen(TASK_SOCKET)
    }

    pub fn listen_for_stand_ins(&self) -> Result<UnixListener> {
        self.listen(STAND_IN_SOCKET)
    }

    pub fn call(&self) -> Result<UnixStream> {
        self.connect(TASK_SOCKET)
    }

    /// The connection of a stand-in.
    pub fn connect_stand_in(&self) -> Result<UnixStream> {
        self.connect(STAND_IN_SOCKET)
    }

    fn listen(&self, name: &str) -> Result<UnixListener> {
        let failed = || format!("listen at {}", self.dir.join(name).display());
        let (path, _dir) = self.reach(name)?;
        UnixListener::bind(path).with_context(failed)
    }

    fn connect(&self, name: &str) -> Result<UnixStream> {
        let (path, _dir) = self.reach(name)?;
        UnixStream::connect(path).map_err(|error| {
            Error::unavailable(format!("nobody serves at {}: {error}", self.dir.join(name).display()))
        })
    }

    /// A short way to a socket, which holds as long as what comes with it.
    fn reach(&self, name: &str) -> Result<(PathBuf, Option<File>)> {
        let path = self.dir.join(name);
        if path.as_os_str().len() <= SOCKET_PATH {
            return Ok((path, None));
        }
        let dir = File::open(&self.dir).with_context(|| format!("open {}", self.dir.display()))?;
        Ok((format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()).into(), Some(dir)))
    }
}

/// Writes a whole file or none.
pub fn write_whole(path: &Path, text: &[u8]) -> Result<()> {
    let write = || format!("write {}", path.display());
    let name = path.file_name().ok_or_else(|| Error::invalid(format!("{} names no file", path.display())))?;
    let new = path.with_file_name(format!(".{}.new", name.to_string_lossy()));
    File::create(&new).and_then(|mut file| file.write_all(text)).with_context(write)?;
    fs::rename(&new, path).with_context(write)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_once_and_free_again_after_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path().join("a/b"));
        let id = ContainerId::new("c1").unwrap();
        assert!(root.all().unwrap().is_empty());
        let home = root.claim(&id).unwrap();
        let error = root.claim(&id).unwrap_err();
        assert_eq!(error.kind(), runtime::error::ErrorKind::AlreadyExists);
        assert_eq!(home.record().unwrap_err().to_string(), "container does not exist");
        assert!(root.all().unwrap().is_empty(), "it is half made");
        home.remove().unwrap();
        home.remove().unwrap();
        root.claim(&id).unwrap();
    }

    #[test]
    fn a_sandbox_in_which_others_live_on_leaves_its_name_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path().into());
        let id = ContainerId::new("c1").unwrap();
        for (other, sandbox, expected) in [("c2", "c2", "c1"), ("c3", "c1", "c1.2"), ("c4", "c1.2", "c1.3")] {
            let record = serde_json::json!({
                "ociVersion": "1", "id": other, "bundle": "/b", "rootfs": "/r", "created": "", "owner": 0,
                "annotations": {}, "sandbox": sandbox,
            });
            let home = root.claim(&ContainerId::new(other).unwrap()).unwrap();
            home.save(&serde_json::from_value(record).unwrap()).unwrap();
            assert_eq!(root.unused_sandbox(&id).unwrap().as_str(), expected);
        }
    }

    #[test]
    fn a_socket_is_reached_however_long_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path().join("long".repeat(40)));
        let home = root.claim(&ContainerId::new("x".repeat(64)).unwrap()).unwrap();
        assert!(home.call().is_err());
        let _listener = home.listen_for_calls().unwrap();
        home.call().unwrap();
    }
}

//! One thing on the host that outlives a function, and how it is taken away again.
//!
//! Every release is idempotent: what is already gone counts as released.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
};
use serde::{Deserialize, Serialize};

use crate::{
    cgroup,
    error::{Context, Error, Result},
    netlink::{NamespaceId, tap, traffic},
    state::pid::ProcessId,
};

/// How long a killed process may take to vanish: it may have gigabytes of guest memory to give back.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// A host resource as it is remembered on disk. The shape of this type is the most stable part of the record: an
/// unknown version of everything else can still be cleaned up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Resource {
    /// A process of ours; `role` says which, for people.
    Process { id: ProcessId, role: String },
    /// A mount made by us.
    Mount { path: PathBuf },
    /// A directory that is empty again when all that was claimed after it is released.
    Directory { path: PathBuf },
    /// A directory whose contents are all ours: sockets, logs. Never one below which others mount or write.
    Tree { path: PathBuf },
    /// A file or socket.
    File { path: PathBuf },
    /// A tap device of ours.
    Tap { namespace: NamespaceId, name: String },
    /// The place for filters, and our filters, at the link with this index.
    Ingress { namespace: NamespaceId, link: u32 },
    /// A cgroup of ours in one hierarchy; whoever is still in it goes back to `home`.
    Cgroup { path: PathBuf, home: PathBuf },
    /// A cgroup in which nobody is but processes that we have started, and theirs: it is killed as a whole.
    Group { path: PathBuf },
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { id, role } => write!(f, "{role} process {}", id.pid),
            Self::Mount { path } => write!(f, "mount {}", path.display()),
            Self::Directory { path } | Self::Tree { path } => write!(f, "directory {}", path.display()),
            Self::File { path } => write!(f, "file {}", path.display()),
            Self::Tap { namespace, name } => write!(f, "tap {name} in {}", namespace.path.display()),
            Self::Ingress { namespace, link } => {
                write!(f, "filters of link {link} in {}", namespace.path.display())
            }
            Self::Cgroup { path, .. } | Self::Group { path } => write!(f, "cgroup {}", path.display()),
        }
    }
}

impl Resource {
    /// One word for its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Process { .. } => "process",
            Self::Mount { .. } => "mount",
            Self::Directory { .. } => "directory",
            Self::Tree { .. } => "tree",
            Self::File { .. } => "file",
            Self::Tap { .. } => "tap",
            Self::Ingress { .. } => "ingress",
            Self::Cgroup { .. } => "cgroup",
            Self::Group { .. } => "group",
        }
    }

    /// Takes the resource away. Blocks for at most [`KILL_DEADLINE`].
    pub(crate) fn release(&self) -> Result<()> {
        let gone = match self {
            Self::Process { id, .. } => id.end(Duration::ZERO, KILL_DEADLINE),
            Self::Mount { path } => unmount(path),
            Self::Directory { path } => ignore_missing(fs::remove_dir(path)),
            Self::Tree { path } => remove_tree(path),
            Self::File { path } => ignore_missing(fs::remove_file(path)),
            Self::Tap { namespace, name } => tap::remove(namespace, name),
            Self::Ingress { namespace, link } => traffic::undo_ingress(namespace, *link),
            Self::Cgroup { path, home } => cgroup::remove(path, home).map_err(Error::from),
            Self::Group { path } => cgroup::kill(path, KILL_DEADLINE).map_err(Error::from),
        };
        gone.with_context(|| format!("release {self}"))
    }
}

fn ignore_missing(result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(Error::from),
    }
}

/// Takes every mount off `path`; lazily, because a dead virtiofsd or a busy guest must not hold up a teardown.
fn unmount(path: &Path) -> Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // EINVAL: nothing is mounted there.
            Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Removes a directory with all it holds, unless something is mounted in it: deleting through a mount would delete
/// somebody's data.
fn remove_tree(path: &Path) -> Result<()> {
    if let Some(point) = mounts_below(path)?.first() {
        return Err(Error::precondition(format!("{} is still mounted", point.display())));
    }
    ignore_missing(fs::remove_dir_all(path))
}

/// Where something is mounted at or below `dir`, oldest first.
pub(crate) fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    Ok(points.filter(|point| point.starts_with(dir)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(path: &Path) -> NamespaceId {
        NamespaceId { path: path.into(), device: 0, inode: 0 }
    }

    #[test]
    fn releasing_what_is_gone_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for resource in [
            Resource::Mount { path: path.clone() },
            Resource::Directory { path: path.clone() },
            Resource::Tree { path: path.clone() },
            Resource::File { path: path.clone() },
            Resource::Tap { namespace: namespace(&path), name: "tap0_kata".into() },
            Resource::Cgroup { path: path.clone(), home: dir.path().into() },
            Resource::Group { path: path.clone() },
            Resource::Ingress { namespace: namespace(&path), link: 1 },
            // Another one at the same path.
            Resource::Ingress { namespace: namespace(Path::new("/proc/self/ns/net")), link: 1 },
        ] {
            resource.release().unwrap();
        }
    }

    #[test]
    fn a_directory_with_contents_is_kept_and_a_tree_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("y"), "").unwrap();
        assert!(Resource::Directory { path: path.clone() }.release().is_err());
        assert!(path.join("y").exists());
        Resource::Tree { path: path.clone() }.release().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_killed_process_is_waited_for_and_a_reused_pid_is_spared() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let mut id = ProcessId::of(child.id()).unwrap();
        id.start_time += 1;
        Resource::Process { id, role: "test".into() }.release().unwrap();
        assert!(child.try_wait().unwrap().is_none(), "a process with another start time is not ours");

        let reaper = std::thread::spawn({
            let id = ProcessId::of(child.id()).unwrap();
            move || Resource::Process { id, role: "test".into() }.release()
        });
        child.wait().unwrap();
        reaper.join().unwrap().unwrap();
    }
}

//! Mounts that show the owners of files by other numbers, as containers with a user namespace need them: what belongs to
//! root on the disk belongs to the container's root, whatever number that has here.
//!
//! The kernel takes the numbers from a user namespace, which is made for a moment.

#![allow(unsafe_code)]

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use nix::{
    libc,
    sched::{CloneFlags, unshare},
    sys::wait::waitpid,
    unistd::{ForkResult, Pid, fork, pipe2},
};
use oci_spec::runtime::LinuxIdMapping;

use crate::{
    error::{Context, Error, Result},
    mount_tree::MountTree,
};

/// What the kernel reads of a map is a page at most.
const LIMIT: usize = 340;

/// Which numbers stand for which: of users and of groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct IdMap {
    uids: Vec<Range>,
    gids: Vec<Range>,
}

/// So many numbers from `stored` on are shown from `shown` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    stored: u32,
    shown: u32,
    count: u32,
}

impl IdMap {
    /// Of a spec's mappings; `None` if there are none.
    pub fn of_spec(uids: Option<&[LinuxIdMapping]>, gids: Option<&[LinuxIdMapping]>) -> Result<Option<Self>> {
        let ranges = |mappings: Option<&[LinuxIdMapping]>| -> Vec<Range> {
            let range = |mapping: &LinuxIdMapping| Range {
                stored: mapping.container_id(),
                shown: mapping.host_id(),
                count: mapping.size(),
            };
            mappings.unwrap_or_default().iter().map(range).collect()
        };
        Self { uids: ranges(uids), gids: ranges(gids) }.checked()
    }

    /// Of the words `uidmap=` and `gidmap=`, in which containerd names those of a snapshot: `stored:shown:count`, with
    /// commas between several.
    pub fn of_words(uids: Option<&str>, gids: Option<&str>) -> Result<Option<Self>> {
        let ranges = |words: Option<&str>| -> Result<Vec<Range>> {
            words.unwrap_or_default().split(',').filter(|word| !word.is_empty()).map(range).collect()
        };
        Self { uids: ranges(uids)?, gids: ranges(gids)? }.checked()
    }

    fn checked(self) -> Result<Option<Self>> {
        match (self.uids.len(), self.gids.len()) {
            (0, 0) => Ok(None),
            (0, _) => Err(Error::invalid("uidMappings: are missing beside those of groups")),
            (_, 0) => Err(Error::invalid("gidMappings: are missing beside those of users")),
            (users, groups) if users.max(groups) > LIMIT => {
                Err(Error::invalid(format!("uidMappings: more than {LIMIT} ranges")))
            }
            _ => Ok(Some(self)),
        }
    }

    /// Mounts `source` on `target` with its owners mapped, and all that is mounted below it, whose owners are mapped if
    /// `Depth::All`. Not visible elsewhere before it is whole. Blocks.
    pub fn bind(&self, source: &Path, target: &Path, depth: Depth) -> Result<()> {
        let namespace = self.namespace().context("make a user namespace for the numbers")?;
        let tree = MountTree::copy(source).with_context(|| format!("open {}", source.display()))?;
        map_owners(&tree, &namespace, depth).map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => Error::precondition(format!(
                "the file system of {} (or a kernel before 5.12) cannot show its files with other owners",
                source.display()
            )),
            _ => Error::from(error).context(format!("map the owners of {}", source.display())),
        })?;
        tree.attach(target).with_context(|| format!("mount on {}", target.display()))
    }

    /// A user namespace with these numbers, which nobody is in.
    fn namespace(&self) -> Result<OwnedFd> {
        let (child, member) = Member::new()?;
        let made = self.write(child);
        drop(member);
        made
    }

    fn write(&self, child: Pid) -> Result<OwnedFd> {
        let dir = Path::new("/proc").join(child.to_string());
        for (file, ranges) in [("uid_map", &self.uids), ("gid_map", &self.gids)] {
            let line = |range: &Range| format!("{} {} {}\n", range.stored, range.shown, range.count);
            let text: String = ranges.iter().map(line).collect();
            // The kernel takes it in one piece.
            fs::write(dir.join(file), &text)
                .map_err(|error| Error::invalid(format!("{file}: {:?}: {error}", text.trim_end())))?;
        }
        Ok(File::open(dir.join("ns/user")).context("open the user namespace")?.into())
    }
}

/// Whether the owners of what is mounted below are mapped too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    One,
    All,
}

fn range(word: &str) -> Result<Range> {
    let mut numbers = word.split(':').map(str::parse);
    match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(stored)), Some(Ok(shown)), Some(Ok(count)), None) => Ok(Range { stored, shown, count }),
        _ => Err(Error::invalid(format!("{word:?} is no mapping of the form stored:shown:count"))),
    }
}

/// A process in a user namespace of its own, which ends with this.
struct Member {
    pid: Pid,
    /// Dropped first: its end is what the process waits for.
    hold: Option<OwnedFd>,
}

impl Member {
    fn new() -> Result<(Pid, Self)> {
        let flags = nix::fcntl::OFlag::O_CLOEXEC;
        let (ready, tell) = pipe2(flags).context("make a pipe")?;
        let (wait, hold) = pipe2(flags).context("make a pipe")?;
        // SAFETY: the copy of a process with threads only makes system calls, on descriptors that it has, until it ends.
        match unsafe { fork() }.context("fork")? {
            ForkResult::Child => {
                let code = match unshare(CloneFlags::CLONE_NEWUSER) {
                    Ok(()) => 0_u8,
                    Err(errno) => errno as i32 as u8,
                };
                let mut byte = [code];
                // SAFETY: closes, writes and reads descriptors of this copy and a byte on its stack, then ends it.
                unsafe {
                    libc::close(hold.as_raw_fd());
                    libc::write(tell.as_raw_fd(), byte.as_ptr().cast(), 1);
                    libc::close(tell.as_raw_fd());
                    libc::read(wait.as_raw_fd(), byte.as_mut_ptr().cast(), 1);
                    libc::_exit(0)
                }
            }
            ForkResult::Parent { child } => {
                drop(tell);
                let member = Self { pid: child, hold: Some(hold) };
                let mut said = [0];
                File::from(ready).read_exact(&mut said).context("hear the new namespace")?;
                match said[0] {
                    0 => Ok((child, member)),
                    errno => Err(std::io::Error::from_raw_os_error(i32::from(errno)).into()),
                }
            }
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take() {
            let _ = File::from(hold).write(&[0]); // It may have ended by itself.
        }
        let _ = waitpid(self.pid, None);
    }
}

fn map_owners(tree: &MountTree, namespace: &OwnedFd, depth: Depth) -> std::io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: namespace.as_raw_fd() as u64,
    };
    let recursive = if depth == Depth::All { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: string and structure live through the call, which is told the structure's size and keeps nothing of them.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, chown};

    use nix::mount::{MntFlags, umount2};

    use super::*;

    #[test]
    fn mappings_are_read_and_half_ones_are_named() {
        let map = IdMap::of_words(Some("0:1000:10,10:70000:5"), Some("0:1000:10")).unwrap().unwrap();
        assert_eq!(map.uids[1], Range { stored: 10, shown: 70000, count: 5 });
        assert_eq!(IdMap::of_words(None, None).unwrap(), None);
        for (uids, gids, words) in [
            (Some("0:1:1"), None, "gidMappings"),
            (None, Some("0:1:1"), "uidMappings"),
            (Some("0:1"), Some("0:1:1"), "\"0:1\" is no mapping"),
            (Some("0:1:2:3"), Some("0:1:1"), "\"0:1:2:3\" is no mapping"),
        ] {
            let error = IdMap::of_words(uids, gids).unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
    }

    #[test]
    fn files_are_shown_with_other_owners() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&target).unwrap();
        for (name, owner) in [("root", 0), ("user", 7), ("other", 99)] {
            fs::write(source.join(name), "").unwrap();
            chown(source.join(name), Some(owner), Some(owner)).unwrap();
        }
        let map = IdMap::of_words(Some("0:100000:10"), Some("0:200000:10")).unwrap().unwrap();
        match map.bind(&source, &target, Depth::One) {
            Err(error) if error.to_string().contains("cannot show") => {
                eprintln!("skipped: {error}");
                return;
            }
            bound => bound.unwrap(),
        }
        let owners = ["root", "user", "other"].map(|name| {
            let meta = fs::metadata(target.join(name)).unwrap();
            (meta.uid(), meta.gid())
        });
        umount2(&target, MntFlags::MNT_DETACH).unwrap();
        assert_eq!(owners, [(100_000, 200_000), (100_007, 200_007), (65534, 65534)]);
        assert_eq!(fs::metadata(source.join("user")).unwrap().uid(), 7);
        let nonsense = IdMap::of_words(Some("0:5:0"), Some("0:5:1")).unwrap().unwrap();
        let error = nonsense.bind(&source, &target, Depth::One).unwrap_err().to_string();
        assert!(error.contains("uid_map: \"0 5 0\""), "{error}");
    }
}

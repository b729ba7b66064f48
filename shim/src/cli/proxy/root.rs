//! A mount namespace that has a container's files, as far as the host has them.
//!
//! `podman cp` enters the mount namespace of a running container's pid and reads and writes below `/` there: in the host's
//! namespace those would be the host's files. Volumes are there as well. What the guest alone has, such as a tmpfs, is empty
//! here and cannot be written to: what is copied there would be under what the container sees.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    unistd::{chdir, pivot_root},
};
use runtime::{
    error::{Context, Result},
    mount_tree::MountTree,
};

const NONE: Option<&str> = None;

/// What there is of a container's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    pub rootfs: PathBuf,
    /// The root file system alone.
    pub read_only: bool,
    pub mounts: Vec<Mounted>,
}

/// What is mounted below the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    pub destination: PathBuf,
    pub whose: Whose,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    Host { source: PathBuf, read_only: bool },
    Guest,
}

/// Leaves the host's files for the container's.
pub fn enter(files: &Files) -> Result<()> {
    let what = || format!("enter root file system {}", files.rootfs.display());
    unshare(CloneFlags::CLONE_NEWNS).with_context(what)?;
    // What the host mounts and unmounts is seen here, and not the other way round.
    mount(NONE, "/", NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE).with_context(what)?;
    let trees: Vec<_> = files.mounts.iter().map(|mounted| tree(&mounted.whose)).collect();
    mount(Some(&files.rootfs), &files.rootfs, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
        .with_context(what)?;
    chdir(&files.rootfs).with_context(what)?;
    pivot_root(".", ".").with_context(what)?;
    umount2(".", MntFlags::MNT_DETACH).with_context(what)?;
    chdir("/").with_context(what)?;
    // From here on no link of the container leads out of its files.
    for (mounted, tree) in files.mounts.iter().zip(trees) {
        // Where the container cannot have it either, the guest says so.
        let _ = tree.and_then(|tree| put(mounted, tree));
    }
    for covered in files.mounts.iter().filter(|mounted| mounted.whose == Whose::Guest) {
        // Only now: something may be mounted below.
        let _ = make_read_only(&covered.destination); // It is not there, or takes what nobody sees.
    }
    if files.read_only { make_read_only(Path::new("/")).with_context(what) } else { Ok(()) }
}

fn tree(whose: &Whose) -> io::Result<Option<MountTree>> {
    match whose {
        Whose::Host { source, .. } => MountTree::copy(source).map(Some),
        Whose::Guest => Ok(None),
    }
}

fn put(mounted: &Mounted, tree: Option<MountTree>) -> io::Result<()> {
    let Mounted { destination, whose } = mounted;
    match (whose, tree) {
        (Whose::Host { read_only, .. }, Some(tree)) => {
            make_place(destination, &tree)?;
            tree.attach(destination)?;
            if *read_only { make_read_only(destination) } else { Ok(()) }
        }
        _ => {
            make_dir(destination)?;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            Ok(mount(Some("guest"), destination, Some("tmpfs"), flags, Some("size=1m,mode=755"))?)
        }
    }
}

/// As the guest would make it, who finds it then.
fn make_place(destination: &Path, tree: &MountTree) -> io::Result<()> {
    if nix::sys::stat::fstat(tree).is_ok_and(|file| file.st_mode & nix::libc::S_IFMT == nix::libc::S_IFDIR) {
        return make_dir(destination);
    }
    if let Some(parent) = destination.parent() {
        make_dir(parent)?;
    }
    match fs::exists(destination)? {
        true => Ok(()),
        false => File::create(destination).map(drop),
    }
}

fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}

fn make_read_only(path: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    Ok(mount(NONE, path, NONE, flags, NONE)?)
}

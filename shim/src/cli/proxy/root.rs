//! A mount namespace whose root is the container's root file system.
//!
//! `podman cp` enters the mount namespace of a running container's pid and writes below `/` there: in the host's namespace it
//! would write to the host's files.

use std::path::Path;

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    unistd::{chdir, pivot_root},
};
use runtime::error::{Context, Result};

/// Leaves the host's files for those below `rootfs`, of which it sees what the host has mounted there.
pub fn enter(rootfs: &Path) -> Result<()> {
    let what = || format!("enter root file system {}", rootfs.display());
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).with_context(what)?;
    // What the host mounts and unmounts is seen here, and not the other way round.
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).with_context(what)?;
    mount(Some(rootfs), rootfs, none, MsFlags::MS_BIND | MsFlags::MS_REC, none).with_context(what)?;
    chdir(rootfs).with_context(what)?;
    pivot_root(".", ".").with_context(what)?;
    umount2(".", MntFlags::MNT_DETACH).with_context(what)?;
    chdir("/").with_context(what)
}

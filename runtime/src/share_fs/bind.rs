//! The mounts behind the shared tree.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    path::{Component, Path, PathBuf},
};

use nix::mount::{MsFlags, mount};

use crate::{
    error::{Context, Error, Result},
    ledger::{Ledger, Resource},
    paths::SharePaths,
};

/// What the guest may do with a share, enforced on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    ReadOnly,
    ReadWrite,
}

/// Makes `mounts` and its view `shared`.
pub(super) fn make_tree(paths: &SharePaths, ledger: &Ledger) -> Result<()> {
    let (mounts, shared, private) = (paths.mounts(), paths.shared(), private(paths));
    if let Some(parent) = paths.root().parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(parent).with_context(|| create(parent))?;
    }
    make_dir(paths.root(), ledger)?;
    for dir in [&mounts, &shared, &private] {
        make_dir(dir, ledger)?;
    }
    // A mount of its own in each case: propagation is a property of mounts, not of directories.
    bind_mount(&private, &private, MsFlags::empty(), ledger)?;
    propagation(&private, MsFlags::MS_PRIVATE)?;
    bind_mount(&mounts, &mounts, MsFlags::empty(), ledger)?;
    propagation(&mounts, MsFlags::MS_SHARED)?;
    bind_mount(&mounts, &shared, MsFlags::empty(), ledger)?;
    propagation(&shared, MsFlags::MS_SLAVE)?;
    read_only(&shared)
}

/// Binds `source` below `mounts`. Returns the claims, oldest first; on failure they are released already.
pub(super) fn bind(
    paths: &SharePaths,
    source: &Path,
    name: &Path,
    access: Access,
    ledger: &Ledger,
) -> Result<Vec<Resource>> {
    if name.as_os_str().is_empty() || name.components().any(|part| !matches!(part, Component::Normal(_))) {
        return Err(Error::internal(format!("{} is no place in the shared tree", name.display())));
    }
    let mut claims = Vec::new();
    let bound = try_bind(paths, source, name, access, ledger, &mut claims);
    if let Err(error) = bound {
        for claim in claims.iter().rev() {
            if let Err(error) = ledger.release(claim) {
                tracing::warn!(%error, "a failed share leaves something for the sandbox's end");
            }
        }
        return Err(error.context(format!("share {}", source.display())));
    }
    Ok(claims)
}

fn try_bind(
    paths: &SharePaths,
    source: &Path,
    name: &Path,
    access: Access,
    ledger: &Ledger,
    claims: &mut Vec<Resource>,
) -> Result<()> {
    let target = paths.mounts().join(name);
    for dir in parents(&paths.mounts(), name) {
        if !dir.exists() {
            claims.push(make_dir(&dir, ledger)?);
        }
    }
    let is_dir = fs::metadata(source).with_context(|| "look at the source".to_string())?.is_dir();
    claims.push(make_point(&target, is_dir, ledger)?);
    let recursive = MsFlags::MS_REC;
    match access {
        Access::ReadWrite => claims.push(bind_mount(source, &target, recursive, ledger)?),
        Access::ReadOnly => {
            // A remount does not propagate to the guest's view, so the mount is made read-only before it gets there.
            let stage = private(paths).join("stage");
            let point = make_point(&stage, is_dir, ledger)?;
            let staged = bind_mount(source, &stage, recursive, ledger)?;
            let bound = read_only(&stage).and_then(|()| bind_mount(&stage, &target, recursive, ledger));
            let unstaged = ledger.release(&staged).and_then(|()| ledger.release(&point));
            claims.push(bound?);
            unstaged?;
        }
    }
    Ok(())
}

fn private(paths: &SharePaths) -> PathBuf {
    paths.root().join("private")
}

/// The directories between `root` and `name`, outermost first.
fn parents(root: &Path, name: &Path) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = name
        .ancestors()
        .skip(1)
        .filter(|dir| !dir.as_os_str().is_empty())
        .map(|dir| root.join(dir))
        .collect();
    dirs.reverse();
    dirs
}

fn make_dir(dir: &Path, ledger: &Ledger) -> Result<Resource> {
    let claim = Resource::Directory { path: dir.into() };
    ledger.claim(claim.clone())?;
    DirBuilder::new().mode(0o700).create(dir).with_context(|| create(dir))?;
    Ok(claim)
}

/// Makes what something is mounted on: a directory or an empty file.
fn make_point(path: &Path, is_dir: bool, ledger: &Ledger) -> Result<Resource> {
    if is_dir {
        return make_dir(path, ledger);
    }
    let claim = Resource::File { path: path.into() };
    ledger.claim(claim.clone())?;
    fs::OpenOptions::new().write(true).create_new(true).open(path).with_context(|| create(path))?;
    Ok(claim)
}

fn bind_mount(source: &Path, target: &Path, flags: MsFlags, ledger: &Ledger) -> Result<Resource> {
    let claim = Resource::Mount { path: target.into() };
    ledger.claim(claim.clone())?;
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | flags, None::<&str>)
        .with_context(|| format!("bind {} to {}", source.display(), target.display()))?;
    Ok(claim)
}

fn propagation(path: &Path, kind: MsFlags) -> Result<()> {
    mount(None::<&str>, path, None::<&str>, kind, None::<&str>)
        .with_context(|| format!("set the propagation of {}", path.display()))
}

fn read_only(path: &Path) -> Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("make {} read-only", path.display()))
}

fn create(path: &Path) -> String {
    format!("create {}", path.display())
}

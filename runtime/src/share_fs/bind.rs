//! The mounts behind the shared tree.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    path::{Component, Path, PathBuf},
};

use nix::mount::{MsFlags, mount};

use crate::{
    error::{Context, Error, Result},
    idmap::{Depth, IdMap},
    ledger::{Ledger, Resource},
    paths::SharePaths,
};

/// Of the outermost directory: nobody else on the host passes.
const CLOSED: u32 = 0o700;
/// Of those in it: to the guest, root in a container's user namespace is not the owner.
const PASSABLE: u32 = 0o711;

/// What the guest may do with a share, enforced on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    ReadOnly,
    ReadWrite,
}

/// By which numbers the guest knows the owners of a share's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owners {
    AsTheyAre,
    Mapped(IdMap, Depth),
}

/// What the guest sees of what is mounted below the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Below {
    Shown,
    /// The directories that it is mounted on.
    Hidden,
}

/// How something of the host is shown to the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub access: Access,
    pub owners: Owners,
    /// Whatever it is, what is mapped is shown.
    pub below: Below,
}

impl View {
    /// All of it, as it is.
    pub const WHOLE: Self =
        Self { access: Access::ReadWrite, owners: Owners::AsTheyAre, below: Below::Shown };
}

/// Makes `mounts` and its view `shared`.
pub(super) fn make_tree(paths: &SharePaths, ledger: &Ledger) -> Result<()> {
    let (mounts, shared, private) = (paths.mounts(), paths.shared(), private(paths));
    if let Some(parent) = paths.root().parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(parent).with_context(|| create(parent))?;
    }
    make_dir(paths.root(), CLOSED, ledger)?;
    for dir in [&mounts, &shared, &private] {
        make_dir(dir, PASSABLE, ledger)?;
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
    view: &View,
    ledger: &Ledger,
) -> Result<Vec<Resource>> {
    if name.as_os_str().is_empty() || name.components().any(|part| !matches!(part, Component::Normal(_))) {
        return Err(Error::internal(format!("{} is no place in the shared tree", name.display())));
    }
    let mut claims = Vec::new();
    let bound = try_bind(paths, source, name, view, ledger, &mut claims);
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
    view: &View,
    ledger: &Ledger,
    claims: &mut Vec<Resource>,
) -> Result<()> {
    let target = paths.mounts().join(name);
    for dir in parents(&paths.mounts(), name) {
        if !dir.exists() {
            claims.push(make_dir(&dir, PASSABLE, ledger)?);
        }
    }
    let is_dir = fs::metadata(source).with_context(|| "look at the source".to_string())?.is_dir();
    claims.push(make_point(&target, is_dir, ledger)?);
    // By propagation it comes there and goes, unless somebody has made the host's mounts private meanwhile, as a runc
    // without a mount namespace does.
    let twin = Resource::Mount { path: paths.shared().join(name) };
    ledger.claim(twin.clone())?;
    claims.push(twin);
    let depth = if view.below == Below::Shown { MsFlags::MS_REC } else { MsFlags::empty() };
    if (view.access, &view.owners) == (Access::ReadWrite, &Owners::AsTheyAre) {
        claims.push(bind_mount(source, &target, depth, ledger)?);
        return Ok(());
    }
    // What is changed later does not propagate to the guest's view, so the mount is made whole before it gets there.
    let stage = private(paths).join(name.display().to_string().replace('/', "-"));
    let point = make_point(&stage, is_dir, ledger)?;
    let staged = match &view.owners {
        Owners::AsTheyAre => bind_mount(source, &stage, depth, ledger)?,
        Owners::Mapped(map, depth) => {
            let claim = Resource::Mount { path: stage.clone() };
            ledger.claim(claim.clone())?;
            if let Err(error) = map.bind(source, &stage, *depth) {
                ledger.release(&claim)?;
                ledger.release(&point)?;
                return Err(error);
            }
            claim
        }
    };
    let ready = if view.access == Access::ReadOnly { read_only(&stage) } else { Ok(()) };
    let bound = ready.and_then(|()| bind_mount(&stage, &target, MsFlags::MS_REC, ledger));
    let unstaged = ledger.release(&staged).and_then(|()| ledger.release(&point));
    claims.push(bound?);
    unstaged
}

/// A place for mounts that the guest does not see.
pub(super) fn private(paths: &SharePaths) -> PathBuf {
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

fn make_dir(dir: &Path, mode: u32, ledger: &Ledger) -> Result<Resource> {
    let claim = Resource::Directory { path: dir.into() };
    ledger.claim(claim.clone())?;
    DirBuilder::new().mode(mode).create(dir).with_context(|| create(dir))?;
    Ok(claim)
}

/// Makes what something is mounted on: a directory or an empty file.
fn make_point(path: &Path, is_dir: bool, ledger: &Ledger) -> Result<Resource> {
    if is_dir {
        return make_dir(path, PASSABLE, ledger);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        ids::SandboxId,
        paths::Paths,
        state::{ProcessId, Record, StateStore},
    };

    /// A tree below a temporary directory, or `None` without the right to mount.
    fn tree() -> Option<(tempfile::TempDir, SharePaths, Ledger)> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let root = tempfile::tempdir().unwrap();
        let id = SandboxId::new("s1").unwrap();
        let paths = Paths::under(root.path());
        let record = Record::new("s1", ProcessId::of(std::process::id()).unwrap());
        let ledger = Ledger::new(Arc::new(StateStore::create(&paths.sandbox(&id), record).unwrap()));
        let share = paths.share(&id);
        make_tree(&share, &ledger).unwrap();
        Some((root, share, ledger))
    }

    fn mounts_below(root: &Path) -> usize {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts
            .lines()
            .filter(|line| line.split(' ').nth(4).is_some_and(|point| Path::new(point).starts_with(root)))
            .count()
    }

    #[test]
    fn what_is_bound_shows_in_the_view_and_goes_again() {
        let Some((root, share, ledger)) = tree() else { return };
        let source = root.path().join("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), "text").unwrap();

        bind(&share, &source, Path::new("c1/rootfs"), &View::WHOLE, &ledger).unwrap();
        let seen = share.shared().join("c1/rootfs");
        assert_eq!(fs::read_to_string(seen.join("file")).unwrap(), "text");
        fs::write(seen.join("new"), "from the guest").unwrap();
        assert!(source.join("new").exists());
        assert!(fs::write(share.shared().join("new"), "").is_err(), "the view's own layout is read-only");

        let read_only = View { access: Access::ReadOnly, ..View::WHOLE };
        bind(&share, &source, Path::new("v1"), &read_only, &ledger).unwrap();
        assert!(fs::write(share.shared().join("v1/new"), "").is_err(), "a read-only share is so on the host");
        bind(&share, &source.join("file"), Path::new("f1"), &View::WHOLE, &ledger).unwrap();
        assert_eq!(fs::read_to_string(share.shared().join("f1")).unwrap(), "text");

        ledger.release_all().unwrap();
        assert_eq!(mounts_below(root.path()), 0);
        assert!(!share.root().exists() && source.join("file").exists());
    }

    #[test]
    fn what_is_mounted_below_is_shown_or_hidden() {
        let Some((root, share, ledger)) = tree() else { return };
        let source = root.path().join("source");
        fs::create_dir_all(source.join("below")).unwrap();
        let none = None::<&str>;
        mount(Some("t"), &source.join("below"), Some("tmpfs"), MsFlags::empty(), none).unwrap();
        fs::write(source.join("below/file"), "").unwrap();
        for (access, below) in [
            (Access::ReadWrite, Below::Shown),
            (Access::ReadWrite, Below::Hidden),
            (Access::ReadOnly, Below::Shown),
            (Access::ReadOnly, Below::Hidden),
        ] {
            let name = format!("{access:?}-{below:?}");
            let view = View { access, below, ..View::WHOLE };
            bind(&share, &source, Path::new(&name), &view, &ledger).unwrap();
            let seen = share.shared().join(&name).join("below/file");
            assert_eq!(seen.exists(), below == Below::Shown, "{name}");
        }
        ledger.release_all().unwrap();
        nix::mount::umount(&source.join("below")).unwrap();
        assert_eq!(mounts_below(root.path()), 0);
    }

    #[test]
    fn it_goes_from_the_view_even_if_that_hears_of_nothing_any_more() {
        let Some((root, share, ledger)) = tree() else { return };
        let source = root.path().join("source");
        fs::create_dir(&source).unwrap();
        bind(&share, &source, Path::new("c1/rootfs"), &View::WHOLE, &ledger).unwrap();
        for dir in [share.mounts(), share.shared()] {
            propagation(&dir, MsFlags::MS_PRIVATE).unwrap();
        }
        ledger.release_all().unwrap();
        assert_eq!(mounts_below(root.path()), 0);
        assert!(!share.root().exists() && source.exists());
    }

    #[test]
    fn a_failed_share_leaves_nothing_and_no_name_climbs_out() {
        let Some((root, share, ledger)) = tree() else { return };
        let before = mounts_below(root.path());
        assert!(
            bind(&share, Path::new("/nonexistent"), Path::new("c1/rootfs"), &View::WHOLE, &ledger).is_err()
        );
        assert!(!share.mounts().join("c1").exists());
        for name in ["../x", "/x", "a/../../x", ""] {
            assert!(bind(&share, root.path(), Path::new(name), &View::WHOLE, &ledger).is_err(), "{name}");
        }
        assert_eq!(mounts_below(root.path()), before);
        ledger.release_all().unwrap();
        assert_eq!(mounts_below(root.path()), 0);
    }
}

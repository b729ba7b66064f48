//! A tmpfs that begins with what the root file system has in its place: the mount option `tmpcopyup`.
//!
//! libcontainer does not know it. So it is made beforehand, and the container binds it; once that is done, the container's
//! mount is the only one left.

use std::{
    fs, io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink},
    },
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{Mode, SFlag, mknod},
};
use oci_spec::runtime::Mount;

use crate::{
    error::{Context, Result},
    safe_path,
    storage::is_flag,
};

/// The option's word.
pub const WORD: &str = "tmpcopyup";
/// Where mounts below it are seen; with an `r` before it for all that is below.
const PROPAGATION: [&str; 4] = ["private", "shared", "slave", "unbindable"];

/// Mounts that wait to be bound by a container; gone from here when dropped.
#[derive(Default)]
pub struct CopiedUp(Vec<PathBuf>);

impl Drop for CopiedUp {
    fn drop(&mut self) {
        for point in &self.0 {
            if let Err(error) = umount2(point, MntFlags::MNT_DETACH) {
                tracing::warn!(%error, point = %point.display(), "a mount stays in the guest");
            }
        }
    }
}

/// Makes those of `mounts` that ask for it, in directories of `bundle`, and turns them into binds. Blocks.
pub fn prepare(bundle: &Path, root: &Path, mounts: &mut [Mount]) -> Result<CopiedUp> {
    let mut made = CopiedUp::default();
    for (index, entry) in mounts.iter_mut().enumerate() {
        let options = entry.options().clone().unwrap_or_default();
        if !options.iter().any(|option| option == WORD) {
            continue;
        }
        let point = bundle.join(format!("copied-up-{index}"));
        let (mut flags, data): (Vec<_>, Vec<_>) =
            options.into_iter().filter(|option| option != WORD).partition(|option| is_the_mounts(option));
        let what = || format!("mounts[{index}] (on {})", entry.destination().display());
        fs::create_dir(&point).context(what())?;
        let text = data.join(",");
        mount(Some("tmpfs"), &point, Some("tmpfs"), MsFlags::empty(), Some(text.as_str())).context(what())?;
        made.0.push(point.clone());
        let has_mode = data.iter().any(|option| option.starts_with("mode="));
        fill(&point, root, entry.destination(), has_mode).context(what()).context(WORD)?;
        flags.push("bind".into());
        entry.set_typ(Some("bind".into()));
        entry.set_source(Some(point));
        entry.set_options(Some(flags));
    }
    Ok(made)
}

/// Whether an option is for the mount that the container gets, and not for the file system below it.
fn is_the_mounts(option: &str) -> bool {
    let plain = option.strip_prefix('r').unwrap_or(option);
    is_flag(option) || is_flag(plain) || PROPAGATION.contains(&plain)
}

fn fill(point: &Path, root: &Path, destination: &Path, has_mode: bool) -> io::Result<()> {
    let original = match safe_path::open_dir(root, destination) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let original = PathBuf::from(format!("/proc/self/fd/{}/.", original.as_raw_fd())).canonicalize()?;
    let meta = fs::metadata(&original)?;
    copy_tree(&original, point)?;
    lchown(point, Some(meta.uid()), Some(meta.gid()))?;
    if !has_mode {
        fs::set_permissions(point, meta.permissions())?;
    }
    Ok(())
}

/// Copies what is in `from` with its owners and modes; follows no link.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let (from, to) = {
            let name = entry?.file_name();
            (from.join(&name), to.join(&name))
        };
        let meta = fs::symlink_metadata(&from)?;
        let kind = meta.file_type();
        if kind.is_dir() {
            fs::create_dir(&to)?;
            copy_tree(&from, &to)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&from)?, &to)?;
        } else if kind.is_file() {
            fs::copy(&from, &to)?;
        } else if !kind.is_socket() {
            let flags = SFlag::from_bits_truncate(meta.mode() & SFlag::S_IFMT.bits());
            mknod(&to, flags, Mode::from_bits_truncate(meta.mode()), meta.rdev())?;
        } else {
            continue; // Whoever listens there is not here.
        }
        lchown(&to, Some(meta.uid()), Some(meta.gid()))?;
        if !kind.is_symlink() {
            // After the owner, whose change takes set-user-id away.
            fs::set_permissions(&to, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_mount_are_not_the_file_systems() {
        for option in ["rprivate", "shared", "nosuid", "ro", "rro", "rnoexec", "relatime", "noatime"] {
            assert!(is_the_mounts(option), "{option}");
        }
        for option in ["size=1m", "mode=1777", "nr_inodes=5"] {
            assert!(!is_the_mounts(option), "{option}");
        }
    }

    #[test]
    fn a_tree_is_copied_with_its_links_and_modes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("sub/deep")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("sub/file"), "text").unwrap();
        fs::set_permissions(from.join("sub/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::set_permissions(from.join("sub"), fs::Permissions::from_mode(0o711)).unwrap();
        symlink("/outside", from.join("link")).unwrap();
        copy_tree(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("sub/file")).unwrap(), "text");
        assert_eq!(fs::metadata(to.join("sub/file")).unwrap().mode() & 0o7777, 0o4751);
        assert_eq!(fs::metadata(to.join("sub")).unwrap().mode() & 0o7777, 0o711);
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("/outside"));
        assert!(to.join("sub/deep").is_dir());
    }
}

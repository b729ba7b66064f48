//! One storage -> one mount.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
};

use nix::mount::MsFlags;
use protocols::agent::Storage;

use crate::error::{Context, Error, Result};

/// Mount option words that are flags: (word, flag, whether it sets or clears it).
const FLAGS: [(&str, MsFlags, bool); 22] = [
    ("async", MsFlags::MS_SYNCHRONOUS, false),
    ("atime", MsFlags::MS_NOATIME, false),
    ("bind", MsFlags::MS_BIND, true),
    ("defaults", MsFlags::empty(), true),
    ("dev", MsFlags::MS_NODEV, false),
    ("diratime", MsFlags::MS_NODIRATIME, false),
    ("dirsync", MsFlags::MS_DIRSYNC, true),
    ("exec", MsFlags::MS_NOEXEC, false),
    ("noatime", MsFlags::MS_NOATIME, true),
    ("nodev", MsFlags::MS_NODEV, true),
    ("nodiratime", MsFlags::MS_NODIRATIME, true),
    ("noexec", MsFlags::MS_NOEXEC, true),
    ("nosuid", MsFlags::MS_NOSUID, true),
    ("rbind", MsFlags::from_bits_truncate(MsFlags::MS_BIND.bits() | MsFlags::MS_REC.bits()), true),
    ("relatime", MsFlags::MS_RELATIME, true),
    ("remount", MsFlags::MS_REMOUNT, true),
    ("ro", MsFlags::MS_RDONLY, true),
    ("rw", MsFlags::MS_RDONLY, false),
    ("strictatime", MsFlags::MS_STRICTATIME, true),
    ("suid", MsFlags::MS_NOSUID, false),
    ("sync", MsFlags::MS_SYNCHRONOUS, true),
    ("_netdev", MsFlags::empty(), true),
];
/// The option by which the host asks for a group; no file system knows it.
const FSGID: &str = "fsgid=";

/// Whether an option is a flag of every mount, and not for the file system.
pub fn is_flag(option: &str) -> bool {
    FLAGS.iter().any(|(word, _, _)| *word == option)
}

pub(super) fn mount(storage: &Storage) -> Result<()> {
    mount_with(storage, storage.options.iter().map(String::as_str))
}

/// A memory file system, given to a group if that is asked for.
pub(super) fn mount_ephemeral(storage: &Storage) -> Result<()> {
    if storage.fstype == "hugetlbfs" {
        return Err(Error::invalid("huge pages are not served by this agent"));
    }
    mount_with(
        storage,
        storage.options.iter().map(String::as_str).filter(|option| !option.starts_with(FSGID)),
    )?;
    give_to_group(storage)
}

/// A directory of the guest's own.
pub(super) fn set_up_local(storage: &Storage) -> Result<()> {
    for option in &storage.options {
        if let Some(mode) = option.strip_prefix("mode=") {
            let mode = u32::from_str_radix(mode, 8)
                .map_err(|_| Error::invalid(format!("option {option}: not octal")))?;
            fs::set_permissions(&storage.mount_point, fs::Permissions::from_mode(mode & 0o7777))
                .context(option)?;
        }
    }
    give_to_group(storage)
}

fn mount_with<'a>(storage: &Storage, options: impl Iterator<Item = &'a str>) -> Result<()> {
    if storage.fstype.is_empty() || storage.source.is_empty() {
        return Err(Error::invalid("source and fstype must be given"));
    }
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in options {
        match FLAGS.iter().find(|(word, _, _)| *word == option) {
            Some((_, flag, true)) => flags |= *flag,
            Some((_, flag, false)) => flags -= *flag,
            None => data.push(option),
        }
    }
    let (source, fstype, data) = (storage.source.as_str(), storage.fstype.as_str(), data.join(","));
    nix::mount::mount(Some(source), Path::new(&storage.mount_point), Some(fstype), flags, Some(data.as_str()))
        .context(format!("mount {fstype} {source} with {data:?}"))
}

fn give_to_group(storage: &Storage) -> Result<()> {
    let Some(group) = storage.options.iter().find_map(|option| option.strip_prefix(FSGID)) else {
        return Ok(());
    };
    let group: u32 =
        group.parse().map_err(|_| Error::invalid(format!("option {FSGID}{group}: not a group")))?;
    let point = Path::new(&storage.mount_point);
    chown(point, None, Some(group)).context("chown")?;
    let mode = fs::metadata(point)?.mode() & 0o7777;
    // New files take the directory's group.
    fs::set_permissions(point, fs::Permissions::from_mode(mode | 0o2000)).context("set the group bit")
}

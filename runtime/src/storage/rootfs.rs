//! The mounts that make a container's root file system on the host, as a snapshotter gives them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::mount::{MsFlags, mount};

use crate::{
    error::{Context, Error, Result},
    idmap::{Depth, IdMap},
    ledger::{Ledger, Resource},
};

/// One mount of a root file system; several are made one over the other, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RootfsMount {
    pub fstype: String,
    pub source: String,
    /// Below the root, usually empty.
    pub target: String,
    pub options: Vec<String>,
}

const LOWER: &str = "lowerdir=";

/// Option words that are flags: (word, flag, whether it sets or clears it).
const FLAGS: [(&str, MsFlags, bool); 27] = [
    ("async", MsFlags::MS_SYNCHRONOUS, false),
    ("atime", MsFlags::MS_NOATIME, false),
    ("bind", MsFlags::MS_BIND, true),
    ("defaults", MsFlags::empty(), true),
    ("dev", MsFlags::MS_NODEV, false),
    ("diratime", MsFlags::MS_NODIRATIME, false),
    ("dirsync", MsFlags::MS_DIRSYNC, true),
    ("exec", MsFlags::MS_NOEXEC, false),
    ("mand", MsFlags::MS_MANDLOCK, true),
    ("noatime", MsFlags::MS_NOATIME, true),
    ("nodev", MsFlags::MS_NODEV, true),
    ("nodiratime", MsFlags::MS_NODIRATIME, true),
    ("noexec", MsFlags::MS_NOEXEC, true),
    ("nomand", MsFlags::MS_MANDLOCK, false),
    ("norelatime", MsFlags::MS_RELATIME, false),
    ("nostrictatime", MsFlags::MS_STRICTATIME, false),
    ("nosuid", MsFlags::MS_NOSUID, true),
    ("rbind", MsFlags::from_bits_truncate(MsFlags::MS_BIND.bits() | MsFlags::MS_REC.bits()), true),
    ("relatime", MsFlags::MS_RELATIME, true),
    ("remount", MsFlags::MS_REMOUNT, true),
    ("ro", MsFlags::MS_RDONLY, true),
    ("rw", MsFlags::MS_RDONLY, false),
    ("strictatime", MsFlags::MS_STRICTATIME, true),
    ("suid", MsFlags::MS_NOSUID, false),
    ("sync", MsFlags::MS_SYNCHRONOUS, true),
    ("silent", MsFlags::MS_SILENT, true),
    ("loud", MsFlags::MS_SILENT, false),
];

/// Mounts everything on `root`, which an engine that mounts by itself has done already: then there is nothing in
/// `mounts`. `stage` is a place for a mount that is needed meanwhile.
pub(super) fn mount_all(
    mounts: &[RootfsMount],
    root: &Path,
    stage: &Path,
    ledger: &Ledger,
    claims: &mut Vec<Resource>,
) -> Result<()> {
    if !mounts.is_empty() && !root.exists() {
        let claim = Resource::Directory { path: root.into() };
        ledger.claim(claim.clone())?;
        claims.push(claim);
        fs::create_dir(root).with_context(|| format!("create {}", root.display()))?;
    }
    for (index, spec) in mounts.iter().enumerate() {
        let context = || format!("rootfs[{index}] ({} {})", spec.fstype, spec.source);
        let target = target(root, &spec.target).with_context(context)?;
        let claim = Resource::Mount { path: target.clone() };
        ledger.claim(claim.clone())?;
        claims.push(claim);
        spec.mount(&target, stage, ledger).with_context(context)?;
    }
    if !root.is_dir() {
        return Err(Error::invalid(format!("root.path: {} is not a directory", root.display())));
    }
    Ok(())
}

fn target(root: &Path, below: &str) -> Result<PathBuf> {
    let below = Path::new(below.trim_start_matches('/'));
    if below.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
        return Err(Error::invalid(format!("target {} leaves the root", below.display())));
    }
    Ok(root.join(below))
}

impl RootfsMount {
    fn mount(&self, target: &Path, stage: &Path, ledger: &Ledger) -> Result<()> {
        let (plain, map) = self.without_map()?;
        match map {
            None => self.mount_plain(target),
            Some(map) if self.fstype == "overlay" => plain.mount_mapped_overlay(&map, target, stage, ledger),
            Some(map) => plain.mount_mapped_bind(&map, target),
        }
    }

    /// This mount without the words by which containerd 2 has the owners of a snapshot's files mapped, and those.
    fn without_map(&self) -> Result<(Self, Option<IdMap>)> {
        let word = |key: &str| self.options.iter().find_map(|option| option.strip_prefix(key));
        let map = IdMap::of_words(word("uidmap="), word("gidmap="))?;
        let mut plain = self.clone();
        plain.options.retain(|option| !option.starts_with("uidmap=") && !option.starts_with("gidmap="));
        Ok((plain, map))
    }

    fn mount_mapped_bind(&self, map: &IdMap, target: &Path) -> Result<()> {
        let (flags, _) = self.parse_options();
        if !flags.contains(MsFlags::MS_BIND) && !matches!(self.fstype.as_str(), "bind" | "rbind") {
            return Err(Error::unimplemented("uidmap: is for an overlay or a bind mount alone"));
        }
        map.bind(Path::new(&self.source), target, Depth::One)?;
        remount(target, flags - (MsFlags::MS_BIND | MsFlags::MS_REC))
    }

    /// The layers below are seen through a mount on `stage` that maps them; what is written goes to the upper one as it is.
    fn mount_mapped_overlay(&self, map: &IdMap, target: &Path, stage: &Path, ledger: &Ledger) -> Result<()> {
        let (flags, data) = self.parse_options();
        let (lower, rest): (Vec<_>, Vec<_>) = data.split(',').partition(|word| word.starts_with(LOWER));
        let common = lower.first().and_then(|lower| common_parent(lower)).ok_or_else(|| {
            Error::unimplemented("uidmap: an overlay whose layers have no directory in common")
        })?;
        let below = lower[0].replace(&format!("{common}/"), "");
        let data = [&rest[..], &[&below]].concat().join(",");
        let (point, mounted) =
            (Resource::Directory { path: stage.into() }, Resource::Mount { path: stage.into() });
        ledger.claim(point.clone())?;
        fs::create_dir(stage).with_context(|| format!("create {}", stage.display()))?;
        ledger.claim(mounted.clone())?;
        let made = map
            .bind(Path::new(&common), stage, Depth::One)
            .and_then(|()| self.mount_overlay_in(stage, target, flags, &data));
        // The overlay has copies of its own.
        let unstaged = ledger.release(&mounted).and_then(|()| ledger.release(&point));
        made.and(unstaged)
    }

    fn mount_plain(&self, target: &Path) -> Result<()> {
        let (flags, data) = self.parse_options();
        if flags.contains(MsFlags::MS_BIND) || matches!(self.fstype.as_str(), "bind" | "rbind") {
            let flags =
                if self.fstype == "rbind" { flags | MsFlags::MS_REC } else { flags } | MsFlags::MS_BIND;
            let binding = flags & (MsFlags::MS_BIND | MsFlags::MS_REC);
            mount(Some(self.source.as_str()), target, None::<&str>, binding, None::<&str>).context("bind")?;
            return remount(target, flags - (MsFlags::MS_BIND | MsFlags::MS_REC));
        }
        if data.len() >= 4096 {
            // One page is the kernel's limit; a deep image's lower directories go past it.
            return self.mount_overlay_relative(target, flags, &data);
        }
        mount(Some(self.source.as_str()), target, Some(self.fstype.as_str()), flags, Some(data.as_str()))
            .context("mount")
    }

    /// Mounts an overlay whose options are too long, with its directories written relative to their common parent.
    fn mount_overlay_relative(&self, target: &Path, flags: MsFlags, data: &str) -> Result<()> {
        let common = common_parent(data).filter(|_| self.fstype == "overlay").ok_or_else(|| {
            Error::invalid(format!("mount options of {} bytes are more than the kernel's page", data.len()))
        })?;
        let data = data.replace(&format!("{common}/"), "");
        if data.len() >= 4096 {
            return Err(Error::invalid(format!(
                "overlay options of {} bytes are more than the kernel's page",
                data.len()
            )));
        }
        self.mount_overlay_in(Path::new(&common), target, flags, &data)
    }

    /// Mounts an overlay some of whose directories are written relative to `dir`.
    fn mount_overlay_in(&self, dir: &Path, target: &Path, flags: MsFlags, data: &str) -> Result<()> {
        let (source, fstype, data) = (self.source.clone(), self.fstype.clone(), data.to_owned());
        let (dir, target) = (dir.to_path_buf(), target.to_path_buf());
        // The working directory belongs to the process, so a thread with one of its own makes the mount.
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).context("unshare the working directory")?;
            std::env::set_current_dir(&dir).with_context(|| format!("change to {}", dir.display()))?;
            mount(Some(source.as_str()), &target, Some(fstype.as_str()), flags, Some(data.as_str()))
                .context("mount")
        })
        .join()
        .map_err(|_| Error::internal("the mounting thread panicked"))?
    }

    /// Flags, and what is left for the file system, joined by commas.
    fn parse_options(&self) -> (MsFlags, String) {
        let mut flags = MsFlags::empty();
        let mut data = Vec::new();
        for option in &self.options {
            match FLAGS.iter().find(|(word, _, _)| word == option) {
                Some((_, flag, true)) => flags |= *flag,
                Some((_, flag, false)) => flags -= *flag,
                None => data.push(option.as_str()),
            }
        }
        (flags, data.join(","))
    }
}

/// Gives a bind mount its flags.
fn remount(target: &Path, flags: MsFlags) -> Result<()> {
    if flags.is_empty() {
        return Ok(());
    }
    let flags = flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>).context("remount")
}

/// The longest directory in which all directories of overlay options lie.
fn common_parent(data: &str) -> Option<String> {
    let mut dirs = data
        .split(',')
        .filter_map(|option| option.split_once('='))
        .filter(|(key, _)| matches!(*key, "lowerdir" | "upperdir" | "workdir"))
        .flat_map(|(_, dirs)| dirs.split(':'));
    let mut common = PathBuf::from(dirs.next()?).parent()?.to_path_buf();
    for dir in dirs {
        while !Path::new(dir).starts_with(&common) {
            common = common.parent()?.to_path_buf();
        }
    }
    common.to_str().filter(|common| *common != "/").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(options: &[&str]) -> RootfsMount {
        RootfsMount { options: options.iter().map(|o| o.to_string()).collect(), ..Default::default() }
    }

    #[test]
    fn flags_are_told_from_data_and_the_last_word_wins() {
        let (flags, data) = options(&["ro", "nosuid", "lowerdir=/a:/b", "rw", "index=off"]).parse_options();
        assert_eq!(flags, MsFlags::MS_NOSUID);
        assert_eq!(data, "lowerdir=/a:/b,index=off");
        assert_eq!(
            options(&["rbind", "ro"]).parse_options().0,
            MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY
        );
    }

    #[test]
    fn the_map_of_a_snapshot_is_no_option_of_its_file_system() {
        let (plain, map) = options(&["uidmap=0:7:9", "gidmap=0:7:9", "index=off"]).without_map().unwrap();
        assert_eq!(plain.options, ["index=off"]);
        assert!(map.is_some() && options(&["ro"]).without_map().unwrap().1.is_none());
    }

    #[test]
    fn directories_of_an_overlay_share_a_parent() {
        let data = "workdir=/s/snapshots/9/work,upperdir=/s/snapshots/9/fs,lowerdir=/s/snapshots/1/fs:/s/snapshots/2/fs";
        assert_eq!(common_parent(data).as_deref(), Some("/s/snapshots"));
        assert_eq!(common_parent("lowerdir=/a:/b"), None);
    }

    #[test]
    fn a_target_cannot_leave_the_root() {
        assert!(target(Path::new("/r"), "../x").is_err());
        assert_eq!(target(Path::new("/r"), "/x").unwrap(), Path::new("/r/x"));
        assert_eq!(target(Path::new("/r"), "").unwrap(), Path::new("/r/"));
    }
}

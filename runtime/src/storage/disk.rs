//! Block devices of the host that a container asks for: among its devices, or as the source of a mount.

use std::{
    fs,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    libc,
    sys::stat::{major, minor},
};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, Spec};

use crate::error::{Context, Error, Result};

/// One that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    /// Where the container has it.
    pub place: PathBuf,
    pub major: i64,
    pub minor: i64,
    pub read_only: bool,
}

impl Disk {
    /// Opens the device, and says whether it can only be read. Blocks.
    pub fn open(&self) -> Result<(OwnedFd, bool)> {
        let context = || format!("{} ({}:{})", self.place.display(), self.major, self.minor);
        let facts = facts((self.major, self.minor));
        let event = fs::read_to_string(facts.join("uevent"))
            .map_err(|_| Error::invalid(format!("{}: the host has no such block device", context())))?;
        let name = event.lines().find_map(|line| line.strip_prefix("DEVNAME=")).unwrap_or_default();
        let node = Path::new("/dev").join(name);
        if block_device(&node) != Some((self.major, self.minor)) {
            return Err(Error::invalid(format!(
                "{}: the host has no node {} for it",
                context(),
                node.display()
            )));
        }
        let read_only =
            self.read_only || fs::read_to_string(facts.join("ro")).is_ok_and(|text| text.trim() == "1");
        let file = fs::OpenOptions::new()
            .read(true)
            .write(!read_only)
            .custom_flags(libc::O_NONBLOCK)
            .open(&node)
            .with_context(|| format!("{}: open {}", context(), node.display()))?;
        Ok((file.into(), read_only))
    }
}

/// Those among a spec's devices. A privileged container may come with all of its host's, and goes without: what it asked for
/// by itself is somewhere else than on the host.
pub(super) fn of_spec(spec: &Spec) -> Vec<Disk> {
    let Some(linux) = spec.linux() else { return Vec::new() };
    let rules =
        linux.resources().as_ref().and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
    let privileged = allows_all(rules);
    let devices = linux.devices().iter().flatten().filter(|device| device.typ() == LinuxDeviceType::B);
    let is_asked = |device: &&LinuxDevice| {
        let numbers = (device.major(), device.minor());
        !privileged || facts(numbers).exists() && block_device(device.path()) != Some(numbers)
    };
    devices
        .filter(is_asked)
        .map(|device| Disk {
            place: device.path().clone(),
            major: device.major(),
            minor: device.minor(),
            read_only: !privileged && is_read_only(rules, device.major(), device.minor()),
        })
        .collect()
}

/// Where the kernel tells of a block device, if there is one of these numbers.
fn facts((major, minor): (i64, i64)) -> PathBuf {
    PathBuf::from(format!("/sys/dev/block/{major}:{minor}"))
}

/// The numbers of the block device that `path` leads to.
pub(super) fn block_device(path: &Path) -> Option<(i64, i64)> {
    let meta = fs::metadata(path).ok().filter(|meta| meta.file_type().is_block_device())?;
    let number = |number: u64| i64::try_from(number).ok();
    Some((number(major(meta.rdev()))?, number(minor(meta.rdev()))?))
}

/// Whether the rule for just this device lets nobody write.
fn is_read_only(rules: &[LinuxDeviceCgroup], major: i64, minor: i64) -> bool {
    let is_its = |rule: &&LinuxDeviceCgroup| {
        rule.allow()
            && rule.typ() == Some(LinuxDeviceType::B)
            && (rule.major(), rule.minor()) == (Some(major), Some(minor))
    };
    let mut its = rules.iter().filter(is_its).filter_map(|rule| rule.access().as_deref()).peekable();
    its.peek().is_some() && its.all(|access| !access.is_empty() && !access.contains('w'))
}

/// Whether the rules allow everything in the end, as those of a privileged container do.
pub(crate) fn allows_all(rules: &[LinuxDeviceCgroup]) -> bool {
    let is_for_all = |rule: &&LinuxDeviceCgroup| {
        matches!(rule.typ(), None | Some(LinuxDeviceType::A))
            && rule.major().is_none_or(|major| major < 0)
            && rule.minor().is_none_or(|minor| minor < 0)
    };
    rules.iter().rfind(is_for_all).is_some_and(LinuxDeviceCgroup::allow)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn disks(devices: Value, rules: Value) -> Vec<Disk> {
        let linux = json!({"devices": devices, "resources": {"devices": rules}});
        of_spec(&serde_json::from_value(json!({"ociVersion": "1.0.2", "linux": linux})).unwrap())
    }

    #[test]
    fn what_is_asked_for_is_told_from_what_comes_with_the_host() {
        let devices = json!([
            {"path": "/dev/xvda", "type": "b", "major": 8, "minor": 1},
            {"path": "/dev/xvdb", "type": "b", "major": 8, "minor": 2},
            {"path": "/dev/null", "type": "c", "major": 1, "minor": 3},
        ]);
        let found = disks(
            devices,
            json!([{"allow": false, "access": "rwm"},
                   {"allow": true, "type": "b", "major": 8, "minor": 1, "access": "rm"},
                   {"allow": true, "type": "b", "major": 8, "minor": 2, "access": "rwm"}]),
        );
        let disk = |place: &str, minor, read_only| Disk { place: place.into(), major: 8, minor, read_only };
        assert_eq!(found, [disk("/dev/xvda", 1, true), disk("/dev/xvdb", 2, false)]);
        let all = json!([{"allow": true, "access": "rwm"}]);
        let Some((path, major, minor)) = fs::read_dir("/dev").unwrap().flatten().find_map(|entry| {
            let (major, minor) = block_device(&entry.path())?;
            facts((major, minor)).exists().then(|| (entry.path(), major, minor))
        }) else {
            eprintln!("skipped: no block device here");
            return;
        };
        let device =
            |path: &Path, major| json!([{"path": path, "type": "b", "major": major, "minor": minor}]);
        let other = Path::new("/dev/a place of its own");
        assert_eq!(disks(device(other, major), all.clone()).len(), 1, "asked for");
        assert_eq!(disks(device(&path, major), all.clone()), [], "came with the host");
        assert_eq!(disks(device(other, 4095), all), [], "is nowhere");
        assert_eq!(disks(device(&path, major), json!([])).len(), 1);
    }

    #[test]
    fn a_device_that_the_host_has_not_is_named() {
        let disk = Disk { place: "/dev/xvda".into(), major: 7, minor: 9999, read_only: false };
        let error = disk.open().unwrap_err().to_string();
        assert_eq!(error, "/dev/xvda (7:9999): the host has no such block device");
    }
}

//! The devices of the guest, all of which a privileged container has.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use nix::sys::stat::{major, minor};
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, Mount,
    Spec,
};
use protocols::guest;

use crate::error::{Error, Result};

const DEV: &str = "/dev";
/// What containers have of their own there, and what every one has.
const OWN: [&str; 12] =
    ["console", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "tty", "urandom", "zero"];
/// `/dev/bus/usb/001/002` is the deepest there is.
const DEPTH: usize = 4;

/// Adds those in `guest`, and lets the container use any, if the host says that it is privileged.
pub fn add_for_privileged(spec: &mut Spec, guest: impl FnOnce() -> Vec<LinuxDevice>) -> Result<()> {
    let annotations = spec.annotations().as_ref();
    let is_marked =
        annotations.and_then(|all| all.get(guest::ANNOTATION_PRIVILEGED)).is_some_and(|is| is == "true");
    let mounts = spec.mounts().clone().unwrap_or_default();
    let Some(linux) = spec.linux_mut().as_mut().filter(|_| is_marked) else { return Ok(()) };
    // Without a directory of its own they would be made in its root file system, which is the host's.
    if mounts
        .iter()
        .any(|mount| mount.destination() == Path::new(DEV) && mount.typ().as_deref() == Some("tmpfs"))
    {
        let mut devices = linux.devices().clone().unwrap_or_default();
        for device in guest() {
            let is_there = devices.iter().any(|other| other.path() == device.path());
            if !is_there && !is_covered(device.path(), &mounts) {
                devices.push(device);
            }
        }
        linux.set_devices(Some(devices));
    }
    let mut resources = linux.resources().clone().unwrap_or_default();
    let mut rules = resources.devices().clone().unwrap_or_default();
    rules.push(any()?);
    resources.set_devices(Some(rules));
    linux.set_resources(Some(resources));
    Ok(())
}

fn is_covered(path: &Path, mounts: &[Mount]) -> bool {
    mounts
        .iter()
        .map(Mount::destination)
        .any(|point| point.starts_with(DEV) && point != Path::new(DEV) && path.starts_with(point))
}

fn any() -> Result<LinuxDeviceCgroup> {
    let rule = LinuxDeviceCgroupBuilder::default().allow(true).access("rwm");
    rule.build().map_err(|error| Error::internal(error.to_string()))
}

/// All that the guest's kernel has made nodes for, but those that are every container's.
pub fn of_guest() -> Vec<LinuxDevice> {
    let mut found = Vec::new();
    collect(Path::new(DEV), DEPTH, &mut found);
    found.sort_by(|one, other| one.path().cmp(other.path()));
    found
}

fn collect(dir: &Path, depth: usize, found: &mut Vec<LinuxDevice>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let is_own = dir == Path::new(DEV) && OWN.iter().any(|own| entry.file_name() == *own);
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() && depth > 0 && !is_own {
            collect(&entry.path(), depth - 1, found);
        } else if let (Some(typ), false) = (kind(&meta), is_own) {
            let device = LinuxDeviceBuilder::default()
                .path(entry.path())
                .typ(typ)
                .major(major(meta.rdev()) as i64)
                .minor(minor(meta.rdev()) as i64)
                .file_mode(meta.mode() & 0o777)
                .uid(meta.uid())
                .gid(meta.gid());
            found.extend(device.build());
        }
    }
}

fn kind(meta: &fs::Metadata) -> Option<LinuxDeviceType> {
    let kind = meta.file_type();
    if kind.is_char_device() {
        Some(LinuxDeviceType::C)
    } else if kind.is_block_device() {
        Some(LinuxDeviceType::B)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::container::devices::allow_all;

    fn with_nodes(marked: &str, dev: &str) -> (Vec<String>, Vec<LinuxDeviceCgroup>) {
        let mut spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.0.2",
            "annotations": {guest::ANNOTATION_PRIVILEGED: marked},
            "mounts": [{"destination": "/dev", "type": dev, "source": dev},
                       {"destination": "/dev/snd", "type": "bind", "source": "/x"}],
            "linux": {"devices": [{"path": "/dev/vda", "type": "b", "major": 254, "minor": 16}],
                      "resources": {"devices": [{"allow": false, "access": "rwm"}]}},
        }))
        .unwrap();
        let device = |path: &str| -> LinuxDevice {
            serde_json::from_value(json!({"path": path, "type": "c", "major": 1, "minor": 11})).unwrap()
        };
        add_for_privileged(&mut spec, || ["/dev/kmsg", "/dev/vda", "/dev/snd/seq"].map(device).into())
            .unwrap();
        let linux = serde_json::to_value(spec.linux()).unwrap();
        let paths = linux["devices"].as_array().unwrap().iter();
        let paths = paths.map(|device: &Value| device["path"].as_str().unwrap().to_owned()).collect();
        (paths, serde_json::from_value(linux["resources"]["devices"].clone()).unwrap())
    }

    #[test]
    fn a_privileged_container_has_what_the_guest_has_where_nothing_else_is() {
        let (paths, rules) = with_nodes("true", "tmpfs");
        assert_eq!(paths, ["/dev/vda", "/dev/kmsg"]);
        assert!(allow_all(&rules));
        let (paths, rules) = with_nodes("true", "bind");
        assert_eq!(paths, ["/dev/vda"], "without a directory of its own");
        assert!(allow_all(&rules));
        let (paths, rules) = with_nodes("false", "tmpfs");
        assert_eq!(paths, ["/dev/vda"]);
        assert!(!allow_all(&rules));
    }
}

//! Disks of the host for containers: found by their place on the PCI bus, and let go of when no container has them.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use oci_spec::runtime::{LinuxDeviceType, Spec};
use protocols::{agent::Device, guest};

use crate::{
    error::{Error, Result},
    pci,
};

/// The kernel has looked when it is asked again; only a driver's own work may take longer.
const PAUSE: Duration = Duration::from_millis(10);

/// The disks in use, by address, with how many containers use each.
#[derive(Debug, Default)]
pub struct Disks(Mutex<HashMap<String, usize>>);

/// A disk that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Where the container has it.
    place: PathBuf,
    address: String,
    /// Its node in the guest.
    node: PathBuf,
    major: i64,
    minor: i64,
}

impl Disks {
    /// Waits until the guest has `devices`, at most for `patience`. Blocks.
    pub fn attach(&self, devices: &[Device], patience: Duration) -> Result<Vec<Disk>> {
        let deadline = Instant::now() + patience;
        let mut disks = Vec::new();
        for device in devices {
            let found = parse(device).and_then(|()| find(device, deadline));
            match found {
                Ok(disk) => {
                    *self.lock().entry(disk.address.clone()).or_default() += 1;
                    disks.push(disk);
                }
                Err(error) => {
                    self.release(&disks);
                    return Err(error.context(format!("device for {:?}", device.container_path)));
                }
            }
        }
        Ok(disks)
    }

    /// A container does not have these any more. What nobody has leaves the bus, for the host is about to take it away.
    /// Blocks.
    pub fn release(&self, disks: &[Disk]) {
        let mut used = self.lock();
        for disk in disks {
            match used.get_mut(&disk.address) {
                Some(count) if *count > 1 => *count -= 1,
                _ => {
                    used.remove(&disk.address);
                    if let Err(error) = pci::remove(&disk.address) {
                        tracing::warn!(%error, address = disk.address, "a disk stays");
                    }
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        // Counts are changed in single steps.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse(device: &Device) -> Result<()> {
    if device.type_ != guest::DEVICE_BLK {
        return Err(Error::invalid(format!("no handler for device type {:?}", device.type_)));
    }
    if !Path::new(&device.container_path).is_absolute() {
        return Err(Error::invalid("container_path is not absolute"));
    }
    Ok(())
}

fn find(device: &Device, deadline: Instant) -> Result<Disk> {
    let mut looked = false;
    loop {
        if let Some(disk) = look(device)? {
            return Ok(disk);
        }
        if !looked {
            // On quiet ports nothing is found unasked; this returns when drivers know their devices.
            pci::rescan()?;
            looked = true;
        } else if Instant::now() > deadline {
            return Err(Error::not_found(format!("no disk at {} on the PCI bus", device.id)));
        } else {
            sleep(PAUSE);
        }
    }
}

fn look(device: &Device) -> Result<Option<Disk>> {
    let Some(dir) = pci::device(&device.id)? else { return Ok(None) };
    let virtio = names(&dir).find(|name| name.starts_with("virtio"));
    let Some(blocks) = virtio.map(|name| dir.join(name).join("block")) else { return Ok(None) };
    let Some(name) = names(&blocks).next() else { return Ok(None) };
    let node = Path::new("/dev").join(&name);
    let Ok(numbers) = fs::read_to_string(blocks.join(&name).join("dev")) else { return Ok(None) };
    let numbers = numbers
        .trim()
        .split_once(':')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let (major, minor) = numbers.ok_or_else(|| Error::internal(format!("{name}: no numbers")))?;
    let place = PathBuf::from(&device.container_path);
    Ok(node.exists().then(|| Disk { place, address: device.id.clone(), node, major, minor }))
}

fn names(dir: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// Gives the spec's devices, rules and mounts the numbers and names that `disks` have here.
pub fn adopt(spec: &mut Spec, disks: &[Disk]) -> Result<()> {
    let mut numbers = HashMap::new();
    for disk in disks {
        let mut is_wanted = false;
        for mount in spec.mounts_mut().iter_mut().flatten().filter(|mount| *mount.destination() == disk.place)
        {
            mount.set_typ(Some("bind".into())).set_source(Some(disk.node.clone()));
            is_wanted = true;
        }
        let devices = spec.linux_mut().as_mut().and_then(|linux| linux.devices_mut().as_mut());
        let is_its = |device: &&mut oci_spec::runtime::LinuxDevice| {
            device.typ() == LinuxDeviceType::B && *device.path() == disk.place
        };
        for device in devices.into_iter().flatten().filter(is_its) {
            numbers.insert((device.major(), device.minor()), (disk.major, disk.minor));
            device.set_major(disk.major).set_minor(disk.minor);
            is_wanted = true;
        }
        if !is_wanted {
            let place = disk.place.display();
            return Err(Error::invalid(format!("Missing devices in OCI spec: nothing is at {place}")));
        }
    }
    let rules = spec.linux_mut().as_mut().and_then(|linux| linux.resources_mut().as_mut());
    let rules = rules.and_then(|resources| resources.devices_mut().as_mut());
    for rule in rules.into_iter().flatten().filter(|rule| rule.typ() == Some(LinuxDeviceType::B)) {
        let Some(key) = rule.major().zip(rule.minor()) else { continue };
        if let Some((major, minor)) = numbers.get(&key) {
            rule.set_major(Some(*major)).set_minor(Some(*minor));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn disk(place: &str, node: &str, minor: i64) -> Disk {
        Disk { place: place.into(), address: "10/05".into(), node: node.into(), major: 254, minor }
    }

    #[test]
    fn numbers_become_the_guests_also_where_they_change_places() {
        let device =
            |path: &str, minor: i64| json!({"path": path, "type": "b", "major": 254, "minor": minor});
        let rule = |minor: i64, access: &str| json!({"allow": true, "type": "b", "major": 254, "minor": minor, "access": access});
        let mut spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.0.2",
            "mounts": [{"destination": "/mnt/disk", "type": "none", "source": "/dev/sdb", "options": ["rbind"]}],
            "linux": {"devices": [device("/dev/a", 0), device("/dev/b", 16)],
                      "resources": {"devices": [{"allow": false, "access": "rwm"}, rule(0, "r"), rule(16, "rw")]}},
        }))
        .unwrap();
        let disks = [
            disk("/dev/a", "/dev/vdb", 16),
            disk("/dev/b", "/dev/vda", 0),
            disk("/mnt/disk", "/dev/vdc", 32),
        ];
        adopt(&mut spec, &disks).unwrap();
        let spec: Value = serde_json::to_value(&spec).unwrap();
        let (devices, rules) = (&spec["linux"]["devices"], &spec["linux"]["resources"]["devices"]);
        assert_eq!((devices[0]["minor"].as_i64(), devices[1]["minor"].as_i64()), (Some(16), Some(0)));
        assert_eq!((rules[1]["minor"].as_i64(), rules[1]["access"].as_str()), (Some(16), Some("r")));
        assert_eq!((rules[2]["minor"].as_i64(), rules[2]["access"].as_str()), (Some(0), Some("rw")));
        assert_eq!(
            (spec["mounts"][0]["source"].as_str(), spec["mounts"][0]["type"].as_str()),
            (Some("/dev/vdc"), Some("bind"))
        );
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let mut spec: Spec = serde_json::from_value(json!({"ociVersion": "1.0.2", "linux": {}})).unwrap();
        let error = adopt(&mut spec, &[disk("/dev/a", "/dev/vda", 0)]).unwrap_err().to_string();
        assert!(error.contains("Missing devices in OCI spec"), "{error}");
        let device = |kind: &str, id: &str| Device {
            type_: kind.into(),
            id: id.into(),
            container_path: "/dev/x".into(),
            ..Default::default()
        };
        for (device, words) in [(device("vfio", "1"), "\"vfio\""), (device("blk", "../x"), "../x")] {
            let error = Disks::default().attach(&[device], Duration::ZERO).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("/dev/x"), "{error}");
        }
    }
}

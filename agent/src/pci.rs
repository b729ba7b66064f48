//! The guest's PCI bus.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::error::{Context, Error, Result};

const RESCAN: &str = "/sys/bus/pci/rescan";

/// Finds what was plugged in unannounced, which is how it is when a clone's ports raise no event. Blocks until the
/// drivers know their devices.
pub fn rescan() -> Result<()> {
    fs::write(RESCAN, "1").context(RESCAN)
}

/// The folder of the device at `address`, slots with slashes between them, of a bridge and of what is behind it. `None` as
/// long as there is no such.
pub fn device(address: &str) -> Result<Option<PathBuf>> {
    let mut dir = PathBuf::from("/sys/bus/pci/devices");
    for (depth, slot) in address.split('/').enumerate() {
        let number = u8::from_str_radix(slot, 16).ok().filter(|number| *number < 32);
        let number = number.ok_or_else(|| {
            Error::invalid(format!("{address:?} is no place on the PCI bus: slots from 00 to 1f"))
        })?;
        let is_it = |name: &str| {
            let mut parts = name.split(':');
            parts.next() == Some("0000")
                && parts.next().is_some_and(|bus| depth > 0 || bus == "00")
                && parts.next() == Some(&format!("{number:02x}.0"))
        };
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let Some(name) = names.find(|name| is_it(name)) else { return Ok(None) };
        dir.push(name);
    }
    Ok(Some(dir))
}

/// Lets go of the device at `address`. Blocks until its driver has.
pub fn remove(address: &str) -> Result<()> {
    match device(address)? {
        Some(dir) => {
            let file = dir.join("remove");
            fs::write(&file, "1").context(file.display())
        }
        None => Ok(()),
    }
}

/// Lets go of the device behind the link `name`, which is about to be taken away. Blocks until its driver has.
pub fn remove_link(name: &str) -> Result<()> {
    let link = Path::new("/sys/class/net").join(name).join("device");
    let virtio = fs::canonicalize(&link).context(link.display())?;
    let remove = virtio.ancestors().map(|device| device.join("remove")).find(|file| file.exists());
    let remove = remove
        .ok_or_else(|| Error::invalid(format!("interface {name}: {} is on no PCI bus", virtio.display())))?;
    fs::write(&remove, "1").context(remove.display())
}

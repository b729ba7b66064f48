//! The guest's PCI bus.

use std::{fs, path::Path};

use crate::error::{Context, Error, Result};

const RESCAN: &str = "/sys/bus/pci/rescan";

/// Finds what was plugged in unannounced, which is how it is when a clone's ports raise no event. Blocks until the
/// drivers know their devices.
pub fn rescan() -> Result<()> {
    fs::write(RESCAN, "1").context(RESCAN)
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

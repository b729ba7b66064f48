//! The guest's PCI bus.

use std::fs;

use crate::error::{Context, Result};

const RESCAN: &str = "/sys/bus/pci/rescan";

/// Finds what was plugged in unannounced, which is how it is when a clone's ports raise no event. Blocks until the
/// drivers know their devices.
pub fn rescan() -> Result<()> {
    fs::write(RESCAN, "1").context(RESCAN)
}

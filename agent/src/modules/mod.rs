//! Kernel modules: those that the initrd has the guest start with, those that it brings along, and those that the host asks
//! for by name.

mod on_demand;

use std::{ffi::CString, fs, path::Path, time::Duration};

use nix::{
    errno::Errno,
    kmod::{ModuleInitFlags, finit_module},
};
use tokio::{process::Command, time::timeout};

use crate::error::{Context, Error, Result};
pub use on_demand::{as_modprobe, has_driver, load as load_on_demand, make_nodes};

/// One path of an uncompressed module per line, in the order of their dependencies, maybe with parameters.
const LIST: &str = "/etc/kata-modules";
const MODPROBE: &str = "/sbin/modprobe";

/// Loads what the initrd lists. A module that cannot be loaded is reported; the guest may do without.
pub fn load_listed() {
    let Ok(list) = fs::read_to_string(LIST) else {
        return; // A kernel with everything built in.
    };
    for line in list.lines().filter(|line| !line.trim().is_empty()) {
        let (path, parameters) = line.split_once(' ').unwrap_or((line, ""));
        if let Err(error) = load(Path::new(path), parameters) {
            tracing::warn!(%error, "kernel module");
        }
    }
}

fn load(path: &Path, parameters: &str) -> Result<()> {
    let file = fs::File::open(path).context(path.display())?;
    let parameters = CString::new(parameters).map_err(|_| Error::invalid("parameters with a zero byte"))?;
    match finit_module(&file, &parameters, ModuleInitFlags::empty()) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(Error::from(errno).context(path.display())),
    }
}

/// Loads a module by name, as the host asked.
pub async fn modprobe(name: &str, parameters: &[String]) -> Result<()> {
    if name.is_empty() || name.starts_with('-') {
        return Err(Error::invalid(format!("kernel_modules: {name:?} is no module's name")));
    }
    let run = Command::new(MODPROBE).arg("-v").arg(name).args(parameters).kill_on_drop(true).output();
    let output = timeout(Duration::from_secs(30), run)
        .await
        .map_err(|_| Error::internal(format!("{MODPROBE} {name} does not end")))?
        .context(format!("run {MODPROBE} for module {name}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::internal(format!("{MODPROBE} {name}: {}: {}", output.status, said.trim())));
    }
    Ok(())
}

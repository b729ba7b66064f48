//! What a new container may use: its limits and its devices, written to its cgroup before its program runs.

use std::io::ErrorKind;

use nix::errno::Errno;
use oci_spec::runtime::LinuxResources;

use super::{bpf, cgroup, devices, update};
use crate::error::{Context, Error, Result};

/// Applies everything in `resources` to the group of a container that waits for its start.
pub fn apply(id: &str, resources: &LinuxResources) -> Result<()> {
    update::update(id, resources).context("linux.resources")?;
    apply_devices(id, resources)
}

fn apply_devices(id: &str, resources: &LinuxResources) -> Result<()> {
    let Some(program) = devices::program(resources.devices().as_deref().unwrap_or_default()) else {
        return Ok(());
    };
    match bpf::judge_devices(&cgroup::dir(id), &program) {
        // A kernel without such programs: the devices are the guest's all the same.
        Err(error)
            if error.kind() == ErrorKind::Unsupported
                || error.raw_os_error() == Some(Errno::EINVAL as i32)
                || error.raw_os_error() == Some(Errno::ENOSYS as i32) =>
        {
            tracing::warn!(%error, "the guest's kernel does not enforce device rules");
            Ok(())
        }
        other => other.map_err(|error| Error::from(error).context("linux.resources.devices")),
    }
}

//! What a new container may use: its limits and its devices, written to its cgroup before its program runs.

use std::{
    io,
    path::Path,
    sync::{Mutex, PoisonError},
};

use nix::errno::Errno;
use oci_spec::runtime::LinuxResources;

use super::{
    bpf::{self, DeviceJudge, Instruction, Register},
    cgroup, devices, update,
};
use crate::error::{Context, Error, Result};

/// How many programs are kept.
const KEPT: usize = 4;
/// Programs that the kernel has translated already, with what they were made from. That takes an emulated guest 15 ms, and
/// most containers have the same: a template has it for all its clones, so it outlives a guest's being served.
static LOADED: Mutex<Vec<(Vec<Instruction>, DeviceJudge)>> = Mutex::new(Vec::new());

/// Applies everything in `resources` to the group of a container that waits for its start.
pub fn apply(id: &str, resources: &LinuxResources) -> Result<()> {
    update::update(id, resources).context("linux.resources")?;
    apply_devices(id, resources)
}

fn apply_devices(id: &str, resources: &LinuxResources) -> Result<()> {
    let Some(program) = devices::program(resources.devices().as_deref().unwrap_or_default()) else {
        return Ok(());
    };
    match judge(&cgroup::dir(id), program) {
        // A kernel without such programs: the devices are the guest's all the same.
        Err(error) if is_unknown(&error) => {
            tracing::warn!(%error, "the guest's kernel does not enforce device rules");
            Ok(())
        }
        other => other.map_err(|error| Error::from(error).context("linux.resources.devices")),
    }
}

fn judge(dir: &Path, program: Vec<Instruction>) -> io::Result<()> {
    // Single steps leave the list whole.
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if loaded.is_empty() {
        keep_judging()?;
    }
    if let Some((_, judge)) = loaded.iter().find(|(known, _)| *known == program) {
        return bpf::judge_devices(dir, judge);
    }
    let judge = bpf::load(&program)?;
    bpf::judge_devices(dir, &judge)?;
    if loaded.len() == KEPT {
        loaded.pop();
    }
    loaded.push((program, judge));
    Ok(())
}

/// Puts a program that allows everything on the group of all containers. Without one left, the kernel takes the judging out
/// of its code when a container goes, and rewrites that for the next.
fn keep_judging() -> io::Result<()> {
    let allow = bpf::load(&[Instruction::set(Register::R0, 1), Instruction::exit()])?;
    bpf::judge_devices(&cgroup::parent(), &allow)
}

fn is_unknown(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ENOSYS | Errno::EINVAL | Errno::EOPNOTSUPP))
}

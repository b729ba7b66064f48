//! How much shared memory a pod has.

use std::{fs, path::Path};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use oci_spec::runtime::Mount;

use crate::bundle::Bundle;

/// When nobody says otherwise: 64 MiB, as every engine has it.
const USUAL: u64 = 64 << 20;
const SHM: &str = "/dev/shm";

/// Bytes of what the engine made for it on the host: its `--shm-size`. The host's own, which it may name instead, has the
/// host's size.
pub(super) fn bytes(bundle: &Bundle) -> u64 {
    let is_shm = |mount: &&Mount| mount.destination() == Path::new(SHM);
    let source =
        bundle.spec.mounts().iter().flatten().find(is_shm).and_then(|mount| mount.source().as_deref());
    let engines =
        source.and_then(|source| fs::canonicalize(source).ok()).filter(|source| source != Path::new(SHM));
    let size =
        engines.and_then(|source| statfs(&source).ok()).filter(|fs| fs.filesystem_type() == TMPFS_MAGIC);
    size.map(|fs| fs.blocks() * fs.block_size() as u64).filter(|bytes| *bytes > 0).unwrap_or(USUAL)
}

//! What a template is made from, as one text to compare.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use sha2::{Digest, Sha256};

use crate::{
    config::Config,
    error::{Context, Result},
};

/// Hexadecimal digits.
pub(super) const SLOT_LENGTH: usize = 16;

/// The place of a template: two that replace each other, such as before and after an upgrade of a file, have the same.
pub(super) fn slot(config: &Config, fingerprint: &str) -> String {
    digest(&format!("{} {fingerprint}", config.hypervisor.path.display()))[..SLOT_LENGTH].to_owned()
}

/// The hash of everything that shapes a saved VM. A file counts by what tells its content from any other that ever
/// stood there: reading tens of megabytes at every start would cost more than it tells.
pub(super) fn key(config: &Config, fingerprint: &str) -> Result<String> {
    let hypervisor = &config.hypervisor;
    let mut parts = vec![env!("CARGO_PKG_VERSION").to_owned(), fingerprint.to_owned()];
    for path in [&hypervisor.path, &hypervisor.kernel, &hypervisor.initrd, &hypervisor.firmware] {
        if !path.as_os_str().is_empty() {
            parts.push(identity(path)?);
        }
    }
    parts.push(read("/proc/sys/kernel/random/boot_id")?);
    parts.push(processor(&read("/proc/cpuinfo")?));
    Ok(digest(&parts.join("\n")))
}

fn identity(path: &Path) -> Result<String> {
    let meta = fs::metadata(path).with_context(|| path.display().to_string())?;
    Ok(format!(
        "{} {}:{} {} {}.{} {}.{}",
        path.display(),
        meta.dev(),
        meta.ino(),
        meta.size(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
    ))
}

/// The first processor, without what changes from moment to moment.
fn processor(cpuinfo: &str) -> String {
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    first.lines().filter(|line| !line.contains("MHz")).collect::<Vec<_>>().join("\n")
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).context(path)
}

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

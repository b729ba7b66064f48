//! What is left of a sandbox without a record that can be read: all that lies under its own paths.

use std::{fs, io};

use crate::{
    error::{Context, Error, Result},
    ids::SandboxId,
    ledger::Resource,
    paths::Paths,
    state::mounts_below,
};

/// Takes away what lies under the paths of the sandbox `id`. Refused while a process uses them.
pub(super) fn sweep(paths: &Paths, id: &SandboxId) -> Result<()> {
    if let Some(user) = user(paths, id) {
        return Err(Error::precondition(format!("its record cannot be read, and {user} may be using it")));
    }
    let (vm, share) = (paths.vm(id), paths.share(id).root().to_path_buf());
    for path in mounts_below(&share)?.into_iter().rev() {
        Resource::Mount { path }.release()?;
    }
    for path in [vm, share] {
        Resource::Tree { path }.release()?;
    }
    let dir = paths.sandbox(id);
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.with_context(|| format!("remove {}", dir.display())),
    }
}

/// A process whose command line names one of the sandbox's paths: its hypervisor, or what serves its files. They
/// end with the owner of the sandbox, so while there is one, there is an owner.
pub(super) fn user(paths: &Paths, id: &SandboxId) -> Option<String> {
    let inside = [paths.vm(id), paths.share(id).root().to_path_buf()].map(|path| path.display().to_string());
    let names = |line: &str| {
        let ends = |rest: &str| rest.is_empty() || rest.starts_with(['/', ',', '\0', ' ']);
        inside
            .iter()
            .any(|path| line.match_indices(path.as_str()).any(|(at, _)| ends(&line[at + path.len()..])))
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id()).find_map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line);
        let program = line.split('\0').next().unwrap_or_default();
        names(&line).then(|| format!("process {pid} ({program})"))
    })
}

//! Containers that share a VM: one that joins the namespaces of another is put into that one's sandbox.
//!
//! Engines say so by paths: `/proc/<pid>/ns/<kind>` of the other's stand-in, or a file that stands for the network namespace
//! that it is in. CRI-O says it by annotations.

use std::{
    fs::{OpenOptions, metadata},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
    thread,
};

use nix::{
    errno::Errno,
    libc::O_NONBLOCK,
    sched::{CloneFlags, setns},
};
use oci_spec::runtime::LinuxNamespaceType as Kind;
use runtime::{
    bundle::{Bundle, Role},
    error::{Context, Error, Result},
};

use super::record::{Home, Record, Root};

/// What a container may share with another, by the names and flags of the kernel.
const SHARED: [(Kind, &str, CloneFlags); 4] = [
    (Kind::Network, "net", CloneFlags::CLONE_NEWNET),
    (Kind::Ipc, "ipc", CloneFlags::CLONE_NEWIPC),
    (Kind::Uts, "uts", CloneFlags::CLONE_NEWUTS),
    (Kind::Pid, "pid", CloneFlags::CLONE_NEWPID),
];

/// The container whose sandbox the one in `bundle` belongs to, if it is not the first of its own.
pub fn host_of(root: &Root, bundle: &Bundle) -> Result<Option<(Home, Record)>> {
    match &bundle.role {
        Role::PodSandbox => Ok(None),
        Role::PodContainer { sandbox } => {
            let found = served(root)?.into_iter().find(|(_, record)| record.sandbox == sandbox.as_str());
            found.map(Some).ok_or_else(|| {
                Error::not_found(format!(
                    "annotations: no container of sandbox {sandbox} is here: CRI-O keeps a pod's first one for a handler \
                     with kata in its name, or with drop_infra_ctr = false"
                ))
            })
        }
        Role::Single => by_namespaces(root, bundle),
    }
}

fn by_namespaces(root: &Root, bundle: &Bundle) -> Result<Option<(Home, Record)>> {
    let mut joined = Vec::new();
    for (kind, name, flag) in SHARED {
        if let Some(Some(path)) = bundle.namespace(kind) {
            check(&path, flag).with_context(|| format!("linux.namespaces: {name}: {}", path.display()))?;
            joined.push((kind, name, path));
        }
    }
    if joined.is_empty() {
        return Ok(None);
    }
    let known = served(root)?;
    let mut host: Option<&(Home, Record)> = None;
    for (kind, name, path) in &joined {
        let Some(other) = known.iter().find(|(_, record)| has(record, name, path)) else { continue };
        if *kind == Kind::Pid && !other.1.is_first {
            return Err(Error::unimplemented(format!(
                "linux.namespaces: pid: {} is not the first container of its VM, whose processes are the ones that can \
                 be shared",
                other.1.id
            )));
        }
        match host {
            Some(first) if first.1.sandbox != other.1.sandbox => {
                return Err(Error::invalid(format!(
                    "linux.namespaces: those of {} and of {} are in two VMs, and a container is in one",
                    first.1.id, other.1.id
                )));
            }
            _ => host = Some(other),
        }
    }
    Ok(host.cloned())
}

/// Whether there is such a namespace: only the kernel knows, and tells who joins.
fn check(path: &Path, flag: CloneFlags) -> Result<()> {
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
    // Of no effect on other threads.
    let joined = thread::spawn(move || setns(file, flag)).join();
    match joined {
        Ok(Err(Errno::EINVAL)) => Err(Error::invalid("is no namespace of this kind")),
        _ => Ok(()),
    }
}

/// The containers whose VM is there, the first of each VM before the others.
fn served(root: &Root) -> Result<Vec<(Home, Record)>> {
    let mut known = root.all()?;
    known.retain(|(_, record)| record.server.is_some_and(|server| server.is_alive()));
    known.sort_by_key(|(_, record)| !record.is_first);
    Ok(known)
}

/// Whether that namespace is a container's.
fn has(record: &Record, name: &str, path: &Path) -> bool {
    let Some(stand_in) = record.stand_in.filter(|stand_in| stand_in.is_alive()) else { return false };
    let own = format!("/proc/{}/ns/{name}", stand_in.pid);
    if path == Path::new(&own) {
        return true;
    }
    // A stand-in has no namespaces of its own but for this one, and maybe not even that.
    let identity = |path: &Path| metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let this = identity(path);
    name == "net"
        && this.is_some()
        && this == identity(Path::new(&own))
        && this != identity(Path::new("/proc/self/ns/net"))
}

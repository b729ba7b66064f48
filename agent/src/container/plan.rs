//! The OCI spec as it came -> the bundle that libcontainer gets. Pure.
//!
//! Where libcontainer falls short or the guest differs from a host, it is mended here and nowhere else.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxCapabilities, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResources, Process,
    Spec,
};

use crate::{
    error::{Error, Result},
    namespaces::SharedNamespaces,
};

/// Cgroup of all containers, below the mounted hierarchy's root. Names of the host mean nothing here, so each container
/// has its id as its group.
pub const CGROUP_PARENT: &str = "/containers";

/// What the guest has for a container.
pub struct Surroundings<'a> {
    pub shared: &'a SharedNamespaces,
    /// The process namespace to join; a new one without it.
    pub pid_namespace: Option<PathBuf>,
}

/// Shapes `spec` for libcontainer.
pub fn plan(id: &str, mut spec: Spec, around: &Surroundings<'_>) -> Result<Spec> {
    let root = spec.root().as_ref().ok_or_else(|| Error::invalid("root: is missing"))?;
    if !root.path().is_absolute() {
        return Err(Error::invalid(format!("root.path: {} is not absolute", root.path().display())));
    }
    if !spec.version().starts_with("1.") {
        // libcontainer accepts version 1 alone; what upstream's shims leave empty is 1.
        spec.set_version("1.0.2".into());
    }
    let process = spec.process_mut().as_mut().ok_or_else(|| Error::invalid("process: is missing"))?;
    plan_process(process)?;
    let linux = spec.linux_mut().as_mut().ok_or_else(|| Error::invalid("linux: is missing"))?;
    let namespaces = plan_namespaces(linux.namespaces().clone().unwrap_or_default(), around)?;
    let mut resources = linux.resources().clone().unwrap_or_default();
    plan_resources(&mut resources);
    linux
        .set_namespaces(Some(namespaces))
        .set_cgroups_path(Some(cgroup_path(id)))
        .set_resources(Some(resources))
        .set_mount_label(None)
        .set_intel_rdt(None);
    Ok(spec)
}

/// Shapes a process, an init or an exec.
pub fn plan_process(process: &mut Process) -> Result<()> {
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(Error::invalid("process.args: names no program"));
    }
    if process.cwd().as_os_str().is_empty() {
        process.set_cwd("/".into());
    }
    if process.capabilities().is_none() {
        // Left out, libcontainer would give its defaults; the spec means none.
        let mut none = LinuxCapabilities::default();
        let empty = || Some(Default::default());
        none.set_bounding(empty())
            .set_effective(empty())
            .set_inheritable(empty())
            .set_permitted(empty())
            .set_ambient(empty());
        process.set_capabilities(Some(none));
    }
    // Labels and profiles of a policy that the guest does not have.
    process.set_apparmor_profile(None).set_selinux_label(None);
    Ok(())
}

/// A container's cgroup, below the mounted hierarchy's root.
pub fn cgroup_path(id: &str) -> PathBuf {
    Path::new(CGROUP_PARENT).join(id)
}

fn plan_namespaces(asked: Vec<LinuxNamespace>, around: &Surroundings<'_>) -> Result<Vec<LinuxNamespace>> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Time, Uts};
    let mut planned = vec![
        namespace(Pid, around.pid_namespace.clone())?,
        // Always new ones: without, a container would see the agent's mounts and groups.
        namespace(Mount, None)?,
        namespace(Cgroup, None)?,
    ];
    for entry in asked {
        match entry.typ() {
            // The network is the guest's only one, and clocks are not virtual here.
            Pid | Mount | Cgroup | Network | Time => {}
            Ipc => planned.push(namespace(Ipc, Some(around.shared.ipc.clone()))?),
            Uts => planned.push(namespace(Uts, Some(around.shared.uts.clone()))?),
            _ => planned.push(entry),
        }
    }
    Ok(planned)
}

fn namespace(typ: LinuxNamespaceType, path: Option<PathBuf>) -> Result<LinuxNamespace> {
    let builder = LinuxNamespaceBuilder::default().typ(typ);
    let builder = match path {
        Some(path) => builder.path(path),
        None => builder,
    };
    builder.build().map_err(|error| Error::internal(error.to_string()))
}

fn plan_resources(resources: &mut LinuxResources) {
    // Rules and numbers of the host's devices, disks and CPUs.
    resources.set_devices(None).set_block_io(None).set_network(None);
    if let Some(cpu) = resources.cpu_mut() {
        cpu.set_cpus(None).set_mems(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn planned(spec: serde_json::Value, pid: Option<&str>) -> serde_json::Value {
        let shared = SharedNamespaces { ipc: "/ns/ipc".into(), uts: "/ns/uts".into() };
        let around = Surroundings { shared: &shared, pid_namespace: pid.map(PathBuf::from) };
        serde_json::to_value(plan("c1", serde_json::from_value(spec).unwrap(), &around).unwrap()).unwrap()
    }

    #[test]
    fn namespaces_are_the_sandboxs_or_new() {
        let spec = json!({
            "ociVersion": "1.0.2", "root": {"path": "/r"},
            "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "linux": {"cgroupsPath": "a:b:c", "namespaces": [{"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                      {"type": "network", "path": "/n"}, {"type": "time"}]},
        });
        let planned_spec = planned(spec.clone(), None);
        assert_eq!(
            planned_spec["linux"]["namespaces"],
            json!([{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}, {"type": "ipc", "path": "/ns/ipc"},
                   {"type": "uts", "path": "/ns/uts"}])
        );
        assert_eq!(planned_spec["linux"]["cgroupsPath"], "/containers/c1");
        assert_eq!(planned(spec, Some("/proc/7/ns/pid"))["linux"]["namespaces"][0]["path"], "/proc/7/ns/pid");
    }

    #[test]
    fn a_process_without_capabilities_gets_none_and_no_labels() {
        let mut process: Process = serde_json::from_value(json!({
            "args": ["sh"], "cwd": "", "user": {"uid": 0, "gid": 0}, "apparmorProfile": "p", "selinuxLabel": "l"
        }))
        .unwrap();
        plan_process(&mut process).unwrap();
        assert_eq!(process.cwd(), Path::new("/"));
        assert!(process.capabilities().as_ref().unwrap().bounding().as_ref().unwrap().is_empty());
        assert!(process.apparmor_profile().is_none() && process.selinux_label().is_none());
    }
}

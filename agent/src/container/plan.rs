//! The OCI spec as it came -> the bundle that libcontainer gets. Pure.
//!
//! Where libcontainer falls short or the guest differs from a host, it is mended here, and what cannot be is refused by
//! name. docs/oci-spec.md lists every field.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use oci_spec::runtime::{
    Linux, LinuxCapabilities, LinuxDeviceType, LinuxIdMapping, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType, LinuxPersonality, LinuxResources, LinuxSeccomp, LinuxSeccompAction, Spec,
};

use protocols::sysctl::{self, Namespace};

use super::{devices, plan_mounts::plan_mounts, plan_process::plan_process};
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
    /// Whether the guest has a device of these numbers.
    pub has_device: &'a dyn Fn(LinuxDeviceType, i64, i64) -> bool,
}

/// A container as it is to be made.
#[derive(Debug)]
pub struct Plan {
    /// For libcontainer.
    pub spec: Spec,
    /// For the container's cgroup, before its program runs.
    pub resources: LinuxResources,
    /// For the network, which is the guest's.
    pub net_sysctls: Vec<(String, String)>,
    /// For the sandbox's UTS namespace.
    pub domain_name: Option<String>,
    /// For every process that joins later.
    pub inherited: Inherited,
}

/// What a container has for each of its processes.
#[derive(Debug, Clone, Default)]
pub struct Inherited {
    pub seccomp: Option<LinuxSeccomp>,
    pub personality: Option<LinuxPersonality>,
    /// For a process that names none.
    pub capabilities: Option<LinuxCapabilities>,
    /// Of its user namespace, if it has one.
    uid_mappings: Vec<LinuxIdMapping>,
}

impl Inherited {
    /// Who a user of the container is in the guest.
    pub fn guest_uid(&self, uid: u32) -> u32 {
        let holds =
            |map: &&LinuxIdMapping| (map.container_id()..map.container_id() + map.size()).contains(&uid);
        self.uid_mappings.iter().find(holds).map_or(uid, |map| uid - map.container_id() + map.host_id())
    }
}

/// Shapes `spec` for libcontainer.
pub fn plan(id: &str, mut spec: Spec, around: &Surroundings<'_>) -> Result<Plan> {
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
    let capabilities = process.capabilities().clone();
    let linux = spec.linux_mut().as_mut().ok_or_else(|| Error::invalid("linux: is missing"))?;
    let has_user_namespace = namespaces_of(linux).any(|kind| kind == LinuxNamespaceType::User);
    let namespaces = plan_namespaces(linux, around)?;
    let resources = linux.resources().clone().unwrap_or_default();
    let net_sysctls = plan_sysctls(linux)?;
    plan_devices(linux, &resources, around)?;
    check_seccomp(linux)?;
    plan_propagation(linux)?;
    if linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()) {
        return Err(Error::invalid("linux.netDevices: the guest's network is the VM's"));
    }
    if linux.intel_rdt().is_some() {
        return Err(Error::invalid("linux.intelRdt: the VM has no resource director"));
    }
    let inherited = Inherited {
        seccomp: linux.seccomp().clone(),
        personality: linux.personality().clone(),
        capabilities,
        uid_mappings: if has_user_namespace {
            linux.uid_mappings().clone().unwrap_or_default()
        } else {
            Vec::new()
        },
    };
    linux
        .set_namespaces(Some(namespaces))
        .set_cgroups_path(Some(cgroup_path(id)))
        // Only the group itself is libcontainer's work: it knows neither runc's conversions nor device rules.
        .set_resources(Some(LinuxResources::default()))
        .set_time_offsets(None)
        .set_mount_label(None);
    plan_hooks(&mut spec);
    plan_mounts(&mut spec, has_user_namespace)?;
    let domain_name = match has_user_namespace {
        true => None, // Libcontainer can set it, for it has the rights in its UTS namespace.
        false => spec.domainname().clone().filter(|name| !name.is_empty()),
    };
    Ok(Plan { spec, resources, net_sysctls, domain_name, inherited })
}

/// A container's cgroup, below the mounted hierarchy's root.
pub fn cgroup_path(id: &str) -> PathBuf {
    Path::new(CGROUP_PARENT).join(id)
}

fn namespaces_of(linux: &Linux) -> impl Iterator<Item = LinuxNamespaceType> {
    linux.namespaces().iter().flatten().map(LinuxNamespace::typ)
}

fn plan_namespaces(linux: &Linux, around: &Surroundings<'_>) -> Result<Vec<LinuxNamespace>> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Time, User, Uts};
    let mut planned = vec![
        namespace(Pid, around.pid_namespace.clone())?,
        // Always new ones: without, a container would see the agent's mounts and groups.
        namespace(Mount, None)?,
        namespace(Cgroup, None)?,
    ];
    let shared = around.shared;
    for kind in namespaces_of(linux) {
        match kind {
            // The network is the guest's only one, and clocks are not virtual here.
            Pid | Mount | Cgroup | Network | Time => {}
            Ipc => planned.push(namespace(Ipc, Some(shared.ipc.clone()))?),
            Uts => planned.push(namespace(Uts, Some(shared.uts.clone()))?),
            User => planned.push(namespace(User, shared.user.clone())?),
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

/// Takes out those of the network, which libcontainer would refuse: it knows no network that is the container's already. It
/// sets the others.
fn plan_sysctls(linux: &mut Linux) -> Result<Vec<(String, String)>> {
    let has = |namespace| {
        let kind = match namespace {
            Namespace::Network => return true,
            Namespace::Ipc => LinuxNamespaceType::Ipc,
            Namespace::Uts => LinuxNamespaceType::Uts,
            Namespace::User => LinuxNamespaceType::User,
        };
        namespaces_of(linux).any(|other| other == kind)
    };
    let (mut kept, mut net) = (HashMap::new(), Vec::new());
    for (key, value) in linux.sysctl().iter().flatten() {
        match sysctl::namespace_of(key, has).map_err(Error::invalid)? {
            Namespace::Network => net.push((key.clone(), value.clone())),
            Namespace::Ipc | Namespace::Uts | Namespace::User => {
                kept.insert(key.clone(), value.clone());
            }
        }
    }
    net.sort();
    linux.set_sysctl((!kept.is_empty()).then_some(kept));
    Ok(net)
}

/// Leaves the nodes that mean something here. A privileged container comes with all of its host's, and goes without those
/// that the guest has not; in any other each was asked for.
fn plan_devices(linux: &mut Linux, resources: &LinuxResources, around: &Surroundings<'_>) -> Result<()> {
    let privileged = devices::allow_all(resources.devices().as_deref().unwrap_or_default());
    let Some(asked) = linux.devices().clone() else { return Ok(()) };
    let mut planned = Vec::new();
    for mut device in asked {
        if !device.path().starts_with("/dev") {
            let path = device.path().display();
            return Err(Error::invalid(format!("linux.devices: {path} is not below /dev")));
        }
        let (kind, major, minor) = (device.typ(), device.major(), device.minor());
        if kind == LinuxDeviceType::P || (around.has_device)(kind, major, minor) {
            if device.file_mode() == Some(0) {
                // On the wire, zero is "not given".
                device.set_file_mode(None);
            }
            planned.push(device);
        } else if !privileged {
            let path = device.path().display();
            return Err(Error::invalid(format!("linux.devices: the guest has no {path} ({major}:{minor})")));
        }
    }
    linux.set_devices(Some(planned));
    Ok(())
}

fn check_seccomp(linux: &Linux) -> Result<()> {
    let Some(seccomp) = linux.seccomp() else { return Ok(()) };
    let mut actions = seccomp.syscalls().iter().flatten().map(|rule| rule.action());
    if seccomp.default_action() == LinuxSeccompAction::ScmpActNotify
        || actions.any(|action| action == LinuxSeccompAction::ScmpActNotify)
    {
        return Err(Error::invalid(
            "linux.seccomp: SCMP_ACT_NOTIFY needs a listener, which a VM does not reach",
        ));
    }
    Ok(())
}

/// libcontainer takes the four words without `r`, and makes each recursive.
fn plan_propagation(linux: &mut Linux) -> Result<()> {
    let Some(asked) = linux.rootfs_propagation().clone().filter(|word| !word.is_empty()) else {
        linux.set_rootfs_propagation(None);
        return Ok(());
    };
    let plain = asked.strip_prefix('r').unwrap_or(&asked);
    if !["shared", "slave", "private", "unbindable"].contains(&plain) {
        return Err(Error::invalid(format!("rootfsPropagation={asked} is not supported")));
    }
    linux.set_rootfs_propagation(Some(plain.to_owned()));
    Ok(())
}

/// Those of the host ran there. What is left runs in the container, and is never waited for without end.
fn plan_hooks(spec: &mut Spec) {
    const DEADLINE_S: i64 = 10;
    let Some(mut hooks) = spec.hooks().clone() else { return };
    let mut start: Vec<_> = hooks.start_container().clone().unwrap_or_default();
    for hook in &mut start {
        if hook.timeout().is_none_or(|timeout| timeout <= 0) {
            hook.set_timeout(Some(DEADLINE_S));
        }
    }
    if start.is_empty() {
        spec.set_hooks(None);
        return;
    }
    #[allow(deprecated)] // Engines still send them.
    hooks.set_prestart(None);
    hooks
        .set_create_runtime(None)
        .set_create_container(None)
        .set_start_container(Some(start))
        .set_poststart(None)
        .set_poststop(None);
    spec.set_hooks(Some(hooks));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn try_plan(spec: Value, pid: Option<&str>) -> Result<Plan> {
        let has_user = spec["linux"]["uidMappings"].is_array();
        let user = has_user.then(|| "/ns/user".into());
        let shared = SharedNamespaces { ipc: "/ns/ipc".into(), uts: "/ns/uts".into(), user, pid: None };
        let around = Surroundings {
            shared: &shared,
            pid_namespace: pid.map(PathBuf::from),
            has_device: &|kind, major, _| kind == LinuxDeviceType::C && major == 10,
        };
        plan("c1", serde_json::from_value(spec).unwrap(), &around)
    }

    fn spec(linux: Value) -> Value {
        json!({
            "ociVersion": "1.0.2", "root": {"path": "/r"}, "mounts": [],
            "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0}}, "linux": linux,
        })
    }

    fn planned(linux: Value) -> (Plan, Value) {
        let plan = try_plan(spec(linux), None).unwrap();
        let linux = serde_json::to_value(&plan.spec).unwrap()["linux"].take();
        (plan, linux)
    }

    #[test]
    fn namespaces_are_the_sandboxs_or_new() {
        let host = json!({"cgroupsPath": "a:b:c", "timeOffsets": {"boottime": {"secs": 1, "nanosecs": 0}},
            "namespaces": [{"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network", "path": "/n"},
                           {"type": "time"}]});
        let (_, linux) = planned(host.clone());
        assert_eq!(
            linux["namespaces"],
            json!([{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}, {"type": "ipc", "path": "/ns/ipc"},
                   {"type": "uts", "path": "/ns/uts"}])
        );
        assert_eq!(linux["cgroupsPath"], "/containers/c1");
        assert_eq!(linux["timeOffsets"], Value::Null);
        let joined = try_plan(spec(host), Some("/proc/7/ns/pid")).unwrap();
        let joined = serde_json::to_value(joined.spec).unwrap();
        assert_eq!(joined["linux"]["namespaces"][0]["path"], "/proc/7/ns/pid");
    }

    #[test]
    fn a_user_namespace_is_joined_with_those_that_belong_to_it() {
        let host = json!({
            "namespaces": [{"type": "user"}, {"type": "ipc"}, {"type": "uts"}],
            "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}, {"containerID": 10, "hostID": 5000, "size": 5}],
            "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
        });
        let (plan, linux) = planned(host.clone());
        assert_eq!(
            linux["namespaces"],
            json!([{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}, {"type": "user", "path": "/ns/user"},
                   {"type": "ipc", "path": "/ns/ipc"}, {"type": "uts", "path": "/ns/uts"}])
        );
        assert_eq!([0, 9, 12, 99].map(|uid| plan.inherited.guest_uid(uid)), [1000, 1009, 5002, 99]);
        let joined = try_plan(spec(host), Some("/proc/7/ns/pid")).unwrap();
        let joined = serde_json::to_value(joined.spec).unwrap();
        assert_eq!(joined["linux"]["namespaces"][0]["path"], "/proc/7/ns/pid");
    }

    #[test]
    fn sysctls_go_to_the_namespace_that_they_are_of() {
        let (plan, linux) = planned(json!({
            "namespaces": [{"type": "ipc"}],
            "sysctl": {"net.core.somaxconn": "7", "net/ipv4/ip_forward": "1", "kernel.shmmax": "9", "fs.mqueue.msg_max": "5"},
        }));
        let expected = [("net.core.somaxconn", "7"), ("net/ipv4/ip_forward", "1")];
        assert_eq!(plan.net_sysctls, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(linux["sysctl"], json!({"kernel.shmmax": "9", "fs.mqueue.msg_max": "5"}));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (linux, words) in [
            (
                json!({"sysctl": {"kernel.panic": "1"}}),
                "kernel.panic\" is not in a separate kernel namespace",
            ),
            (json!({"sysctl": {"kernel.shmmax": "1"}}), "kernel.shmmax"),
            (json!({"sysctl": {"net..x": "1"}}), "net..x"),
            (json!({"sysctl": {"net.//.x": "1"}}), "net.//.x"),
            (
                json!({"namespaces": [{"type": "uts"}], "sysctl": {"kernel.hostname": "h"}}),
                "conflicts with the OCI field",
            ),
            (
                json!({"devices": [{"path": "/dev/x", "type": "c", "major": 240, "minor": 1}]}),
                "/dev/x (240:1)",
            ),
            (json!({"devices": [{"path": "/x", "type": "c", "major": 10, "minor": 1}]}), "below /dev"),
            (
                json!({"seccomp": {"defaultAction": "SCMP_ACT_ALLOW",
                       "syscalls": [{"names": ["bpf"], "action": "SCMP_ACT_NOTIFY"}]}}),
                "SCMP_ACT_NOTIFY",
            ),
            (json!({"rootfsPropagation": "sideways"}), "rootfsPropagation=sideways"),
            (json!({"intelRdt": {"closID": "x"}}), "intelRdt"),
            (json!({"netDevices": {"eth9": {}}}), "netDevices"),
        ] {
            let error = try_plan(spec(linux.clone()), None).unwrap_err().to_string();
            assert!(error.contains(words), "{linux}: {error}");
        }
    }

    #[test]
    fn a_privileged_container_goes_without_the_hosts_devices() {
        let (plan, linux) = planned(json!({
            "devices": [{"path": "/dev/x", "type": "c", "major": 240, "minor": 1},
                        {"path": "/dev/sda", "type": "b", "major": 8, "minor": 0},
                        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0},
                        {"path": "/dev/pipe", "type": "p", "major": 0, "minor": 0}],
            "resources": {"devices": [{"allow": true, "access": "rwm"}], "pids": {"limit": 5}},
        }));
        let paths: Vec<_> =
            linux["devices"].as_array().unwrap().iter().map(|device| &device["path"]).collect();
        assert_eq!(paths, ["/dev/fuse", "/dev/pipe"]);
        assert_eq!(linux["devices"][0]["fileMode"], Value::Null);
        assert_eq!(linux["resources"], json!({}));
        assert_eq!(plan.resources.pids().unwrap().limit(), 5);
    }

    #[test]
    fn words_that_libcontainer_does_not_know_become_those_it_does() {
        for (word, planned_word) in
            [("rshared", json!("shared")), ("slave", json!("slave")), ("", Value::Null)]
        {
            assert_eq!(planned(json!({"rootfsPropagation": word})).1["rootfsPropagation"], planned_word);
        }
    }

    #[test]
    fn hooks_of_the_container_have_a_deadline_and_the_hosts_are_gone() {
        let mut host = spec(json!({}));
        host["hooks"] = json!({"prestart": [{"path": "/a"}], "startContainer": [{"path": "/b"}, {"path": "/c", "timeout": 3}]});
        let plan = try_plan(host, None).unwrap();
        assert_eq!(
            serde_json::to_value(&plan.spec).unwrap()["hooks"],
            json!({"startContainer": [{"path": "/b", "timeout": 10}, {"path": "/c", "timeout": 3}]})
        );
    }
}

//! The host's OCI spec as the guest is to run it. Pure.
//!
//! What names or limits the host is taken out; what the container is, stays.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capability, Hooks, Linux, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxNamespace,
    LinuxNamespaceType, LinuxResources, Mount, Root, Spec,
};
use protocols::guest;

use crate::{
    bundle::{Bundle, Role},
    container::open_files,
    error::{Error, Result},
    storage::{Disk, allows_all},
};

/// A hierarchy of the first version of cgroups.
const SYSTEMDS_GROUPS: &str = "/sys/fs/cgroup/systemd";

/// What the engine decided about a container, for its spec.
#[derive(Debug)]
pub(crate) struct Decided {
    pub root: PathBuf,
    pub mounts: Vec<Mount>,
    /// What the VM is given for it.
    pub disks: Vec<Disk>,
    /// Whether the guest applies the spec's system call filter.
    pub seccomp: bool,
}

/// Translates `bundle`'s spec.
pub(crate) fn translate(bundle: &Bundle, decided: Decided) -> Result<Spec> {
    let mut spec = bundle.spec.clone();
    let read_only = spec.root().as_ref().and_then(Root::readonly);
    let mut root = Root::default();
    root.set_path(decided.root).set_readonly(read_only);
    spec.set_root(Some(root)).set_mounts(Some(with_groups_of_systemd(decided.mounts)));
    spec.set_hooks(guest_hooks(&spec));
    if let Some(process) = spec.process_mut() {
        // Labels and profiles of the host's policy; the guest has none.
        process.set_selinux_label(None).set_apparmor_profile(None);
        open_files::inherit(process);
    }
    let linux = spec.linux_mut().as_mut().ok_or_else(|| Error::invalid("linux: is missing"))?;
    translate_namespaces(linux);
    linux.set_mount_label(None);
    if !decided.seccomp {
        linux.set_seccomp(None);
    }
    let mut resources = linux.resources().clone().unwrap_or_default();
    translate_devices(linux, &mut resources, &decided.disks)?;
    translate_resources(&mut resources)?;
    linux.set_resources(Some(resources));
    annotate(&mut spec, bundle);
    Ok(spec)
}

/// Whether the container joins the process namespace of its sandbox: it names one by path.
pub(crate) fn shares_sandbox_pids(bundle: &Bundle) -> bool {
    matches!(bundle.namespace(LinuxNamespaceType::Pid), Some(Some(_)))
}

/// Those whose programs are in the container. All others name programs of the host, and run there.
fn guest_hooks(spec: &Spec) -> Option<Hooks> {
    let hooks = spec.hooks().as_ref()?.start_container().clone().filter(|hooks| !hooks.is_empty())?;
    let mut kept = Hooks::default();
    kept.set_start_container(Some(hooks));
    Some(kept)
}

/// Podman gives systemd the host's hierarchy of that name to write in where there are several. The guest has one, which is
/// its then.
fn with_groups_of_systemd(mut mounts: Vec<Mount>) -> Vec<Mount> {
    let all = mounts.len();
    mounts.retain(|mount| mount.source().as_deref() != Some(Path::new(SYSTEMDS_GROUPS)));
    if mounts.len() < all {
        for mount in mounts.iter_mut().filter(|mount| mount.typ().as_deref() == Some("cgroup")) {
            let mut options = mount.options().clone().unwrap_or_default();
            options.retain(|option| option != "ro");
            mount.set_options(Some(options));
        }
    }
    mounts
}

fn translate_namespaces(linux: &mut Linux) {
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    let has = |kind| namespaces.iter().any(|namespace| namespace.typ() == kind);
    if has(LinuxNamespaceType::Time) {
        tracing::debug!(
            "no time namespace: a VM has clocks of its own, and offsets to the host's mean nothing there"
        );
        linux.set_time_offsets(None);
    }
    let no_mount_namespace = !has(LinuxNamespaceType::Mount);
    // The guest's network is the VM's, and its process namespace is asked for apart. The agent always makes a cgroup
    // namespace.
    namespaces.retain(|namespace| {
        !matches!(
            namespace.typ(),
            LinuxNamespaceType::Network
                | LinuxNamespaceType::Pid
                | LinuxNamespaceType::Time
                | LinuxNamespaceType::Cgroup
        )
    });
    if no_mount_namespace {
        // A container without a mount namespace of its own would see the agent's.
        let mut mount = LinuxNamespace::default();
        mount.set_typ(LinuxNamespaceType::Mount);
        namespaces.push(mount);
    }
    for namespace in &mut namespaces {
        namespace.set_path(None);
    }
    linux.set_namespaces(Some(namespaces));
}

/// Leaves the devices and rules whose numbers mean the same on every Linux, and those of the disks that the VM is given,
/// whose numbers the guest changes to its own. A privileged container comes with all of its host's devices, and goes without
/// the others; in any other container each was asked for.
fn translate_devices(linux: &mut Linux, resources: &mut LinuxResources, disks: &[Disk]) -> Result<()> {
    let rules = resources.devices().clone().unwrap_or_default();
    let privileged = allows_all(&rules);
    let is_disk = |device: &LinuxDevice| {
        device.typ() == LinuxDeviceType::B && disks.iter().any(|disk| disk.place == *device.path())
    };
    let is_served =
        |device: &LinuxDevice| is_disk(device) || is_known(device.typ(), device.major(), device.minor());
    if let Some(devices) = linux.devices_mut() {
        if let Some(device) = devices.iter().find(|device| !privileged && !is_served(device)) {
            let (path, major, minor) = (device.path().display(), device.major(), device.minor());
            return Err(Error::invalid(format!(
                "linux.devices: {path} ({major}:{minor}) is a device of the host, which the guest cannot have"
            )));
        }
        devices.retain(is_served);
    }
    let of_disk = |rule: &LinuxDeviceCgroup| {
        let numbers = (rule.major(), rule.minor());
        rule.typ() == Some(LinuxDeviceType::B)
            && disks.iter().any(|disk| numbers == (Some(disk.major), Some(disk.minor)))
    };
    let means_something = |rule: &LinuxDeviceCgroup| match (rule.typ(), rule.major(), rule.minor()) {
        (None | Some(LinuxDeviceType::A), _, _) => true,
        _ if of_disk(rule) => true,
        // Any of them.
        (_, None | Some(-1), _) => true,
        (Some(kind), Some(major), minor) => {
            is_known(kind, major, minor.filter(|minor| *minor >= 0).unwrap_or(0x80))
        }
    };
    let kept: Vec<_> = rules.into_iter().filter(means_something).collect();
    resources.set_devices((!kept.is_empty()).then_some(kept));
    Ok(())
}

/// Whether these numbers mean the same device on every Linux: the kernel's list of them is fixed but for some ranges that
/// are given out as drivers come, and those of disks, which mean another disk in every machine.
fn is_known(kind: LinuxDeviceType, major: i64, minor: i64) -> bool {
    match kind {
        LinuxDeviceType::P => true,
        LinuxDeviceType::C | LinuxDeviceType::U => match major {
            10 => (128..255).contains(&minor),
            60..=63 | 120..=127 => false,
            _ => (1..234).contains(&major),
        },
        LinuxDeviceType::A | LinuxDeviceType::B => false,
    }
}

fn translate_resources(resources: &mut LinuxResources) -> Result<()> {
    if resources.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty()) {
        return Err(Error::invalid("linux.resources.rdma: the guest has no such devices"));
    }
    if resources.network().is_some() {
        tracing::debug!("linux.resources.network: version 2 of cgroups has no classes of traffic");
        resources.set_network(None);
    }
    Ok(())
}

/// Whether an engine was asked for a privileged container, of which specs have no word: it may administer the system, and
/// nothing of the kernel's views is closed. Which devices it is given differs between engines, and their settings.
fn is_privileged(spec: &Spec) -> bool {
    let administers = spec
        .process()
        .as_ref()
        .and_then(|process| process.capabilities().as_ref()?.bounding().as_ref())
        .is_some_and(|capabilities| capabilities.contains(&Capability::SysAdmin));
    let is_empty = |paths: &Option<Vec<String>>| paths.as_ref().is_none_or(Vec::is_empty);
    let is_open = spec
        .linux()
        .as_ref()
        .is_some_and(|linux| is_empty(linux.masked_paths()) && is_empty(linux.readonly_paths()));
    let is_writable = |mount: &Mount| {
        mount.typ().as_deref() == Some("sysfs")
            && !mount.options().iter().flatten().any(|option| option == "ro")
    };
    administers && is_open && spec.mounts().iter().flatten().any(is_writable)
}

fn annotate(spec: &mut Spec, bundle: &Bundle) {
    let kind = match bundle.role {
        Role::Single => guest::CONTAINER_TYPE_SINGLE,
        Role::PodSandbox => guest::CONTAINER_TYPE_POD_SANDBOX,
        Role::PodContainer { .. } => guest::CONTAINER_TYPE_POD_CONTAINER,
    };
    let privileged = is_privileged(&bundle.spec).to_string();
    let mut annotations = spec.annotations().clone().unwrap_or_default();
    annotations.insert(guest::ANNOTATION_CONTAINER_TYPE.into(), kind.into());
    annotations.insert(guest::ANNOTATION_PRIVILEGED.into(), privileged);
    annotations.insert(guest::ANNOTATION_BUNDLE_PATH.into(), bundle.dir.display().to_string());
    spec.set_annotations(Some(annotations));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn try_translate(host: Value) -> Result<Value> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), host.to_string()).unwrap();
        let bundle = Bundle::load(dir.path()).unwrap();
        let decided =
            Decided { root: "/guest/root".into(), mounts: Vec::new(), disks: Vec::new(), seccomp: false };
        Ok(serde_json::to_value(translate(&bundle, decided)?).unwrap())
    }

    fn spec(linux: Value) -> Value {
        json!({
            "ociVersion": "1.0.2", "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "root": {"path": "rootfs"}, "linux": linux,
        })
    }

    #[test]
    fn what_is_the_hosts_stays_on_the_host() {
        let guest = try_translate(json!({
            "ociVersion": "1.0.2",
            "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 7, "gid": 8}, "selinuxLabel": "a:b:c:s0",
                        "apparmorProfile": "p", "env": ["A=b"]},
            "root": {"path": "rootfs", "readonly": true},
            "hooks": {"prestart": [{"path": "/bin/hook"}], "startContainer": [{"path": "/in/container"}]},
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "network", "path": "/n"}, {"type": "ipc", "path": "/i"},
                               {"type": "time"}, {"type": "cgroup"}],
                "timeOffsets": {"boottime": {"secs": 1, "nanosecs": 0}},
                "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}],
                "resources": {"devices": [{"allow": false, "access": "rwm"},
                                          {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
                                          {"allow": true, "type": "c", "major": 240, "minor": 1, "access": "rw"},
                                          {"allow": true, "type": "b", "major": 8, "minor": 1, "access": "rw"},
                                          {"allow": true, "type": "c", "major": 226, "minor": -1, "access": "rw"}],
                              "cpu": {"quota": 5, "cpus": "0-3"}, "network": {"classID": 5},
                              "memory": {"limit": 1000}, "pids": {"limit": 9}, "unified": {"memory.high": "5"}},
                "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
                "mountLabel": "x",
            },
        }))
        .unwrap();
        for (pointer, expected) in [
            ("/root", json!({"path": "/guest/root", "readonly": true})),
            ("/hooks", json!({"startContainer": [{"path": "/in/container"}]})),
            ("/process/selinuxLabel", Value::Null),
            ("/process/apparmorProfile", Value::Null),
            ("/process/env", json!(["A=b"])),
            ("/process/user/uid", json!(7)),
            ("/linux/namespaces", json!([{"type": "ipc"}, {"type": "mount"}])),
            ("/linux/timeOffsets", Value::Null),
            ("/linux/devices/0/path", json!("/dev/fuse")),
            ("/linux/resources/devices/1/major", json!(10)),
            ("/linux/resources/devices/2/major", json!(226)),
            ("/linux/resources/devices/3", Value::Null),
            ("/linux/resources/network", Value::Null),
            ("/linux/resources/cpu/quota", json!(5)),
            ("/linux/resources/cpu/cpus", json!("0-3")),
            ("/linux/resources/memory/limit", json!(1000)),
            ("/linux/resources/pids/limit", json!(9)),
            ("/linux/resources/unified", json!({"memory.high": "5"})),
            ("/linux/seccomp", Value::Null),
            ("/linux/mountLabel", Value::Null),
            ("/annotations/io.katacontainers.pkg.oci.container_type", json!("single_container")),
        ] {
            assert_eq!(guest.pointer(pointer).cloned().unwrap_or_default(), expected, "{pointer}");
        }
    }

    #[test]
    fn systemd_writes_in_the_guests_one_hierarchy() {
        let mount = |typ: &str, path: &str, option: &str| -> Mount {
            let mount =
                json!({"destination": path, "type": typ, "source": path, "options": ["nosuid", option]});
            serde_json::from_value(mount).unwrap()
        };
        let groups = |option| mount("cgroup", "/sys/fs/cgroup", option);
        let of_systemd =
            with_groups_of_systemd(vec![groups("ro"), mount("bind", SYSTEMDS_GROUPS, "rprivate")]);
        assert_eq!(of_systemd.len(), 1);
        assert_eq!(of_systemd[0].options().as_deref(), Some(&["nosuid".to_owned()][..]));
        let other = vec![groups("ro"), mount("bind", "/sys/fs/cgroup", "rprivate")];
        assert_eq!(with_groups_of_systemd(other.clone()), other);
    }

    #[test]
    fn what_the_guest_cannot_have_is_refused_by_name() {
        for (host, words) in [
            (
                spec(json!({"devices": [{"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}]})),
                "/dev/sda (8:0)",
            ),
            (
                spec(json!({"devices": [{"path": "/dev/x", "type": "c", "major": 240, "minor": 7}]})),
                "/dev/x (240:7)",
            ),
            (
                spec(json!({"devices": [{"path": "/dev/y", "type": "c", "major": 10, "minor": 60}]})),
                "/dev/y (10:60)",
            ),
            (spec(json!({"resources": {"rdma": {"mlx": {"hcaHandles": 1}}}})), "rdma"),
        ] {
            let error = try_translate(host).unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
    }

    #[test]
    fn what_is_privileged_is_marked_whatever_the_spec_says_of_it() {
        let mark = |options: Value, masked: Value, capabilities: Value| {
            let mut spec = spec(json!({"maskedPaths": masked}));
            spec["process"]["capabilities"] = json!({"bounding": capabilities});
            spec["mounts"] = json!([{"destination": "/sys", "type": "sysfs", "options": options}]);
            spec["annotations"] = json!({"io.katacontainers.pkg.oci.privileged": "true"});
            let guest = try_translate(spec).unwrap();
            guest["annotations"]["io.katacontainers.pkg.oci.privileged"].as_str().unwrap().to_owned()
        };
        let all = json!(["CAP_SYS_ADMIN", "CAP_MKNOD"]);
        assert_eq!(mark(json!(["nosuid", "rw"]), json!([]), all.clone()), "true");
        assert_eq!(mark(json!(["nosuid", "ro"]), json!([]), all.clone()), "false");
        assert_eq!(mark(json!(["nosuid"]), json!(["/proc/keys"]), all), "false");
        assert_eq!(mark(json!(["nosuid"]), json!([]), json!(["CAP_MKNOD"])), "false");
    }

    #[test]
    fn a_privileged_container_goes_without_what_the_guest_cannot_have() {
        let guest = try_translate(spec(json!({
            "devices": [{"path": "/dev/sda", "type": "b", "major": 8, "minor": 0},
                        {"path": "/dev/x", "type": "c", "major": 240, "minor": 7},
                        {"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232}],
            "resources": {"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "access": "rwm"}]},
        })))
        .unwrap();
        let devices = guest["linux"]["devices"].as_array().unwrap();
        assert_eq!(devices.len(), 1);
        assert_eq!(devices[0]["path"], "/dev/kvm");
        assert_eq!(guest["linux"]["resources"]["devices"].as_array().unwrap().len(), 2);
    }
}

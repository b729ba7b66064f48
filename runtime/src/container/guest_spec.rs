//! The host's OCI spec as the guest is to run it. Pure.
//!
//! What names or limits the host is taken out; what the container is, stays.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxDeviceType, LinuxNamespaceType, Mount, Root, Spec};
use protocols::guest;

use crate::{
    bundle::{Bundle, Role},
    error::{Error, Result},
};

/// What the engine decided about a container, for its spec.
#[derive(Debug)]
pub(crate) struct Decided {
    pub root: PathBuf,
    pub mounts: Vec<Mount>,
    /// Whether the guest applies the spec's system call filter.
    pub seccomp: bool,
}

/// Translates `bundle`'s spec.
pub(crate) fn translate(bundle: &Bundle, decided: Decided) -> Result<Spec> {
    let mut spec = bundle.spec.clone();
    let read_only = spec.root().as_ref().and_then(Root::readonly);
    let mut root = Root::default();
    root.set_path(decided.root).set_readonly(read_only);
    spec.set_root(Some(root)).set_mounts(Some(decided.mounts));
    // Hooks name programs of the host; they run there.
    spec.set_hooks(None);
    translate_process(&mut spec);
    translate_linux(&mut spec, decided.seccomp)?;
    annotate(&mut spec, bundle);
    Ok(spec)
}

/// Whether the container joins the process namespace of its sandbox: it names one by path.
pub(crate) fn shares_sandbox_pids(bundle: &Bundle) -> bool {
    matches!(bundle.namespace(LinuxNamespaceType::Pid), Some(Some(_)))
}

fn translate_process(spec: &mut Spec) {
    if let Some(process) = spec.process_mut() {
        // Labels and profiles of the host's policy; the guest has none.
        process.set_selinux_label(None).set_apparmor_profile(None);
    }
}

fn translate_linux(spec: &mut Spec, seccomp: bool) -> Result<()> {
    let linux = spec.linux_mut().as_mut().ok_or_else(|| Error::invalid("linux: is missing"))?;
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    // The guest's network is the VM's, its process namespace is asked for apart, and the host's clock offsets mean
    // nothing there. The agent always makes a cgroup namespace.
    namespaces.retain(|namespace| {
        !matches!(
            namespace.typ(),
            LinuxNamespaceType::Network
                | LinuxNamespaceType::Pid
                | LinuxNamespaceType::Time
                | LinuxNamespaceType::Cgroup
        )
    });
    if !namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Mount) {
        // A container without a mount namespace of its own would see the agent's.
        namespaces.push(
            oci_spec::runtime::LinuxNamespaceBuilder::default()
                .typ(LinuxNamespaceType::Mount)
                .build()
                .map_err(|error| Error::internal(error.to_string()))?,
        );
    }
    for namespace in &mut namespaces {
        namespace.set_path(None);
    }
    linux.set_namespaces(Some(namespaces));
    linux.set_mount_label(None);
    if !seccomp {
        linux.set_seccomp(None);
    }
    if let Some(devices) = linux.devices_mut() {
        devices.retain(|device| {
            let keep = device.typ() != LinuxDeviceType::B;
            if !keep {
                tracing::warn!(path = %device.path().display(), "block devices are not passed to the guest");
            }
            keep
        });
    }
    let mut resources = linux.resources().clone().unwrap_or_default();
    // Device numbers, disks, traffic classes and CPU numbers are the host's.
    resources.set_devices(None).set_block_io(None).set_network(None);
    if let Some(cpu) = resources.cpu_mut() {
        cpu.set_cpus(None).set_mems(None);
    }
    linux.set_resources(Some(resources));
    Ok(())
}

fn annotate(spec: &mut Spec, bundle: &Bundle) {
    let kind = match bundle.role {
        Role::Single => guest::CONTAINER_TYPE_SINGLE,
        Role::PodSandbox => guest::CONTAINER_TYPE_POD_SANDBOX,
        Role::PodContainer { .. } => guest::CONTAINER_TYPE_POD_CONTAINER,
    };
    let mut annotations = spec.annotations().clone().unwrap_or_default();
    annotations.insert(guest::ANNOTATION_CONTAINER_TYPE.into(), kind.into());
    annotations.insert(guest::ANNOTATION_BUNDLE_PATH.into(), bundle.dir.display().to_string());
    spec.set_annotations(Some(annotations));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn translated(host: Value) -> Value {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), host.to_string()).unwrap();
        let bundle = Bundle::load(dir.path()).unwrap();
        let decided = Decided { root: "/guest/root".into(), mounts: Vec::new(), seccomp: false };
        serde_json::to_value(translate(&bundle, decided).unwrap()).unwrap()
    }

    #[test]
    fn what_is_the_hosts_stays_on_the_host() {
        let guest = translated(json!({
            "ociVersion": "1.0.2",
            "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 7, "gid": 8}, "selinuxLabel": "a:b:c:s0",
                        "apparmorProfile": "p", "env": ["A=b"]},
            "root": {"path": "rootfs", "readonly": true},
            "hooks": {"prestart": [{"path": "/bin/hook"}]},
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "network", "path": "/n"}, {"type": "ipc", "path": "/i"},
                               {"type": "time"}, {"type": "cgroup"}],
                "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229},
                            {"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}],
                "resources": {"devices": [{"allow": false, "access": "rwm"}], "cpu": {"quota": 5, "cpus": "0-3"},
                              "memory": {"limit": 1000}, "pids": {"limit": 9}},
                "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
                "mountLabel": "x",
            },
        }));
        for (pointer, expected) in [
            ("/root", json!({"path": "/guest/root", "readonly": true})),
            ("/hooks", Value::Null),
            ("/process/selinuxLabel", Value::Null),
            ("/process/apparmorProfile", Value::Null),
            ("/process/env", json!(["A=b"])),
            ("/process/user/uid", json!(7)),
            ("/linux/namespaces", json!([{"type": "ipc"}, {"type": "mount"}])),
            ("/linux/devices/0/path", json!("/dev/fuse")),
            ("/linux/devices/1", Value::Null),
            ("/linux/resources/devices", Value::Null),
            ("/linux/resources/cpu/quota", json!(5)),
            ("/linux/resources/cpu/cpus", Value::Null),
            ("/linux/resources/memory/limit", json!(1000)),
            ("/linux/resources/pids/limit", json!(9)),
            ("/linux/seccomp", Value::Null),
            ("/linux/mountLabel", Value::Null),
            ("/annotations/io.katacontainers.pkg.oci.container_type", json!("single_container")),
        ] {
            assert_eq!(guest.pointer(pointer).cloned().unwrap_or_default(), expected, "{pointer}");
        }
    }
}

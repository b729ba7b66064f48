//! The OCI runtime spec and its form on the wire.
//!
//! Both directions go through the spec's own JSON form, whose names and value checks are `oci-spec`'s; so only the
//! differences stand here. proto3 scalars have no presence: zero and empty mean "absent", but for the few fields where
//! the spec gives zero a meaning of its own. What the wire has no field for (`unified`, scheduler, I/O priority, umask,
//! domain name, personality, ...) does not travel in it: requests carry the spec's JSON beside it, which an agent that does
//! not know that field ignores.

mod from_wire;
mod json;
mod to_wire;

use std::fmt;

use oci_spec::runtime::{LinuxResources, Process, Spec};

use crate::wire_oci as wire;

pub use json::{process_from_json, process_to_json, spec_from_json, spec_to_json};

/// A spec that cannot be translated; says which part and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciError(String);

impl fmt::Display for OciError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OciError {}

/// For the guest: a whole spec.
pub fn spec_to_wire(spec: &Spec) -> Result<wire::Spec, OciError> {
    Ok(to_wire::spec(&json("spec", spec)?))
}

/// For the guest: one process.
pub fn process_to_wire(process: &Process) -> Result<wire::Process, OciError> {
    Ok(to_wire::process(&json("process", process)?))
}

/// For the guest: limits.
pub fn resources_to_wire(resources: &LinuxResources) -> Result<wire::LinuxResources, OciError> {
    Ok(to_wire::resources(&json("linux.resources", resources)?))
}

/// In the guest: the spec to be run.
pub fn spec_from_wire(spec: &wire::Spec) -> Result<Spec, OciError> {
    parse("spec", from_wire::spec(spec))
}

/// In the guest: one process.
pub fn process_from_wire(process: &wire::Process) -> Result<Process, OciError> {
    parse("process", from_wire::process(process))
}

/// In the guest: limits.
pub fn resources_from_wire(resources: &wire::LinuxResources) -> Result<LinuxResources, OciError> {
    parse("linux.resources", from_wire::resources(resources))
}

fn json(what: &str, value: &impl serde::Serialize) -> Result<serde_json::Value, OciError> {
    serde_json::to_value(value).map_err(|error| OciError(format!("{what}: {error}")))
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, value: serde_json::Value) -> Result<T, OciError> {
    serde_json::from_value(value).map_err(|error| OciError(format!("{what}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn full() -> Value {
        json!({
            "ociVersion": "1.0.2",
            "hostname": "h",
            "process": {
                "terminal": true,
                "consoleSize": {"height": 24, "width": 80},
                "user": {"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "username": "u"},
                "args": ["sh", "-c", ""],
                "env": ["A=1", "B= x "],
                "cwd": "/w",
                "capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "inheritable": [],
                                 "permitted": ["CAP_CHOWN"], "ambient": []},
                "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 512}],
                "noNewPrivileges": true,
                "apparmorProfile": "p",
                "oomScoreAdj": -5,
                "selinuxLabel": "l",
            },
            "root": {"path": "/r", "readonly": true},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]}],
            "hooks": {"startContainer": [{"path": "/h", "args": ["h"], "env": ["X=1"], "timeout": 3}]},
            "annotations": {"k": "v"},
            "linux": {
                "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
                "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
                "sysctl": {"net.core.somaxconn": "1"},
                "cgroupsPath": "/a/b",
                "namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "ipc", "path": "/i"}],
                "devices": [{"path": "/dev/x", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0}],
                "seccomp": {
                    "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"],
                    "syscalls": [
                        {"names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1},
                        {"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38,
                         "args": [{"index": 0, "value": 7, "valueTwo": 8, "op": "SCMP_CMP_MASKED_EQ"}]},
                    ],
                },
                "rootfsPropagation": "slave",
                "maskedPaths": ["/proc/kcore"],
                "readonlyPaths": ["/proc/sys"],
                "mountLabel": "m",
                "resources": {
                    "devices": [{"allow": false, "access": "rwm"},
                                {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}],
                    "memory": {"limit": 1000, "reservation": 500, "swap": -1, "swappiness": 60, "disableOOMKiller": true},
                    "cpu": {"shares": 512, "quota": -1, "period": 100000, "cpus": "0", "mems": "0"},
                    "pids": {"limit": -1},
                    "blockIO": {"weight": 10, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}]},
                    "hugepageLimits": [{"pageSize": "2MB", "limit": 4}],
                },
            },
        })
    }

    #[test]
    fn what_the_wire_has_a_field_for_survives_the_way() {
        let spec: Spec = serde_json::from_value(full()).unwrap();
        let back = spec_from_wire(&spec_to_wire(&spec).unwrap()).unwrap();
        let (before, mut after) =
            (serde_json::to_value(&spec).unwrap(), serde_json::to_value(&back).unwrap());
        // Wildcards of device rules, absent before, come back as such.
        after["linux"]["resources"]["devices"][0] = before["linux"]["resources"]["devices"][0].clone();
        assert_eq!(before, after);
    }

    #[test]
    fn absence_keeps_its_meaning() {
        let spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.0.2",
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["x"], "cwd": "/"},
            "root": {"path": "/r"},
            "linux": {
                "namespaces": [{"type": "mount"}],
                "seccomp": {"defaultAction": "SCMP_ACT_ALLOW",
                            "syscalls": [{"names": ["bpf"], "action": "SCMP_ACT_ERRNO"}]},
                "resources": {"memory": {"limit": 5}},
            },
        }))
        .unwrap();
        let sent = spec_to_wire(&spec).unwrap();
        // An absent number would be read as errno 0, which is success.
        let rule = &sent.Linux.Seccomp.Syscalls[0];
        assert_eq!(rule.ErrnoRet, Some(wire::linux_syscall::ErrnoRet::Errnoret(1)));
        // An agent of upstream refuses a process without the message.
        assert!(sent.Process.Capabilities.is_some());
        let back = spec_from_wire(&sent).unwrap();
        let linux = back.linux().as_ref().unwrap();
        let resources = linux.resources().as_ref().unwrap();
        assert!(resources.cpu().is_none() && resources.pids().is_none() && linux.uid_mappings().is_none());
        assert_eq!(resources.memory().as_ref().unwrap().swap(), None);
        assert_eq!(back.process().as_ref().unwrap().oom_score_adj(), None);
    }

    #[test]
    fn both_spellings_of_a_namespace_are_read_and_nonsense_is_named() {
        let namespace = |typ: &str| wire::LinuxNamespace { Type: typ.into(), ..Default::default() };
        let spec = |typ: &str| wire::Spec {
            Version: "1.0.2".into(),
            Linux: Some(wire::Linux { Namespaces: vec![namespace(typ)], ..Default::default() }).into(),
            ..Default::default()
        };
        for (typ, read) in [("mnt", "mount"), ("mount", "mount"), ("net", "network"), ("pid", "pid")] {
            let json = serde_json::to_value(spec_from_wire(&spec(typ)).unwrap()).unwrap();
            assert_eq!(json["linux"]["namespaces"][0]["type"], read);
        }
        assert!(spec_from_wire(&spec("bogus")).unwrap_err().to_string().contains("bogus"));
    }
}

//! The OCI spec that every row starts from: what `ctr run` writes for an image, less what depends on the machine; and
//! changes to it by JSON pointer.

use serde_json::{Value, json};

/// A change: a JSON pointer, and what stands there afterwards. `/-` at the end appends; null takes away.
#[derive(Debug, Clone)]
pub struct Change(pub &'static str, pub Value);

const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// A process that runs `script` by the image's shell.
pub fn process(script: &str, terminal: bool) -> Value {
    json!({
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0, "additionalGids": [10]},
        "args": ["sh", "-c", script],
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "cwd": "/",
        "capabilities": {
            "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": true,
    })
}

/// A container whose init runs `script`, with a cgroup of its own.
pub fn container(script: &str, terminal: bool, cgroup: &str) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": process(script, terminal),
        "root": {"path": "rootfs"},
        "hostname": "compared",
        "mounts": [
            mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/run", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "cgroupsPath": cgroup,
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"},
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
            ],
        },
    })
}

/// A mount as the spec has it.
pub fn mount(at: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({"destination": at, "type": kind, "source": source, "options": options})
}

/// Applies changes.
pub fn change(spec: &mut Value, changes: &[Change]) {
    for Change(pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer has a slash");
        make(spec, parent);
        match spec.pointer_mut(parent).expect("just made") {
            Value::Array(list) if key == "-" => list.push(value.clone()),
            Value::Array(list) => list[key.parse::<usize>().expect("an index")] = value.clone(),
            Value::Object(object) if value.is_null() => drop(object.remove(key)),
            parent => parent[key] = value.clone(),
        }
    }
}

/// Makes the objects on the way to a pointer.
fn make(spec: &mut Value, pointer: &str) {
    let mut at = spec;
    for key in pointer.split('/').skip(1) {
        at = match at {
            Value::Array(list) => &mut list[key.parse::<usize>().expect("an index")],
            Value::Object(object) => {
                object.entry(key).or_insert_with(|| if key == "mounts" { json!([]) } else { json!({}) })
            }
            other => panic!("{pointer} leads through {other}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_set_append_make_and_take_away() {
        let mut spec = container("true", false, "/c");
        change(
            &mut spec,
            &[
                Change("/process/cwd", json!("/tmp")),
                Change("/mounts/-", json!("last")),
                Change("/linux/sysctl/a", json!("1")),
                Change("/hostname", Value::Null),
                Change("/process/args/0", json!("ash")),
            ],
        );
        assert_eq!(spec["process"]["cwd"], "/tmp");
        assert_eq!(spec["mounts"][7], "last");
        assert_eq!(spec["linux"]["sysctl"]["a"], "1");
        assert!(spec.get("hostname").is_none());
        assert_eq!(spec["process"]["args"], json!(["ash", "-c", "true"]));
    }
}

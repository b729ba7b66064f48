//! `spec`: a config.json to begin with, the same as runc's but for the name of the host.

use std::path::{Path, PathBuf};

use clap::Args;
use nix::unistd::{getegid, geteuid};
use runtime::error::{Context, Error, Result};
use serde_json::{Value, json};

use super::record::write_whole;

const FILE: &str = "config.json";

#[derive(Debug, Args)]
pub struct Spec {
    /// The directory for it; the current one if none is named
    #[arg(short, long)]
    bundle: Option<PathBuf>,
    /// For a container of a user who is not root
    #[arg(long)]
    rootless: bool,
}

impl Spec {
    pub fn run(self) -> Result<()> {
        let dir = self.bundle.as_deref().unwrap_or(Path::new("."));
        let path = dir.join(FILE);
        if path.exists() {
            return Err(Error::already_exists(format!("File {FILE} exists. Remove it first")));
        }
        let mut spec = privileged();
        if self.rootless {
            make_rootless(&mut spec);
        }
        write_whole(&path, format!("{spec:#}\n").as_bytes())
            .with_context(|| format!("bundle {}", dir.display()))
    }
}

fn privileged() -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| {
        let mut mount = json!({"destination": destination, "type": kind, "source": source});
        if !options.is_empty() {
            mount["options"] = json!(options);
        }
        mount
    };
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
                "ambient": capabilities,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "kata",
        "mounts": [
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts",
                  &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// With a user namespace, and without what takes rights on the host.
fn make_rootless(spec: &mut Value) {
    let mapping = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
    spec["linux"]["uidMappings"] = mapping(geteuid().as_raw());
    spec["linux"]["gidMappings"] = mapping(getegid().as_raw());
    if let Some(linux) = spec["linux"].as_object_mut() {
        linux.remove("resources");
    }
    if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({"type": "user"}));
    }
    for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
        match mount["destination"].as_str() {
            Some("/dev/pts") => {
                if let Some(options) = mount["options"].as_array_mut() {
                    options.retain(|option| option != "gid=5");
                }
            }
            Some("/sys") => {
                mount["type"] = json!("none");
                mount["source"] = json!("/sys");
                mount["options"] = json!(["rbind", "nosuid", "noexec", "nodev", "ro"]);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime::bundle::Bundle;

    use super::*;

    #[test]
    fn what_it_writes_is_a_bundle_and_is_not_written_twice() {
        for rootless in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let spec = || Spec { bundle: Some(dir.path().into()), rootless };
            spec().run().unwrap();
            Bundle::load(dir.path()).unwrap();
            assert_eq!(spec().run().unwrap_err().to_string(), "File config.json exists. Remove it first");
        }
    }
}

//! What this runtime understands of a spec: the OCI runtime spec's "features" structure.
//!
//! Engines read it to know what they may ask for. What becomes of each field is in docs/oci-spec.md.

use serde_json::{Value, json};

/// The type that containerd registers for it.
pub const TYPE_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Each word that is kept, or left out because it means nothing in a VM.
const MOUNT_OPTIONS: &str = "\
    async atime bind defaults dev diratime dirsync exec idmap iversion lazytime loud mand noatime nodev \
    nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow \
    private ratime rbind rdev rdiratime relatime remount rexec ridmap rnoatime rnodev rnodiratime rnoexec \
    rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared rslave \
    rstrictatime rsuid rsymfollow runbindable rw shared silent slave strictatime suid symfollow sync \
    tmpcopyup unbindable";
/// capabilities(7).
const CAPABILITIES: &str = "\
    CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID \
    CAP_SETUID CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN \
    CAP_NET_RAW CAP_IPC_LOCK CAP_IPC_OWNER CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE \
    CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE CAP_SYS_RESOURCE CAP_SYS_TIME \
    CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP \
    CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ \
    CAP_PERFMON CAP_BPF CAP_CHECKPOINT_RESTORE";
/// All but SCMP_ACT_NOTIFY, whose listener is out of a VM's reach.
const SECCOMP_ACTIONS: &str = "\
    SCMP_ACT_ALLOW SCMP_ACT_ERRNO SCMP_ACT_KILL SCMP_ACT_KILL_PROCESS SCMP_ACT_KILL_THREAD \
    SCMP_ACT_LOG SCMP_ACT_TRACE SCMP_ACT_TRAP";
const SECCOMP_OPERATORS: &str = "\
    SCMP_CMP_EQ SCMP_CMP_GE SCMP_CMP_GT SCMP_CMP_LE SCMP_CMP_LT SCMP_CMP_MASKED_EQ SCMP_CMP_NE";
const SECCOMP_FLAGS: &str = "\
    SECCOMP_FILTER_FLAG_LOG SECCOMP_FILTER_FLAG_SPEC_ALLOW SECCOMP_FILTER_FLAG_TSYNC \
    SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV";
/// Kata's settings: such an annotation chooses programs and files of the host.
const UNSAFE_ANNOTATIONS: [&str; 1] = ["io.katacontainers."];

/// The newest of the OCI runtime specs that are served.
pub const SPEC: &str = "1.2.0";

/// The structure as JSON, in the shape of runtime-spec's features.md.
pub fn features() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": words(MOUNT_OPTIONS),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
            "capabilities": words(CAPABILITIES),
            "cgroup": {"v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": false},
            "seccomp": {
                "enabled": true,
                "actions": words(SECCOMP_ACTIONS),
                "operators": words(SECCOMP_OPERATORS),
                "archs": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
                "knownFlags": words(SECCOMP_FLAGS),
                "supportedFlags": words(SECCOMP_FLAGS),
            },
            "apparmor": {"enabled": false},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": false},
        },
        "annotations": {"io.katacontainers.version": env!("CARGO_PKG_VERSION")},
        "potentiallyUnsafeConfigAnnotations": UNSAFE_ANNOTATIONS,
    })
}

fn words(list: &str) -> Vec<&str> {
    list.split_whitespace().collect()
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{Capability, Features};

    use super::*;

    #[test]
    fn it_is_the_specs_structure() {
        let features: Features = serde_json::from_value(features()).unwrap();
        let linux = features.linux().as_ref().unwrap();
        let seccomp = linux.seccomp().as_ref().unwrap();
        assert_eq!(seccomp.actions().as_ref().unwrap().len(), 8);
        for name in linux.capabilities().as_ref().unwrap() {
            name.trim_start_matches("CAP_").parse::<Capability>().unwrap_or_else(|_| panic!("{name}"));
        }
    }
}

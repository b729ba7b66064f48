//! From the spec's JSON form to the wire. Total: what is absent becomes zero or empty.

use std::collections::HashMap;

use protobuf::MessageField;
use serde_json::Value;

use crate::wire_oci as wire;

/// The errno of a refused system call when the spec names none: EPERM.
const DEFAULT_ERRNO: u32 = 1;

pub(super) fn spec(v: &Value) -> wire::Spec {
    wire::Spec {
        Version: text(v, "ociVersion"),
        Process: part(v, "process", process),
        Root: part(v, "root", |v| wire::Root {
            Path: text(v, "path"),
            Readonly: flag(v, "readonly"),
            ..Default::default()
        }),
        Hostname: text(v, "hostname"),
        Mounts: list(v, "mounts", |v| wire::Mount {
            destination: text(v, "destination"),
            source: text(v, "source"),
            type_: text(v, "type"),
            options: texts(v, "options"),
            ..Default::default()
        }),
        Hooks: part(v, "hooks", hooks),
        Annotations: map(v, "annotations"),
        Linux: part(v, "linux", linux),
        ..Default::default()
    }
}

pub(super) fn process(v: &Value) -> wire::Process {
    wire::Process {
        Terminal: flag(v, "terminal"),
        ConsoleSize: part(v, "consoleSize", |v| wire::Box {
            Height: number(v, "height"),
            Width: number(v, "width"),
            ..Default::default()
        }),
        User: part(v, "user", |v| wire::User {
            UID: number(v, "uid"),
            GID: number(v, "gid"),
            AdditionalGids: list(v, "additionalGids", as_number),
            Username: text(v, "username"),
            ..Default::default()
        }),
        Args: texts(v, "args"),
        Env: texts(v, "env"),
        Cwd: text(v, "cwd"),
        // Always there: without the message an agent refuses the process, and with it empty there are no capabilities,
        // which is what the spec means by leaving them out.
        Capabilities: MessageField::some(capabilities(&v["capabilities"])),
        Rlimits: list(v, "rlimits", |v| wire::POSIXRlimit {
            Type: text(v, "type"),
            Hard: number(v, "hard"),
            Soft: number(v, "soft"),
            ..Default::default()
        }),
        NoNewPrivileges: flag(v, "noNewPrivileges"),
        ApparmorProfile: text(v, "apparmorProfile"),
        OOMScoreAdj: number(v, "oomScoreAdj"),
        SelinuxLabel: text(v, "selinuxLabel"),
        ..Default::default()
    }
}

fn capabilities(v: &Value) -> wire::LinuxCapabilities {
    wire::LinuxCapabilities {
        Bounding: texts(v, "bounding"),
        Effective: texts(v, "effective"),
        Inheritable: texts(v, "inheritable"),
        Permitted: texts(v, "permitted"),
        Ambient: texts(v, "ambient"),
        ..Default::default()
    }
}

fn hooks(v: &Value) -> wire::Hooks {
    let hooks = |key| {
        list(v, key, |v| wire::Hook {
            Path: text(v, "path"),
            Args: texts(v, "args"),
            Env: texts(v, "env"),
            Timeout: number(v, "timeout"),
            ..Default::default()
        })
    };
    wire::Hooks {
        Prestart: hooks("prestart"),
        Poststart: hooks("poststart"),
        Poststop: hooks("poststop"),
        CreateRuntime: hooks("createRuntime"),
        CreateContainer: hooks("createContainer"),
        StartContainer: hooks("startContainer"),
        ..Default::default()
    }
}

fn linux(v: &Value) -> wire::Linux {
    let mappings = |key| {
        list(v, key, |v| wire::LinuxIDMapping {
            HostID: number(v, "hostID"),
            ContainerID: number(v, "containerID"),
            Size: number(v, "size"),
            ..Default::default()
        })
    };
    wire::Linux {
        UIDMappings: mappings("uidMappings"),
        GIDMappings: mappings("gidMappings"),
        Sysctl: map(v, "sysctl"),
        Resources: part(v, "resources", resources),
        CgroupsPath: text(v, "cgroupsPath"),
        Namespaces: list(v, "namespaces", |v| wire::LinuxNamespace {
            Type: text(v, "type"),
            Path: text(v, "path"),
            ..Default::default()
        }),
        Devices: list(v, "devices", |v| wire::LinuxDevice {
            Path: text(v, "path"),
            Type: text(v, "type"),
            Major: number(v, "major"),
            Minor: number(v, "minor"),
            FileMode: number(v, "fileMode"),
            UID: number(v, "uid"),
            GID: number(v, "gid"),
            ..Default::default()
        }),
        Seccomp: part(v, "seccomp", seccomp),
        RootfsPropagation: text(v, "rootfsPropagation"),
        MaskedPaths: texts(v, "maskedPaths"),
        ReadonlyPaths: texts(v, "readonlyPaths"),
        MountLabel: text(v, "mountLabel"),
        ..Default::default()
    }
}

fn seccomp(v: &Value) -> wire::LinuxSeccomp {
    wire::LinuxSeccomp {
        DefaultAction: text(v, "defaultAction"),
        Architectures: texts(v, "architectures"),
        Flags: texts(v, "flags"),
        Syscalls: list(v, "syscalls", |v| wire::LinuxSyscall {
            Names: texts(v, "names"),
            Action: text(v, "action"),
            ErrnoRet: Some(wire::linux_syscall::ErrnoRet::Errnoret(
                v["errnoRet"].as_u64().map_or(DEFAULT_ERRNO, |errno| errno as u32),
            )),
            Args: list(v, "args", |v| wire::LinuxSeccompArg {
                Index: number(v, "index"),
                Value: number(v, "value"),
                ValueTwo: number(v, "valueTwo"),
                Op: text(v, "op"),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(super) fn resources(v: &Value) -> wire::LinuxResources {
    wire::LinuxResources {
        Devices: list(v, "devices", |v| wire::LinuxDeviceCgroup {
            Allow: flag(v, "allow"),
            Type: text(v, "type"),
            Major: number(v, "major"),
            Minor: number(v, "minor"),
            Access: text(v, "access"),
            ..Default::default()
        }),
        Memory: part(v, "memory", |v| wire::LinuxMemory {
            Limit: number(v, "limit"),
            Reservation: number(v, "reservation"),
            Swap: number(v, "swap"),
            Kernel: number(v, "kernel"),
            KernelTCP: number(v, "kernelTCP"),
            Swappiness: number(v, "swappiness"),
            DisableOOMKiller: flag(v, "disableOOMKiller"),
            ..Default::default()
        }),
        CPU: part(v, "cpu", |v| wire::LinuxCPU {
            Shares: number(v, "shares"),
            Quota: number(v, "quota"),
            Period: number(v, "period"),
            RealtimeRuntime: number(v, "realtimeRuntime"),
            RealtimePeriod: number(v, "realtimePeriod"),
            Cpus: text(v, "cpus"),
            Mems: text(v, "mems"),
            ..Default::default()
        }),
        Pids: part(v, "pids", |v| wire::LinuxPids { Limit: number(v, "limit"), ..Default::default() }),
        BlockIO: part(v, "blockIO", block_io),
        HugepageLimits: list(v, "hugepageLimits", |v| wire::LinuxHugepageLimit {
            Pagesize: text(v, "pageSize"),
            Limit: number(v, "limit"),
            ..Default::default()
        }),
        Network: part(v, "network", |v| wire::LinuxNetwork {
            ClassID: number(v, "classID"),
            Priorities: list(v, "priorities", |v| wire::LinuxInterfacePriority {
                Name: text(v, "name"),
                Priority: number(v, "priority"),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn block_io(v: &Value) -> wire::LinuxBlockIO {
    let throttle = |key| {
        list(v, key, |v| wire::LinuxThrottleDevice {
            Major: number(v, "major"),
            Minor: number(v, "minor"),
            Rate: number(v, "rate"),
            ..Default::default()
        })
    };
    wire::LinuxBlockIO {
        Weight: number(v, "weight"),
        LeafWeight: number(v, "leafWeight"),
        WeightDevice: list(v, "weightDevice", |v| wire::LinuxWeightDevice {
            Major: number(v, "major"),
            Minor: number(v, "minor"),
            Weight: number(v, "weight"),
            LeafWeight: number(v, "leafWeight"),
            ..Default::default()
        }),
        ThrottleReadBpsDevice: throttle("throttleReadBpsDevice"),
        ThrottleWriteBpsDevice: throttle("throttleWriteBpsDevice"),
        ThrottleReadIOPSDevice: throttle("throttleReadIOPSDevice"),
        ThrottleWriteIOPSDevice: throttle("throttleWriteIOPSDevice"),
        ..Default::default()
    }
}

fn text(v: &Value, key: &str) -> String {
    v[key].as_str().unwrap_or_default().to_owned()
}

fn flag(v: &Value, key: &str) -> bool {
    v[key].as_bool().unwrap_or_default()
}

/// The JSON form was made from integers of at least these sizes, so none is cut.
fn as_number<T: TryFrom<i128> + Default>(v: &Value) -> T {
    let number = v.as_i64().map(i128::from).or(v.as_u64().map(i128::from)).unwrap_or_default();
    T::try_from(number).unwrap_or_default()
}

fn number<T: TryFrom<i128> + Default>(v: &Value, key: &str) -> T {
    as_number(&v[key])
}

fn list<T>(v: &Value, key: &str, item: impl Fn(&Value) -> T) -> Vec<T> {
    v[key].as_array().into_iter().flatten().map(item).collect()
}

fn texts(v: &Value, key: &str) -> Vec<String> {
    list(v, key, |v| v.as_str().unwrap_or_default().to_owned())
}

fn map(v: &Value, key: &str) -> HashMap<String, String> {
    let pairs = v[key].as_object().into_iter().flatten();
    pairs.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

fn part<T>(v: &Value, key: &str, convert: impl Fn(&Value) -> T) -> MessageField<T> {
    match &v[key] {
        Value::Null => MessageField::none(),
        value => MessageField::some(convert(value)),
    }
}

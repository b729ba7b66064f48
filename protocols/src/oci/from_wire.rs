//! From the wire to the spec's JSON form: zero and empty are left out, so that "absent" means what the spec says.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::wire_oci as wire;

/// An object under construction.
#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    /// Sets what is there however it looks.
    fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.into(), value.into());
        self
    }

    /// Sets what is not zero or empty.
    fn some(self, key: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let empty = match &value {
            Value::Null => true,
            Value::Bool(on) => !on,
            Value::Number(number) => number.as_i64() == Some(0),
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
        };
        if empty { self } else { self.set(key, value) }
    }

    /// Sets a part if the message has it, even if nothing in it is set.
    fn part<T>(self, key: &str, value: Option<&T>, convert: impl Fn(&T) -> Value) -> Self {
        match value {
            Some(value) => self.set(key, convert(value)),
            None => self,
        }
    }

    fn list<T>(self, key: &str, items: &[T], convert: impl Fn(&T) -> Value) -> Self {
        self.some(key, items.iter().map(convert).collect::<Vec<_>>())
    }

    fn done(self) -> Value {
        Value::Object(self.0)
    }
}

pub(super) fn spec(spec: &wire::Spec) -> Value {
    Object::default()
        .set("ociVersion", spec.Version.as_str())
        .part("process", spec.Process.as_ref(), process)
        .part("root", spec.Root.as_ref(), |root| {
            Object::default().set("path", root.Path.as_str()).set("readonly", root.Readonly).done()
        })
        .some("hostname", spec.Hostname.as_str())
        .list("mounts", &spec.Mounts, |mount| {
            Object::default()
                .set("destination", mount.destination.as_str())
                .some("type", mount.type_.as_str())
                .some("source", mount.source.as_str())
                .some("options", mount.options.clone())
                .done()
        })
        .part("hooks", spec.Hooks.as_ref(), hooks)
        .some("annotations", map(&spec.Annotations))
        .part("linux", spec.Linux.as_ref(), linux)
        .done()
}

pub(super) fn process(process: &wire::Process) -> Value {
    let user = process.User.clone().unwrap_or_default();
    let user = Object::default()
        .set("uid", user.UID)
        .set("gid", user.GID)
        .some("additionalGids", user.AdditionalGids.clone())
        .some("username", user.Username)
        .done();
    Object::default()
        .set("terminal", process.Terminal)
        .part(
            "consoleSize",
            process.ConsoleSize.as_ref(),
            |size| json!({"height": size.Height, "width": size.Width}),
        )
        .set("user", user)
        .set("args", process.Args.clone())
        .some("env", process.Env.clone())
        .set("cwd", process.Cwd.as_str())
        .part("capabilities", process.Capabilities.as_ref(), |capabilities| {
            json!({
                "bounding": capabilities.Bounding,
                "effective": capabilities.Effective,
                "inheritable": capabilities.Inheritable,
                "permitted": capabilities.Permitted,
                "ambient": capabilities.Ambient,
            })
        })
        .list(
            "rlimits",
            &process.Rlimits,
            |limit| json!({"type": limit.Type, "hard": limit.Hard, "soft": limit.Soft}),
        )
        .set("noNewPrivileges", process.NoNewPrivileges)
        .some("apparmorProfile", process.ApparmorProfile.as_str())
        .some("oomScoreAdj", process.OOMScoreAdj)
        .some("selinuxLabel", process.SelinuxLabel.as_str())
        .done()
}

fn hooks(hooks: &wire::Hooks) -> Value {
    let hook = |hook: &wire::Hook| {
        Object::default()
            .set("path", hook.Path.as_str())
            .some("args", hook.Args.clone())
            .some("env", hook.Env.clone())
            .some("timeout", hook.Timeout)
            .done()
    };
    Object::default()
        .list("prestart", &hooks.Prestart, hook)
        .list("poststart", &hooks.Poststart, hook)
        .list("poststop", &hooks.Poststop, hook)
        .list("createRuntime", &hooks.CreateRuntime, hook)
        .list("createContainer", &hooks.CreateContainer, hook)
        .list("startContainer", &hooks.StartContainer, hook)
        .done()
}

fn linux(linux: &wire::Linux) -> Value {
    let mapping = |mapping: &wire::LinuxIDMapping| json!({"hostID": mapping.HostID, "containerID": mapping.ContainerID, "size": mapping.Size});
    Object::default()
        .list("uidMappings", &linux.UIDMappings, mapping)
        .list("gidMappings", &linux.GIDMappings, mapping)
        .some("sysctl", map(&linux.Sysctl))
        .part("resources", linux.Resources.as_ref(), resources)
        .some("cgroupsPath", linux.CgroupsPath.as_str())
        .list("namespaces", &linux.Namespaces, |namespace| {
            let typ = match namespace.Type.as_str() {
                "mnt" => "mount",
                "net" => "network",
                other => other,
            };
            Object::default().set("type", typ).some("path", namespace.Path.as_str()).done()
        })
        .list("devices", &linux.Devices, |device| {
            Object::default()
                .set("path", device.Path.as_str())
                .set("type", device.Type.as_str())
                .set("major", device.Major)
                .set("minor", device.Minor)
                .some("fileMode", device.FileMode)
                .set("uid", device.UID)
                .set("gid", device.GID)
                .done()
        })
        .part("seccomp", linux.Seccomp.as_ref(), seccomp)
        .some("rootfsPropagation", linux.RootfsPropagation.as_str())
        .some("maskedPaths", linux.MaskedPaths.clone())
        .some("readonlyPaths", linux.ReadonlyPaths.clone())
        .some("mountLabel", linux.MountLabel.as_str())
        .done()
}

fn seccomp(seccomp: &wire::LinuxSeccomp) -> Value {
    Object::default()
        .set("defaultAction", seccomp.DefaultAction.as_str())
        .some("architectures", seccomp.Architectures.clone())
        .some("flags", seccomp.Flags.clone())
        .list("syscalls", &seccomp.Syscalls, |rule| {
            let errno = match rule.ErrnoRet {
                Some(wire::linux_syscall::ErrnoRet::Errnoret(errno)) => Value::from(errno),
                // Absent means EPERM, which is what the filter's library takes by itself.
                _ => Value::Null,
            };
            let args = |arg: &wire::LinuxSeccompArg| {
                Object::default()
                    .set("index", arg.Index)
                    .set("value", arg.Value)
                    .some("valueTwo", arg.ValueTwo)
                    .set("op", arg.Op.as_str())
                    .done()
            };
            let rule_object =
                Object::default().set("names", rule.Names.clone()).set("action", rule.Action.as_str());
            let rule_object = if errno.is_null() { rule_object } else { rule_object.set("errnoRet", errno) };
            rule_object.list("args", &rule.Args, args).done()
        })
        .done()
}

pub(super) fn resources(resources: &wire::LinuxResources) -> Value {
    Object::default()
        .list("devices", &resources.Devices, |rule| {
            Object::default()
                .set("allow", rule.Allow)
                .some("type", rule.Type.as_str())
                .some("major", rule.Major)
                .some("minor", rule.Minor)
                .some("access", rule.Access.as_str())
                .done()
        })
        .part("memory", resources.Memory.as_ref(), |memory| {
            Object::default()
                .some("limit", memory.Limit)
                .some("reservation", memory.Reservation)
                .some("swap", memory.Swap)
                .some("kernel", memory.Kernel)
                .some("kernelTCP", memory.KernelTCP)
                .some("swappiness", memory.Swappiness)
                .some("disableOOMKiller", memory.DisableOOMKiller)
                .done()
        })
        .part("cpu", resources.CPU.as_ref(), |cpu| {
            Object::default()
                .some("shares", cpu.Shares)
                .some("quota", cpu.Quota)
                .some("period", cpu.Period)
                .some("realtimeRuntime", cpu.RealtimeRuntime)
                .some("realtimePeriod", cpu.RealtimePeriod)
                .some("cpus", cpu.Cpus.as_str())
                .some("mems", cpu.Mems.as_str())
                .done()
        })
        .part("pids", resources.Pids.as_ref(), |pids| json!({"limit": pids.Limit}))
        .part("blockIO", resources.BlockIO.as_ref(), block_io)
        .list(
            "hugepageLimits",
            &resources.HugepageLimits,
            |limit| json!({"pageSize": limit.Pagesize, "limit": limit.Limit}),
        )
        .part("network", resources.Network.as_ref(), |network| {
            Object::default()
                .some("classID", network.ClassID)
                .list(
                    "priorities",
                    &network.Priorities,
                    |entry| json!({"name": entry.Name, "priority": entry.Priority}),
                )
                .done()
        })
        .done()
}

fn block_io(block_io: &wire::LinuxBlockIO) -> Value {
    let throttle = |device: &wire::LinuxThrottleDevice| json!({"major": device.Major, "minor": device.Minor, "rate": device.Rate});
    Object::default()
        .some("weight", block_io.Weight)
        .some("leafWeight", block_io.LeafWeight)
        .list("weightDevice", &block_io.WeightDevice, |device| {
            Object::default()
                .set("major", device.Major)
                .set("minor", device.Minor)
                .some("weight", device.Weight)
                .some("leafWeight", device.LeafWeight)
                .done()
        })
        .list("throttleReadBpsDevice", &block_io.ThrottleReadBpsDevice, throttle)
        .list("throttleWriteBpsDevice", &block_io.ThrottleWriteBpsDevice, throttle)
        .list("throttleReadIOPSDevice", &block_io.ThrottleReadIOPSDevice, throttle)
        .list("throttleWriteIOPSDevice", &block_io.ThrottleWriteIOPSDevice, throttle)
        .done()
}

fn map(map: &HashMap<String, String>) -> Map<String, Value> {
    map.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect()
}

//! What cannot be created or started, and what is said of it.

use serde_json::{Value, json};

use crate::compare::{
    row::{Creation, INIT, Rootfs, Row, Step, create, create_with, row},
    spec::{Change, mount},
    streams::Wiring,
};

const GROUP: &str = "refused";

pub fn rows() -> Vec<Row> {
    [programs(), processes(), roots_and_mounts(), linux(), order()].into_iter().flatten().collect()
}

/// A container of that spec, as far as it comes, and what is left of it.
fn with(name: &'static str, changes: impl Into<Vec<Change>>) -> Row {
    let steps = [
        create_with("echo in; exit 3", Wiring::Pipes, changes),
        Step::Start(INIT),
        Step::Wait(INIT),
        Step::Output(INIT),
        Step::Delete(INIT),
        Step::State(INIT),
    ];
    row(GROUP, name, steps)
}

fn args(name: &'static str, args: Value) -> Row {
    with(name, [Change("/process/args", args)])
}

fn programs() -> Vec<Row> {
    vec![
        args("a missing program", json!(["no-such-program"])).naming("no-such-program").quick(),
        args("a missing program by its path", json!(["/no/such/program"])).naming("/no/such/program"),
        args("what is not executable", json!(["/etc/passwd"])).naming("/etc/passwd"),
        args("a directory", json!(["/etc"])).naming("/etc"),
        args("no arguments", json!([])).naming("args"),
        args("the empty word", json!([""])).naming("exec: \"\""),
        with("no process", [Change("/process", Value::Null)]).naming("process"),
    ]
}

fn processes() -> Vec<Row> {
    vec![
        with("a relative working directory", [Change("/process/cwd", json!("etc"))]).naming("cwd"),
        with("no working directory", [Change("/process/cwd", json!(""))]).naming("cwd"),
        with("a file as working directory", [Change("/process/cwd", json!("/etc/passwd"))])
            .naming("/etc/passwd"),
        with("a capability nobody knows", [Change("/process/capabilities/effective/-", json!("CAP_NONE"))]),
        with(
            "a limit nobody knows",
            [Change("/process/rlimits", json!([{"type": "RLIMIT_NONE", "soft": 1, "hard": 1}]))],
        )
        .naming("RLIMIT_NONE"),
        with(
            "a soft limit above the hard one",
            [Change("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 20, "hard": 10}]))],
        )
        .naming("rlimit"),
        with(
            "a limit twice",
            [Change(
                "/process/rlimits",
                json!([{"type": "RLIMIT_NOFILE", "soft": 20, "hard": 30}, {"type": "RLIMIT_NOFILE", "soft": 20, "hard": 30}]),
            )],
        ),
        with("a negative user", [Change("/process/user/uid", json!(-1))]).naming("-1"),
        with("a user that is no number", [Change("/process/user/uid", json!("root"))]).naming("string"),
        with("an oom score out of range", [Change("/process/oomScoreAdj", json!(5000))]).naming(""),
        with("environment without a name", [Change("/process/env", json!(["=x", "noequals", "PATH=/bin"]))])
            .naming("=x"),
    ]
}

fn roots_and_mounts() -> Vec<Row> {
    let rootfs = |rootfs| {
        Step::Create(Creation { script: "echo in", wiring: Wiring::Pipes, changes: Vec::new(), rootfs })
    };
    vec![
        row(GROUP, "no root file system", [rootfs(Rootfs::Missing), Step::Start(INIT), Step::State(INIT)])
            .naming("exec: \"sh\""),
        row(
            GROUP,
            "a root file system that is not there",
            [rootfs(Rootfs::Broken), Step::Start(INIT), Step::State(INIT)],
        )
        .naming("/there/is/no/such/folder")
        .quick(),
        with("no root in the spec", [Change("/root", Value::Null)]).naming("root"),
        with("a root path that is not there", [Change("/root/path", json!("nowhere"))])
            .naming("nowhere")
            .differs(
                "what is mounted for the task is its root, whatever the spec calls the place; as upstream",
            ),
        with(
            "a mount of what is not there",
            [Change("/mounts/-", mount("/m", "bind", "/there/is/no/such/thing", &["rbind"]))],
        )
        .naming("/there/is/no/such/thing"),
        with("a mount of no known type", [Change("/mounts/-", mount("/m", "nosuchfs", "none", &[]))])
            .naming("/m"),
        with(
            "a mount with an option nobody knows",
            [Change("/mounts/-", mount("/m", "tmpfs", "tmpfs", &["nosuchoption"]))],
        )
        .naming("nosuchoption"),
        with("a mount to a relative place", [Change("/mounts/-", mount("m", "tmpfs", "tmpfs", &[]))]),
        with(
            "a mount over /proc's inside",
            [Change("/mounts/-", mount("/proc/compared", "tmpfs", "tmpfs", &[]))],
        )
        .naming("/proc/compared"),
        with(
            "a mount of a file over a folder",
            [Change("/mounts/-", mount("/etc", "bind", "/etc/hostname", &["bind"]))],
        )
        .naming("/etc"),
    ]
}

fn linux() -> Vec<Row> {
    vec![
        with("a namespace nobody knows", [Change("/linux/namespaces/-", json!({"type": "none"}))])
            .naming("none"),
        with("a namespace twice", [Change("/linux/namespaces/-", json!({"type": "uts"}))]).naming("uts"),
        with(
            "a namespace of a path that is not there",
            [Change("/linux/namespaces/1", json!({"type": "ipc", "path": "/proc/1/ns/none"}))],
        )
        .naming("/proc/1/ns/none")
        .differs("a namespace of the host means nothing in a VM; it gets its own"),
        with("a sysctl that is not there", [Change("/linux/sysctl", json!({"net.none.such": "1"}))])
            .naming("such"),
        with("a sysctl of the whole host", [Change("/linux/sysctl", json!({"kernel.panic": "1"}))])
            .naming("kernel.panic"),
        with(
            "a sysctl with a value it does not take",
            [Change("/linux/sysctl", json!({"net.ipv4.ip_forward": "many"}))],
        )
        .naming("ip_forward"),
        with(
            "a seccomp action nobody knows",
            [Change("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_NONE"}))],
        )
        .naming("SCMP_ACT_NONE"),
        with(
            "a device of no known type",
            [Change("/linux/devices", json!([{"path": "/dev/x", "type": "z", "major": 1, "minor": 3}]))],
        )
        .naming("z"),
        with(
            "a device by a relative path",
            [Change("/linux/devices", json!([{"path": "x", "type": "c", "major": 1, "minor": 3}]))],
        )
        .naming("below /dev")
        .differs("runc makes it in the working directory of its own"),
        with("a negative process limit", [Change("/linux/resources/pids", json!({"limit": -5}))]),
        with("a memory limit of a page", [Change("/linux/resources/memory", json!({"limit": 4096}))])
            .naming("memory"),
        with("a negative memory limit", [Change("/linux/resources/memory", json!({"limit": -2}))])
            .naming("-2"),
        with("CPUs nobody has", [Change("/linux/resources/cpu", json!({"cpus": "4000"}))])
            .naming("4000")
            .differs("the guest has CPUs of its own; those of the host that it has not are left out"),
        with("a masked path that is relative", [Change("/linux/maskedPaths", json!(["etc"]))]),
        with("a propagation nobody knows", [Change("/linux/rootfsPropagation", json!("sideways"))])
            .naming("sideways"),
        with(
            "a hostname without its namespace",
            [Change(
                "/linux/namespaces",
                json!([{"type": "mount"}, {"type": "pid"}, {"type": "network"}, {"type": "ipc"}]),
            )],
        )
        .naming("hostname"),
        with("a version nobody knows", [Change("/ociVersion", json!("7.0.0"))]),
    ]
}

fn order() -> Vec<Row> {
    vec![
        row(
            GROUP,
            "the same container twice",
            [
                create("read x"),
                Step::CreateAgain,
                Step::State(INIT),
                Step::Start(INIT),
                Step::CreateAgain,
                Step::State(INIT),
            ],
        ),
        row(
            GROUP,
            "a second start",
            [create("read x"), Step::Start(INIT), Step::Start(INIT), Step::State(INIT)],
        ),
        row(
            GROUP,
            "events of what cannot start",
            [
                create_with("", Wiring::Pipes, [Change("/process/args", json!(["no-such-program"]))]),
                Step::Start(INIT),
                Step::State(INIT),
                Step::Delete(INIT),
            ],
        )
        .naming("no-such-program"),
    ]
}

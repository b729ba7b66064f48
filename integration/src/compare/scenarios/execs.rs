//! Processes added to a running container.

use serde_json::{Value, json};

use crate::compare::{
    row::{INIT, Row, Step, add, add_with, create, exec, exec_with, row, running, shared, steps},
    spec::Change,
    streams::Wiring,
};

const GROUP: &str = "exec";

pub fn rows() -> Vec<Row> {
    [of_the_process(), that_cannot_start(), of_lifecycles()].into_iter().flatten().collect()
}

fn of_the_process() -> Vec<Row> {
    vec![
        shared(
            GROUP,
            "environment",
            add_with(
                "env | sort",
                [Change("/env", json!(["B=two words", "A=1", "EMPTY=", "PATH=/bin", "A=2"]))],
            ),
        )
        .quick(),
        shared(GROUP, "working directory", add_with("pwd", [Change("/cwd", json!("/etc"))])),
        shared(
            GROUP,
            "user and groups",
            add_with(
                "id -u; id -g; id -G; touch /root/x; echo $HOME; grep '^Cap' /proc/self/status",
                [Change("/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [7, 8]}))],
            ),
        )
        .quick(),
        shared(
            GROUP,
            "umask",
            add_with(
                "umask; touch /tmp/masked; stat -c %a /tmp/masked; rm /tmp/masked",
                [Change("/user/umask", json!(0o077))],
            ),
        )
        .differs("runc 1.1 leaves an exec's umask out"),
        shared(
            GROUP,
            "capabilities, fewer",
            add_with(
                "grep '^Cap' /proc/self/status; chown 1:1 /tmp",
                [Change(
                    "/capabilities",
                    json!({"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]}),
                )],
            ),
        ),
        shared(
            GROUP,
            "capabilities, left out",
            add_with("grep '^Cap' /proc/self/status", [Change("/capabilities", Value::Null)]),
        ),
        shared(
            GROUP,
            "new privileges",
            add_with("grep NoNewPrivs /proc/self/status", [Change("/noNewPrivileges", json!(false))]),
        ),
        shared(
            GROUP,
            "limits",
            add_with(
                "ulimit -u; ulimit -Hu; ulimit -c",
                [Change(
                    "/rlimits",
                    json!([{"type": "RLIMIT_NPROC", "soft": 1000, "hard": 2000}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]),
                )],
            ),
        ),
        shared(
            GROUP,
            "oom score",
            add_with("cat /proc/self/oom_score_adj", [Change("/oomScoreAdj", json!(321))]),
        )
        .differs("runc gives an exec the container's"),
        shared(
            GROUP,
            "is in init's namespaces",
            add(
                "for n in ipc mnt net pid uts; do [ $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) ] && echo $n; done; hostname",
            ),
        ),
        shared(
            GROUP,
            "arguments as they are",
            add_with(
                "",
                [Change("/args", json!(["printf", "%s|", "a b", "", "$HOME", "*", "\"q\"", "ü\n"]))],
            ),
        ),
    ]
}

fn that_cannot_start() -> Vec<Row> {
    let args = |args: Value| [exec_with("e", "", Wiring::Pipes, [Change("/args", args)]), Step::Start("e")];
    let file = |text: &'static str, who| {
        let mut steps = add(text);
        steps.extend([
            exec_with(who, "", Wiring::Pipes, [Change("/args", json!(["/tmp/script"]))]),
            Step::Start(who),
        ]);
        steps
    };
    let changed =
        |pointer, value| [exec_with("e", "true", Wiring::Pipes, [Change(pointer, value)]), Step::Start("e")];
    vec![
        shared(GROUP, "of a missing program", args(json!(["no-such-program"]))).quick(),
        shared(GROUP, "of a missing program by its path", args(json!(["/no/such/program"]))),
        shared(GROUP, "of what is not executable", args(json!(["/etc/passwd"]))),
        shared(GROUP, "of a directory", args(json!(["/etc"]))).naming("exec: \"/etc\""),
        shared(GROUP, "of the empty word", args(json!([""]))),
        shared(GROUP, "of nothing", args(json!([])))
            .naming("args")
            .differs("a bad spec is refused when the exec is added, not when it is started"),
        shared(
            GROUP,
            "of a script without its interpreter",
            file("printf '#!/no/interpreter\\n' > /tmp/script; chmod 755 /tmp/script", "f"),
        ),
        shared(GROUP, "of what is no program", file("echo text > /tmp/script; chmod 755 /tmp/script", "f")),
        shared(GROUP, "without a PATH", changed("/env", json!([]))),
        shared(GROUP, "in a directory that is missing", changed("/cwd", json!("/not/there"))),
        shared(GROUP, "in a directory that is a file", changed("/cwd", json!("/etc/passwd"))),
        shared(GROUP, "in a directory that is relative", changed("/cwd", json!("etc"))).naming("cwd"),
        shared(
            GROUP,
            "with a limit nobody knows",
            changed("/rlimits", json!([{"type": "RLIMIT_NONE", "soft": 1, "hard": 1}])),
        )
        .naming("RLIMIT_NONE")
        .differs("a bad spec is refused when the exec is added, not when it is started"),
        shared(
            GROUP,
            "with a capability nobody knows",
            add_with(
                "grep CapEff /proc/self/status",
                [Change("/capabilities/effective/-", json!("CAP_NONE"))],
            ),
        ),
        shared(
            GROUP,
            "that could not start: its state and end",
            [
                exec_with("e", "", Wiring::Pipes, [Change("/args", json!(["no-such-program"]))]),
                Step::Start("e"),
                Step::State("e"),
                Step::Wait("e"),
                Step::Delete("e"),
                Step::State("e"),
            ],
        )
        .differs("it has ended with 255, as upstream's; runc leaves it created"),
    ]
}

fn of_lifecycles() -> Vec<Row> {
    let up = || running("trap 'exit 0' TERM; sleep 1000 & wait").to_vec();
    vec![
        shared(
            GROUP,
            "the same name twice",
            [
                exec("e", "read x; exit 3"),
                exec("e", "exit 4"),
                Step::State("e"),
                Step::Delete("e"),
                Step::State("e"),
            ],
        ),
        shared(GROUP, "a name used again after delete", steps([add("exit 3"), add("exit 4")])).quick(),
        shared(
            GROUP,
            "started twice",
            [
                exec("e", "read x; exit 3"),
                Step::Start("e"),
                Step::Start("e"),
                Step::Kill("e", 9),
                Step::Wait("e"),
                Step::Start("e"),
                Step::Delete("e"),
            ],
        ),
        shared(
            GROUP,
            "deleted while it runs",
            [
                exec("e", "read x; exit 3"),
                Step::Start("e"),
                Step::Delete("e"),
                Step::State("e"),
                Step::Kill("e", 9),
                Step::Wait("e"),
                Step::Delete("e"),
                Step::Delete("e"),
            ],
        ),
        shared(
            GROUP,
            "deleted before start",
            [exec("e", "exit 3"), Step::State("e"), Step::Delete("e"), Step::State("e")],
        ),
        shared(
            GROUP,
            "states from first to last",
            [
                exec("e", "echo ready; read x; exit 3"),
                Step::State("e"),
                Step::Start("e"),
                Step::Expect("e", "ready"),
                Step::State("e"),
                Step::Write("e", b"\n".to_vec()),
                Step::Wait("e"),
                Step::State("e"),
                Step::Delete("e"),
                Step::State("e"),
            ],
        ),
        shared(
            GROUP,
            "start, state and delete of one that never was",
            [Step::Start("nobody"), Step::State("nobody"), Step::Delete("nobody")],
        ),
        shared(
            GROUP,
            "twenty at once",
            [Step::ExecMany(20, "read l < /proc/self/stat; echo out; echo err >&2; exit 7")],
        )
        .quick(),
        row(
            GROUP,
            "in a created container",
            [
                create("sleep 1000"),
                exec("e", "echo in; exit 3"),
                Step::Start("e"),
                Step::Wait("e"),
                Step::Output("e"),
                Step::Delete("e"),
                Step::State(INIT),
            ],
        ),
        row(
            GROUP,
            "after exit",
            [
                create("exit 3"),
                Step::Start(INIT),
                Step::Wait(INIT),
                exec("e", "true"),
                Step::Start("e"),
                Step::Delete("e"),
                Step::Delete(INIT),
            ],
        ),
        row(
            GROUP,
            "that is added before init exits, and started after",
            steps([
                up(),
                vec![
                    exec("e", "true"),
                    Step::Kill(INIT, 9),
                    Step::Wait(INIT),
                    Step::Start("e"),
                    Step::Delete("e"),
                    Step::Delete(INIT),
                ],
            ]),
        ),
        row(
            GROUP,
            "ends with init",
            steps([
                up(),
                vec![
                    exec("e", "echo ready; exec sleep 1000"),
                    Step::Start("e"),
                    Step::Expect("e", "ready"),
                    Step::Kill(INIT, 9),
                    Step::Wait(INIT),
                    Step::Wait("e"),
                    Step::Output("e"),
                    Step::Delete("e"),
                    Step::Delete(INIT),
                ],
            ]),
        ),
        row(
            GROUP,
            "is not deleted with init's task: its events",
            steps([
                up(),
                add("exit 3"),
                vec![
                    exec("f", "exit 4"),
                    Step::Start("f"),
                    Step::Wait("f"),
                    Step::Kill(INIT, 9),
                    Step::Wait(INIT),
                    Step::Delete(INIT),
                    Step::Events("delete init"),
                ],
            ]),
        ),
    ]
}

//! Pause, resume, update, statistics and lists of processes.

use serde_json::{Value, json};

use crate::compare::{
    row::{INIT, Row, Step, add, create, create_with, exec, row, shared},
    spec::Change,
    streams::Wiring,
};

const GROUP: &str = "control";

pub fn rows() -> Vec<Row> {
    [paused(), updated(), counted()].into_iter().flatten().collect()
}

/// A container that answers each line it reads.
fn answering() -> Vec<Step> {
    vec![
        create("echo ready; while read x; do echo \"<$x>\"; done"),
        Step::Start(INIT),
        Step::Expect(INIT, "ready"),
    ]
}

fn say(words: &'static str) -> Step {
    Step::Write(INIT, words.as_bytes().to_vec())
}

fn after(more: &[Step]) -> Vec<Step> {
    let mut steps = answering();
    steps.extend_from_slice(more);
    steps
}

fn paused() -> Vec<Row> {
    vec![
        row(
            GROUP,
            "paused, it says nothing; resumed, it answers",
            after(&[
                Step::Pause,
                Step::State(INIT),
                say("one\n"),
                Step::Resume,
                Step::State(INIT),
                Step::Expect(INIT, "<one>"),
                Step::Kill(INIT, 9),
                Step::Wait(INIT),
                Step::Output(INIT),
                Step::Delete(INIT),
                Step::Events("delete init"),
            ]),
        )
        .quick(),
        row(GROUP, "paused twice", after(&[Step::Pause, Step::Pause, Step::State(INIT), Step::Resume])),
        row(GROUP, "resumed twice", after(&[Step::Pause, Step::Resume, Step::Resume, Step::State(INIT)])),
        row(
            GROUP,
            "killed while paused, it ends at once",
            after(&[Step::Pause, Step::Kill(INIT, 9), Step::Wait(INIT), Step::Delete(INIT)]),
        ),
        row(
            GROUP,
            "an exec into what is paused",
            after(&[Step::Pause, exec("e", "exit 3"), Step::Start("e"), Step::Resume, Step::State(INIT)]),
        ),
        row(
            GROUP,
            "an exec that runs is paused too",
            after(&[
                exec("e", "read x; echo \"<$x>\"; exit 3"),
                Step::Start("e"),
                Step::Pause,
                Step::State("e"),
                Step::Resume,
                Step::State("e"),
                Step::Write("e", b"x\n".to_vec()),
                Step::Wait("e"),
                Step::Output("e"),
                Step::Delete("e"),
            ]),
        ),
        row(
            GROUP,
            "deleted while paused",
            after(&[Step::Pause, Step::Delete(INIT), Step::Resume, Step::State(INIT)]),
        ),
    ]
}

/// An added process that tries to start forty children, and says how that went.
const FORTY: &str = "n=0; for i in $(seq 40); do sleep 1000 >/dev/null 2>&1 & n=$((n+1)); done 2>/dev/null; echo $n; kill -9 $(jobs -p)";

fn updated() -> Vec<Row> {
    let limited =
        |limit: i64| after(&[&[Step::Update(json!({"pids": {"limit": limit}}))][..], &add(FORTY)].concat());
    let update = |resources: Value| after(&[Step::Update(resources), Step::State(INIT)]);
    vec![
        row(GROUP, "update: fewer processes than wanted", limited(30)),
        row(GROUP, "update: enough processes", limited(100)),
        row(
            GROUP,
            "update: limit lifted",
            [
                vec![
                    create_with(
                        "echo ready; while read x; do :; done",
                        Wiring::Pipes,
                        [Change("/linux/resources/pids", json!({"limit": 30}))],
                    ),
                    Step::Start(INIT),
                    Step::Expect(INIT, "ready"),
                ],
                add(FORTY),
                vec![Step::Update(json!({"pids": {"limit": 100}}))],
                add(FORTY),
            ]
            .concat(),
        ),
        row(GROUP, "update: memory and shares", update(json!({"memory": {"limit": 268_435_456}, "cpu": {"shares": 512, "quota": 50_000, "period": 100_000}}))).quick(),
        row(GROUP, "update: of nothing", update(json!({}))),
        row(GROUP, "update: an absurd period", update(json!({"cpu": {"quota": 1, "period": 1}}))).naming("invalid argument"),
        row(GROUP, "update: CPUs nobody has", update(json!({"cpu": {"cpus": "4000-4001"}}))).naming("4000")
            .differs("the guest has CPUs of its own; those of the host that it has not are left out"),
        row(GROUP, "update: CPUs that are no list", update(json!({"cpu": {"cpus": "many"}}))).naming("many"),
        row(GROUP, "update: less memory than is used", update(json!({"memory": {"limit": 4096}}))).naming("memory")
            .differs("cgroups of version 2 take any limit, and kill"),
    ]
}

fn counted() -> Vec<Row> {
    vec![
        row(
            GROUP,
            "pids: init, its children, an exec",
            after(&[
                Step::Pids,
                exec("e", "sleep 1000 & sleep 1000 & echo ready; wait"),
                Step::Pids,
                Step::Start("e"),
                Step::Expect("e", "ready"),
                Step::Pids,
            ]),
        )
        .quick(),
        row(GROUP, "stats", after(&[Step::Stats])),
        shared(GROUP, "stats of a container without streams", [Step::Stats]).quick(),
        row(
            GROUP,
            "out of memory",
            [
                create_with(
                    "sh -c 'head -c 100000000 /dev/zero | tail -c 99999999 >/dev/null'; echo code $?; exit 3",
                    Wiring::Pipes,
                    [Change("/linux/resources/memory", json!({"limit": 33_554_432, "swap": 33_554_432}))],
                ),
                Step::Start(INIT),
                Step::Wait(INIT),
                Step::Delete(INIT),
                Step::Events("oom"),
            ],
        ),
    ]
}

//! Every call in every state of a container.

use serde_json::json;

use crate::compare::{
    row::{INIT, Row, Step, create, create_with, exec, row},
    streams::Wiring,
};

const GROUP: &str = "states";

/// A state and the steps that lead to it.
fn states() -> Vec<(&'static str, Vec<Step>)> {
    let idle = || create("trap 'exit 0' TERM; sleep 1000 & echo ready; wait");
    let up = || vec![idle(), Step::Start(INIT), Step::Expect(INIT, "ready")];
    let with = |mut steps: Vec<Step>, more: &[Step]| {
        steps.extend_from_slice(more);
        steps
    };
    let stopped = || with(up(), &[Step::Kill(INIT, 9), Step::Wait(INIT)]);
    vec![
        ("created", vec![idle()]),
        ("running", up()),
        ("paused", with(up(), &[Step::Pause])),
        ("stopped", stopped()),
        ("deleted", with(stopped(), &[Step::Delete(INIT)])),
    ]
}

/// A call, what shows its effect, and in which states it cannot be compared.
fn calls() -> Vec<(&'static str, Vec<Step>)> {
    vec![
        ("state", vec![Step::State(INIT)]),
        ("start", vec![Step::Start(INIT), Step::State(INIT)]),
        ("kill", vec![Step::Kill(INIT, 9)]),
        ("delete", vec![Step::Delete(INIT), Step::State(INIT)]),
        ("exec", vec![exec("e", "exit 3"), Step::State("e")]),
        ("pause", vec![Step::Pause, Step::State(INIT)]),
        ("resume", vec![Step::Resume, Step::State(INIT)]),
        ("pids", vec![Step::Pids]),
        ("stats", vec![Step::Stats]),
        ("update", vec![Step::Update(json!({"pids": {"limit": 100}}))]),
        ("resize", vec![Step::Resize(INIT, 80, 24)]),
        ("closeio", vec![Step::CloseIo(INIT)]),
        ("create again", vec![Step::CreateAgain, Step::State(INIT)]),
    ]
}

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (state, way) in states() {
        for (call, does) in calls() {
            // What is taken away can be created again; that is another scenario.
            if (state, call) == ("deleted", "create again") {
                continue;
            }
            let steps = [way.clone(), does].concat();
            let mut row = row(GROUP, format!("{state}: {call}"), steps);
            if (state, call) == ("stopped", "pids") {
                row = row.differs("containerd, when it starts, throws away what lists no process");
            }
            rows.push(if ["kill", "delete"].contains(&call) && state == "running" {
                row.quick()
            } else {
                row
            });
        }
    }
    rows.push(row(
        GROUP,
        "resize of a terminal that is created",
        [create_with("read x", Wiring::Terminal, []), Step::Resize(INIT, 80, 24), Step::State(INIT)],
    ));
    rows.push(
        row(
            GROUP,
            "checkpoint",
            [create("sleep 1000"), Step::Start(INIT), Step::Checkpoint, Step::State(INIT)],
        )
        .differs("a VM's processes cannot be saved by the host's CRIU"),
    );
    rows.push(row(
        GROUP,
        "nothing was ever created",
        [
            Step::State(INIT),
            Step::Start(INIT),
            Step::Kill(INIT, 9),
            Step::Wait(INIT),
            Step::Delete(INIT),
            exec("e", "true"),
            Step::Pause,
            Step::Resume,
            Step::Pids,
            Step::Stats,
        ],
    ));
    rows
}

//! Events: which, and in which order.

use serde_json::json;

use crate::compare::{
    row::{INIT, Row, Step, add, create, exec, exec_with, row, running, steps},
    spec::Change,
    streams::Wiring,
};

const GROUP: &str = "events";

pub fn rows() -> Vec<Row> {
    let up = || running("trap 'exit 0' TERM; sleep 1000 & wait").to_vec();
    let down =
        || vec![Step::Kill(INIT, 9), Step::Wait(INIT), Step::Delete(INIT), Step::Events("delete init")];
    vec![
        row(GROUP, "of an exec", steps([up(), add("exit 3"), down()])).quick(),
        row(
            GROUP,
            "of an exec that cannot start",
            steps([
                up(),
                vec![exec("e", "true")],
                vec![Step::Delete("e")],
                vec![
                    exec_with("e", "", Wiring::Pipes, [Change("/args", json!(["no-such-program"]))]),
                    Step::Start("e"),
                ],
                down(),
            ]),
        ),
        row(
            GROUP,
            "of several execs one after the other",
            steps([up(), add("exit 1"), add("exit 2"), add("kill -9 $$"), down()]),
        ),
        row(
            GROUP,
            "of pause and resume",
            steps([up(), vec![Step::Pause, Step::Resume, Step::Pause, Step::Resume], down()]),
        ),
        row(
            GROUP,
            "of what was never started",
            [create("true"), Step::Delete(INIT), Step::Events("delete init")],
        ),
        row(
            GROUP,
            "of what was killed before start",
            [
                create("true"),
                Step::Kill(INIT, 9),
                Step::Wait(INIT),
                Step::Delete(INIT),
                Step::Events("delete init"),
            ],
        ),
        row(
            GROUP,
            "of an exec that ends with init",
            steps([
                up(),
                vec![exec("e", "echo ready; exec sleep 1000"), Step::Start("e"), Step::Expect("e", "ready")],
                vec![
                    Step::Kill(INIT, 9),
                    Step::Wait(INIT),
                    Step::Wait("e"),
                    Step::Delete("e"),
                    Step::Delete(INIT),
                    Step::Events("delete init"),
                ],
            ]),
        ),
    ]
}

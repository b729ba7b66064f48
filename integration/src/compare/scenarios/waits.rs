//! Waiting for ends, at every time.

use crate::compare::row::{INIT, Row, Step, create, exec, row, shared};

const GROUP: &str = "wait";

pub fn rows() -> Vec<Row> {
    vec![
        row(
            GROUP,
            "begun before start",
            [create("exit 3"), Step::WaitBegin(INIT), Step::Start(INIT), Step::WaitEnd, Step::Delete(INIT)],
        )
        .quick(),
        row(
            GROUP,
            "after exit, again and again",
            [
                create("exit 3"),
                Step::Start(INIT),
                Step::Wait(INIT),
                Step::Wait(INIT),
                Step::Wait(INIT),
                Step::Delete(INIT),
                Step::Wait(INIT),
            ],
        ),
        row(
            GROUP,
            "several at once",
            [
                create("read x; exit 3"),
                Step::WaitBegin(INIT),
                Step::WaitBegin(INIT),
                Step::Start(INIT),
                Step::WaitBegin(INIT),
                Step::Write(INIT, b"\n".to_vec()),
                Step::WaitEnd,
                Step::Delete(INIT),
            ],
        ),
        row(
            GROUP,
            "for a container that is killed before start",
            [create("exit 3"), Step::WaitBegin(INIT), Step::Kill(INIT, 9), Step::WaitEnd, Step::Delete(INIT)],
        ),
        row(
            GROUP,
            "for a container that is deleted before start",
            [create("exit 3"), Step::Delete(INIT), Step::Wait(INIT)],
        ),
        shared(
            GROUP,
            "for an exec, begun before start",
            [exec("e", "exit 4"), Step::WaitBegin("e"), Step::Start("e"), Step::WaitEnd, Step::Delete("e")],
        ),
        shared(
            GROUP,
            "for an exec, after exit and after delete",
            [
                exec("e", "exit 4"),
                Step::Start("e"),
                Step::Wait("e"),
                Step::Wait("e"),
                Step::Delete("e"),
                Step::Wait("e"),
            ],
        )
        .quick(),
        shared(GROUP, "for an exec that never was", [Step::Wait("nobody")]),
    ]
}

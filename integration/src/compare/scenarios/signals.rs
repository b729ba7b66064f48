//! Signals by number, to init and to added processes, handled, ignored and by default, and at odd times.

use crate::compare::row::{INIT, Row, Step, add, create, exec, life, row, run, shared};

const GROUP: &str = "signals";

/// The first real-time signal that a C library leaves to programs.
const RTMIN: u32 = 34;
const KILL: u32 = 9;
const TERM: u32 = 15;
const CONT: u32 = 18;
const STOP: u32 = 19;

/// What is not ended by default: ignored or stopped.
const SURVIVED: [u32; 8] = [17, 18, 19, 20, 21, 22, 23, 28];

fn numbers() -> impl Iterator<Item = u32> {
    (1..=31).chain([RTMIN])
}

pub fn rows() -> Vec<Row> {
    let mut rows = vec![init_by_default(), init_with_handlers()];
    rows.extend(numbers().map(exec_by_default));
    rows.extend(numbers().filter(|number| ![KILL, STOP].contains(number)).map(exec_with_handler));
    rows.extend(init_rows());
    rows.extend(exec_rows());
    rows
}

/// The kernel keeps signals from an init that has no handler for them.
fn init_by_default() -> Row {
    let mut steps =
        vec![create("echo ready; exec sleep 1000"), Step::Start(INIT), Step::Expect(INIT, "ready")];
    let ignored = numbers().filter(|number| ![KILL, STOP].contains(number));
    steps.extend(ignored.map(|number| Step::Kill(INIT, number)));
    steps.extend([Step::State(INIT), Step::Kill(INIT, KILL), Step::Wait(INIT), Step::Delete(INIT)]);
    row(GROUP, "init ignores all it does not handle", steps)
}

fn init_with_handlers() -> Row {
    let script = "for s in 1 2 3 4 5 6 7 8 10 11 12 13 14 15 16 17 18 20 21 22 23 24 25 26 27 28 29 30 31 34; \
                  do trap \"echo got $s.\" $s; done; echo ready; while :; do sleep 1000 & wait $!; done";
    let mut steps = vec![create(script), Step::Start(INIT), Step::Expect(INIT, "ready")];
    for number in numbers().filter(|number| ![KILL, STOP].contains(number)) {
        // Waits for words need not be told apart by the row: the number stands in them.
        let words: &'static str = GOT[number as usize - 1];
        steps.extend([Step::Kill(INIT, number), Step::Expect(INIT, words)]);
    }
    steps.extend([Step::Kill(INIT, KILL), Step::Wait(INIT), Step::Delete(INIT)]);
    row(GROUP, "init handles each", steps).quick()
}

const GOT: [&str; 34] = [
    "got 1.", "got 2.", "got 3.", "got 4.", "got 5.", "got 6.", "got 7.", "got 8.", "got 9.", "got 10.",
    "got 11.", "got 12.", "got 13.", "got 14.", "got 15.", "got 16.", "got 17.", "got 18.", "got 19.",
    "got 20.", "got 21.", "got 22.", "got 23.", "got 24.", "got 25.", "got 26.", "got 27.", "got 28.",
    "got 29.", "got 30.", "got 31.", "got 32.", "got 33.", "got 34.",
];

fn exec_by_default(number: u32) -> Row {
    // Not the shell says that it is ready, for it ignores QUIT until the other program takes its place.
    let mut steps = vec![
        exec("e", "exec cat"),
        Step::Start("e"),
        Step::Write("e", b"ready\n".to_vec()),
        Step::Expect("e", "ready"),
        Step::Kill("e", number),
    ];
    if SURVIVED.contains(&number) {
        steps.extend([Step::State("e"), Step::Kill("e", KILL)]);
    }
    steps.extend([Step::Wait("e"), Step::Output("e"), Step::Delete("e")]);
    let row = shared(GROUP, format!("{number} to an exec by default"), steps);
    if number == TERM { row.quick() } else { row }
}

fn exec_with_handler(number: u32) -> Row {
    let script = format!("trap 'echo got {number}; exit 5' {number}; echo ready; while :; do :; done");
    // Rows are made once per process, and live as long as it.
    let script: &'static str = script.leak();
    let steps = [
        exec("e", script),
        Step::Start("e"),
        Step::Expect("e", "ready"),
        Step::Kill("e", number),
        Step::Wait("e"),
        Step::Output("e"),
        Step::Delete("e"),
    ];
    shared(GROUP, format!("{number} to an exec with a handler"), steps)
}

fn init_rows() -> Vec<Row> {
    let sleeper = "echo ready; exec sleep 1000";
    let up = |script| [create(script), Step::Start(INIT), Step::Expect(INIT, "ready")];
    let with = |script, more: &[Step]| [&up(script)[..], more].concat();
    vec![
        row(
            GROUP,
            "KILL ends init",
            with(
                sleeper,
                &[
                    Step::Kill(INIT, KILL),
                    Step::Wait(INIT),
                    Step::State(INIT),
                    Step::Output(INIT),
                    Step::Delete(INIT),
                    Step::Events("delete init"),
                ],
            ),
        )
        .quick(),
        row(
            GROUP,
            "TERM waits for CONT in a stopped init",
            with(
                "trap 'kill -9 $!; exit 5' TERM; sleep 1000 & echo ready; wait",
                &[
                    Step::Kill(INIT, STOP),
                    Step::Kill(INIT, TERM),
                    Step::State(INIT),
                    Step::Kill(INIT, CONT),
                    Step::Wait(INIT),
                    Step::Delete(INIT),
                ],
            ),
        ),
        row(
            GROUP,
            "KILL ends a stopped init",
            with(sleeper, &[Step::Kill(INIT, STOP), Step::Kill(INIT, KILL), Step::Wait(INIT), Step::Delete(INIT)]),
        ),
        row(
            GROUP,
            "TERM alone does not reach init's children",
            with(
                // A wait that a handler ends is begun again; the child is still there.
                "trap : TERM; sleep 1000 & c=$!; echo ready; wait $c; kill -0 $c && echo child lives; exit 6",
                &[Step::Kill(INIT, TERM), Step::Wait(INIT), Step::Output(INIT), Step::Delete(INIT)],
            ),
        ),
        row(
            GROUP,
            "TERM to all reaches init's children",
            with(
                // The child says when it is a program of its own, without the trap.
                "exec 2>/dev/null; trap : TERM; sh -c 'echo ready; exec sleep 1000' & c=$!; wait $c; wait $c; echo child $?; exit 6",
                &[Step::KillAll(TERM), Step::Wait(INIT), Step::Output(INIT), Step::Delete(INIT)],
            ),
        )
        .quick(),
        row(
            GROUP,
            "KILL to all reaches an exec",
            with(
                sleeper,
                &[
                    exec("e", "echo ready; exec sleep 1000"),
                    Step::Start("e"),
                    Step::Expect("e", "ready"),
                    Step::KillAll(KILL),
                    Step::Wait("e"),
                    Step::Wait(INIT),
                    Step::Delete("e"),
                    Step::Delete(INIT),
                ],
            ),
        ),
        row(
            GROUP,
            "0 to init",
            with(sleeper, &[Step::Kill(INIT, 0), Step::State(INIT), Step::Kill(INIT, KILL), Step::Wait(INIT)]),
        ),
        row(
            GROUP,
            "init ignores TERM, then is killed",
            with(
                "trap '' TERM; sleep 1000 & echo ready; wait",
                &[Step::Kill(INIT, TERM), Step::State(INIT), Step::Kill(INIT, KILL), Step::Wait(INIT), Step::Delete(INIT)],
            ),
        ),
        row(
            GROUP,
            "KILL before start",
            [create(sleeper), Step::Kill(INIT, KILL), Step::Until(INIT, "stopped"), Step::Wait(INIT), Step::Delete(INIT)],
        ),
        row(
            GROUP,
            "TERM before start",
            [create(sleeper), Step::Kill(INIT, TERM), Step::State(INIT), Step::Start(INIT), Step::Expect(INIT, "ready")],
        )
        .differs("what waits there is a process of runc's own, which TERM ends; ours takes no signal but KILL before it is the container's"),
        row(
            GROUP,
            "after exit",
            [
                create("exit 3"),
                Step::Start(INIT),
                Step::Wait(INIT),
                Step::Kill(INIT, KILL),
                Step::Kill(INIT, TERM),
                Step::KillAll(KILL),
                Step::Delete(INIT),
                Step::Kill(INIT, KILL),
            ],
        )
        .quick(),
        row(
            GROUP,
            "of numbers that are none",
            with(sleeper, &[Step::Kill(INIT, 65), Step::Kill(INIT, 1000), Step::Kill(INIT, u32::MAX), Step::State(INIT)]),
        )
        .naming(""),
    ]
}

fn exec_rows() -> Vec<Row> {
    let masks = "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status";
    vec![
        row(GROUP, "none is blocked or ignored in init", run(masks)),
        shared(GROUP, "none is blocked or ignored in an exec", add(masks)),
        shared(
            GROUP,
            "twice to an exec",
            life(
                exec(
                    "e",
                    "trap 'echo got; n=$((n+1)); [ $n = 2 ] && exit 7' TERM; echo ready; while :; do :; done",
                ),
                [
                    Step::Expect("e", "ready"),
                    Step::Kill("e", TERM),
                    Step::Expect("e", "got"),
                    Step::Kill("e", TERM),
                ],
            ),
        ),
        shared(
            GROUP,
            "to an exec before its start",
            [
                exec("e", "exit 3"),
                Step::Kill("e", TERM),
                Step::Start("e"),
                Step::Wait("e"),
                Step::Delete("e"),
            ],
        ),
        shared(
            GROUP,
            "KILL to an exec before its start",
            [exec("e", "exit 3"), Step::Kill("e", KILL), Step::State("e"), Step::Delete("e")],
        ),
        shared(
            GROUP,
            "to an exec after its exit",
            [
                exec("e", "exit 3"),
                Step::Start("e"),
                Step::Wait("e"),
                Step::Kill("e", KILL),
                Step::Kill("e", 0),
                Step::Delete("e"),
                Step::Kill("e", KILL),
            ],
        ),
        shared(GROUP, "to an exec that never was", [Step::Kill("nobody", KILL)]).quick(),
        shared(
            GROUP,
            "65 to an exec",
            [
                exec("e", "echo ready; exec sleep 1000"),
                Step::Start("e"),
                Step::Expect("e", "ready"),
                Step::Kill("e", 65),
                Step::Kill("e", KILL),
                Step::Wait("e"),
                Step::Delete("e"),
            ],
        )
        .naming(""),
    ]
}

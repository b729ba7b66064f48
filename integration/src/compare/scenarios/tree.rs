//! Children: whose they become, who reaps them, and what is left of them.

use crate::compare::row::{INIT, Row, Step, add, create, exec, life, row, run, running, shared, steps};

const GROUP: &str = "tree";

pub fn rows() -> Vec<Row> {
    vec![
        row(
            GROUP,
            "an orphan becomes init's",
            run("mkfifo /a /b; sh -c '(read x </a; read l </proc/self/stat; set -- $l; echo $4 >/b) &'; \
                 echo go >/a; read p </b; echo parent $p"),
        )
        .quick(),
        row(
            GROUP,
            "an exec's orphan becomes init's",
            life(
                create("mkfifo /a /b; echo ready; read p </b; echo parent $p; exit 3"),
                [
                    Step::Expect(INIT, "ready"),
                    exec(
                        "e",
                        "(read x </a; read l </proc/self/stat; set -- $l; echo $4 >/b) >/dev/null 2>&1 & exit 4",
                    ),
                    Step::Start("e"),
                    Step::Wait("e"),
                    Step::Output("e"),
                    Step::Delete("e"),
                    exec("f", "echo go >/a"),
                    Step::Start("f"),
                    Step::Wait("f"),
                ],
            ),
        ),
        row(
            GROUP,
            "what init does not reap stays a zombie",
            [
                create("sh -c 'sleep 0.01 & exec sleep 1000' & echo ready; exec sleep 1000"),
                Step::Start(INIT),
                Step::Expect(INIT, "ready"),
                exec(
                    "e",
                    "n=0; until ps -o stat | grep -q Z || [ $n = 200 ]; do usleep 20000; n=$((n+1)); done; ps -o stat | grep -c Z",
                ),
                Step::Start("e"),
                Step::Wait("e"),
                Step::Output("e"),
            ],
        ),
        row(
            GROUP,
            "init reaps orphans if it waits",
            run(
                "for i in 1 2 3 4 5; do sh -c 'sh -c \"exit 0\" & exit 0'; done; sleep 0.2; wait; ps -o stat | grep -c Z",
            ),
        ),
        row(
            GROUP,
            "children end with init",
            life(
                create(
                    "trap '' TERM HUP; sleep 1000 & sh -c 'sleep 1000 & sleep 1000' & echo ready; read x; exit 3",
                ),
                [Step::Expect(INIT, "ready"), Step::Write(INIT, b"\n".to_vec())],
            ),
        ),
        row(
            GROUP,
            "an exec outlives its own children",
            steps([
                running("echo ready; read x").to_vec(),
                vec![Step::Expect(INIT, "ready")],
                add("sleep 0.1 & exit 3"),
            ]),
        ),
        shared(GROUP, "a deep tree", add("f() { [ $1 = 0 ] && exit 7; (f $(($1-1))); exit $?; }; f 15")),
        shared(
            GROUP,
            "many children",
            add("i=0; while [ $i -lt 50 ]; do (exit 3) & i=$((i+1)); done; wait; echo $i; exit 5"),
        ),
    ]
}

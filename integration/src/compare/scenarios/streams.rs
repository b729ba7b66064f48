//! What goes in and comes out, byte for byte, whoever is slow, early or gone.

use crate::compare::{
    row::{
        INIT, Row, Step, add, create, create_with, exec, exec_with, life, row, run, shared, steps, to_the_end,
    },
    streams::Wiring,
};

const GROUP: &str = "streams";

pub fn rows() -> Vec<Row> {
    [of_inits(), of_execs()].into_iter().flatten().collect()
}

/// A mebibyte in which every place differs from its neighbours.
fn mebibyte() -> Vec<u8> {
    (0..1_u32 << 20).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect()
}

fn of_inits() -> Vec<Row> {
    vec![
        row(GROUP, "outputs apart", run("echo one; echo two >&2; echo three; echo four >&2")).quick(),
        row(
            GROUP,
            "a mebibyte through cat",
            life(create("cat"), [Step::Write(INIT, mebibyte()), Step::EndInput(INIT), Step::CloseIo(INIT)]),
        )
        .quick(),
        row(
            GROUP,
            "input that ends before start",
            steps([
                vec![
                    create("cat; echo end"),
                    Step::Write(INIT, b"early\n".to_vec()),
                    Step::EndInput(INIT),
                    Step::CloseIo(INIT),
                ],
                to_the_end(INIT).to_vec(),
            ]),
        ),
        row(GROUP, "empty input", life(create("wc -c"), [Step::EndInput(INIT), Step::CloseIo(INIT)])),
        row(
            GROUP,
            "input ended by CloseIO",
            life(
                create("cat; echo end"),
                [
                    Step::Write(INIT, b"some\n".to_vec()),
                    Step::Expect(INIT, "some"),
                    Step::EndInput(INIT),
                    Step::CloseIo(INIT),
                ],
            ),
        )
        .quick(),
        row(
            GROUP,
            "a second client of the input",
            life(
                create("while read x; do echo \"<$x>\"; done; echo end"),
                [
                    Step::Write(INIT, b"one\n".to_vec()),
                    Step::Expect(INIT, "<one>"),
                    Step::EndInput(INIT),
                    Step::BeginInput(INIT),
                    Step::Write(INIT, b"two\n".to_vec()),
                    Step::Expect(INIT, "<two>"),
                    Step::EndInput(INIT),
                    Step::CloseIo(INIT),
                ],
            ),
        ),
        row(GROUP, "exit right after a mebibyte", run("head -c 1048576 /dev/zero | tr '\\0' x; exit 3")),
        row(
            GROUP,
            "no streams at all",
            steps([
                vec![create_with("echo lost; cat; exit 3", Wiring::Nothing, [])],
                vec![Step::Start(INIT), Step::Wait(INIT), Step::Delete(INIT)],
            ]),
        ),
        row(
            GROUP,
            "no input, yet a reader of it",
            life(create_with("cat; echo end $?", Wiring::OutputOnly, []), []),
        ),
        row(GROUP, "an end with children that hold the outputs", run("sleep 1000 & echo out; exit 3")),
    ]
}

fn of_execs() -> Vec<Row> {
    let held = |script| exec_with("e", script, Wiring::Held, []);
    vec![
        shared(GROUP, "large errors", add("head -c 1048576 /dev/zero | tr '\\0' x >&2; echo out")),
        shared(
            GROUP,
            "all bytes in and out",
            life(
                exec("e", "cat"),
                [Step::Write("e", (0..=255).collect()), Step::EndInput("e"), Step::CloseIo("e")],
            ),
        )
        .quick(),
        shared(
            GROUP,
            "a reader that is slow",
            life(
                held("head -c 1048576 /dev/zero | tr '\\0' y; echo all >&2"),
                [Step::State("e"), Step::Release("e")],
            ),
        ),
        shared(
            GROUP,
            "a reader that begins after the exit",
            life(
                held("echo small; echo errors >&2; exit 3"),
                [Step::Until("e", "stopped"), Step::Release("e")],
            ),
        ),
        shared(
            GROUP,
            "a reader that goes",
            [
                exec("e", "echo ready; read x; echo more; echo more >&2; exit 3"),
                Step::Start("e"),
                Step::Expect("e", "ready"),
                Step::Leave("e"),
                Step::Write("e", b"\n".to_vec()),
                Step::Wait("e"),
                Step::Delete("e"),
            ],
        ),
        shared(
            GROUP,
            "input that nobody reads",
            [
                exec("e", "echo ready; exec sleep 1000"),
                Step::Start("e"),
                Step::Write("e", vec![b'x'; 300]),
                Step::Expect("e", "ready"),
                Step::Kill("e", 9),
                Step::Wait("e"),
                Step::EndInput("e"),
                Step::CloseIo("e"),
                Step::Output("e"),
                Step::Delete("e"),
            ],
        ),
        shared(
            GROUP,
            "input in turns",
            life(
                exec("e", "while read x; do echo \"<$x>\"; done; echo end"),
                [
                    Step::Write("e", b"one\n".to_vec()),
                    Step::Expect("e", "<one>"),
                    Step::Write("e", b"two\n".to_vec()),
                    Step::Expect("e", "<two>"),
                    Step::EndInput("e"),
                    Step::CloseIo("e"),
                ],
            ),
        ),
        shared(
            GROUP,
            "a process that closes its outputs and lives on",
            life(
                exec("e", "echo bye; exec >&- 2>&-; read x; exit 3"),
                [Step::Expect("e", "bye"), Step::State("e"), Step::Write("e", b"\n".to_vec())],
            ),
        ),
        shared(
            GROUP,
            "no streams at all for an exec",
            [
                exec_with("e", "echo lost; cat; exit 3", Wiring::Nothing, []),
                Step::Start("e"),
                Step::Wait("e"),
                Step::Delete("e"),
            ],
        ),
        shared(
            GROUP,
            "what an exec's child says after its exit",
            [
                exec(
                    "e",
                    "rm -f /tmp/say; mkfifo /tmp/say; (read x </tmp/say; echo later; echo later still) & echo first; exit 3",
                ),
                Step::Start("e"),
                Step::Expect("e", "first"),
                Step::Wait("e"),
                exec("f", "echo go >/tmp/say"),
                Step::Start("f"),
                Step::Wait("f"),
                Step::Expect("e", "later still"),
                Step::Output("e"),
                Step::Delete("e"),
            ],
        ),
        shared(GROUP, "lines longer than a page", add("head -c 20000 /dev/zero | tr '\\0' z; echo")),
        shared(
            GROUP,
            "CloseIO of an exec",
            [
                exec("e", "cat; echo end"),
                Step::Start("e"),
                Step::EndInput("e"),
                Step::CloseIo("e"),
                Step::Wait("e"),
                Step::Output("e"),
                Step::CloseIo("e"),
                Step::Delete("e"),
                Step::CloseIo("e"),
            ],
        ),
        shared(GROUP, "CloseIO of an exec that never was", [Step::CloseIo("nobody")]),
    ]
}

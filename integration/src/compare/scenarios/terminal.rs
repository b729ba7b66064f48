//! Terminals: what is behind them, what keys do, and how they end.

use crate::compare::{
    row::{INIT, Row, Step, add, create_with, exec, exec_with, life, row, shared, steps, to_the_end},
    streams::Wiring,
};

const GROUP: &str = "terminal";

pub fn rows() -> Vec<Row> {
    [of_inits(), of_execs()].into_iter().flatten().collect()
}

fn tty(script: &'static str) -> Step {
    create_with(script, Wiring::Terminal, [])
}

fn exec_tty(script: &'static str) -> Step {
    exec_with("e", script, Wiring::Terminal, [])
}

fn key(who: &'static str, bytes: &[u8]) -> Step {
    Step::Write(who, bytes.to_vec())
}

fn of_inits() -> Vec<Row> {
    let whole = |script| life(tty(script), []);
    vec![
        row(
            GROUP,
            "of init: isatty, name, size, settings",
            whole("test -t 0 && test -t 1 && test -t 2 && echo tty; tty; stty size; stty -a"),
        )
        .quick(),
        row(
            GROUP,
            "of init: devices",
            whole("ls -l /dev/console /dev/pts /dev/tty /dev/ptmx | awk '{print $1, $3, $4, $5, $6, $NF}'"),
        ),
        row(
            GROUP,
            "resize",
            [
                tty(
                    "trap 'echo changed; stty size' WINCH; echo ready; until read x; do :; done; stty size; until read x; do :; done; stty size",
                ),
                Step::Start(INIT),
                Step::Expect(INIT, "ready"),
                Step::Resize(INIT, 80, 24),
                Step::Expect(INIT, "changed"),
                key(INIT, b"\n"),
                Step::Expect(INIT, "24 80"),
                Step::Resize(INIT, 133, 51),
                key(INIT, b"\n"),
                Step::Wait(INIT),
                Step::Resize(INIT, 80, 24),
                Step::Delete(INIT),
            ],
        ),
        row(
            GROUP,
            "resize before start",
            steps([vec![tty("stty size"), Step::Resize(INIT, 81, 25)], to_the_end(INIT).to_vec()]),
        ),
        row(
            GROUP,
            "ctrl-C",
            [
                tty("trap 'echo int; exit 3' INT; echo ready; while :; do sleep 0.05; done"),
                Step::Start(INIT),
                Step::Expect(INIT, "ready"),
                key(INIT, b"\x03"),
                Step::Wait(INIT),
                Step::Delete(INIT),
            ],
        )
        .quick(),
        row(
            GROUP,
            "ctrl-D, and the echo of what is typed",
            life(
                tty("echo ready; cat; echo end"),
                [
                    Step::Expect(INIT, "ready"),
                    key(INIT, b"typed\n"),
                    Step::Expect(INIT, "typed\r\ntyped"),
                    key(INIT, b"\x04"),
                ],
            ),
        ),
        row(
            GROUP,
            "ctrl-Z, jobs, fg",
            life(
                tty(
                    "set -m; sh -c 'trap \"echo int; exit 7\" INT; trap \"echo cont\" CONT; echo ready; while :; do sleep 0.1; done'; \
                     echo code $?; jobs | tr -s ' ' | cut -c1-12; fg >/dev/null; echo then $?",
                ),
                [
                    Step::Expect(INIT, "ready"),
                    key(INIT, b"\x1a"),
                    Step::Expect(INIT, "code 148"),
                    Step::Expect(INIT, "cont"),
                    key(INIT, b"\x03"),
                ],
            ),
        ),
        row(
            GROUP,
            "a shell that is typed at",
            [
                create_with("PS1='$ ' exec sh -i", Wiring::Terminal, []),
                Step::Start(INIT),
                Step::Expect(INIT, "$ "),
                key(INIT, b"echo $((6*7))\n"),
                Step::Expect(INIT, "42"),
                key(INIT, b"sh -c 'exit 9'; echo code $?\n"),
                Step::Expect(INIT, "code 9"),
                key(INIT, b"exit 4\n"),
                Step::Wait(INIT),
                Step::Delete(INIT),
            ],
        ),
        row(
            GROUP,
            "without input",
            life(create_with("tty; echo out; echo err >&2; exit 3", Wiring::TerminalWithoutInput, []), []),
        ),
        row(GROUP, "a mebibyte of output", whole("head -c 1048576 /dev/zero | tr '\\0' x; exit 3")),
    ]
}

fn of_execs() -> Vec<Row> {
    let whole = |script| life(exec_tty(script), []);
    vec![
        shared(
            GROUP,
            "of an exec: isatty, name, settings",
            whole("test -t 0 && test -t 1 && test -t 2 && echo tty; tty; stty -a"),
        )
        .quick(),
        // What is written just before the last of it closes is easily lost: once in a hundred and fifty times, it was.
        shared(GROUP, "of an exec: a hundred ends", steps((0..100).map(|_| whole("stty -a")))),
        shared(
            GROUP,
            "none for an exec without",
            add("test -t 0 || test -t 1 || echo none; tty; cat /dev/tty"),
        ),
        shared(
            GROUP,
            "resize of an exec",
            [
                exec_tty("trap 'echo changed' WINCH; echo ready; until read x; do :; done; stty size"),
                Step::Start("e"),
                Step::Expect("e", "ready"),
                Step::Resize("e", 90, 33),
                Step::Expect("e", "changed"),
                key("e", b"\n"),
                Step::Wait("e"),
                Step::Output("e"),
                Step::Delete("e"),
                Step::Resize("e", 90, 33),
            ],
        ),
        shared(
            GROUP,
            "resize of an exec without a terminal",
            [
                exec("e", "read x"),
                Step::Start("e"),
                Step::Resize("e", 90, 33),
                key("e", b"\n"),
                Step::Wait("e"),
                Step::Delete("e"),
            ],
        ),
        shared(GROUP, "resize of an exec that never was", [Step::Resize("nobody", 90, 33)]),
        shared(
            GROUP,
            "ctrl-C ends what runs in front",
            life(
                exec_tty(
                    "trap 'echo shell' INT; sh -c 'trap - INT; echo ready; exec sleep 1000'; echo code $?",
                ),
                [Step::Expect("e", "ready"), key("e", b"\x03")],
            ),
        ),
        shared(
            GROUP,
            "ctrl-\\ ends an exec",
            life(
                // The shell ignores the signal until cat takes its place.
                exec_tty("exec cat"),
                [key("e", b"ready\n"), Step::Expect("e", "ready\r\nready"), key("e", b"\x1c")],
            ),
        ),
        shared(
            GROUP,
            "hang-up reaches who is left when an exec's leader exits",
            steps([
                whole(
                    "exec 2>/dev/null; rm -f /tmp/up /tmp/hup; mkfifo /tmp/up; \
                         (trap 'echo hung up >/tmp/hup; exit' HUP; echo >/tmp/up; while :; do sleep 0.1; done) & read x </tmp/up",
                ),
                life(
                    exec(
                        "f",
                        "n=0; until [ -s /tmp/hup ] || [ $n = 100 ]; do usleep 50000; n=$((n+1)); done; cat /tmp/hup",
                    ),
                    [],
                ),
            ]),
        ),
        shared(
            GROUP,
            "raw bytes pass",
            life(
                exec_tty("stty raw -echo; echo ready; head -c 256 | od -An -tx1 | md5sum"),
                [Step::Expect("e", "ready"), key("e", &(0..=255).collect::<Vec<u8>>())],
            ),
        ),
    ]
}

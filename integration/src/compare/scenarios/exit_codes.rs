//! With what a process ends, as wait, the outputs, delete and the events tell it.

use crate::compare::row::{INIT, Row, Step, add, create, exec, life, row, run, shared, steps};

const GROUP: &str = "exit";

pub fn rows() -> Vec<Row> {
    let told = |script| steps([run(script), vec![Step::Events("delete init")]]);
    vec![
        row(GROUP, "0", told("exit 0")).quick(),
        row(GROUP, "1", told("echo out; echo err >&2; exit 1")),
        row(GROUP, "255", told("exit 255")),
        shared(GROUP, "exec 0", add("true")).quick(),
        shared(GROUP, "exec 1", add("exit 1")),
        shared(GROUP, "exec 2", add("exit 2")),
        shared(GROUP, "exec 126: not executable, says the shell", add("/etc/passwd")),
        shared(GROUP, "exec 127: missing, says the shell", add("no-such-program")),
        shared(GROUP, "exec 128", add("exit 128")),
        shared(GROUP, "exec 255", add("exit 255")),
        shared(GROUP, "exec 256 is 0", add("exit 256")),
        shared(GROUP, "exec ended by TERM", add("kill -TERM $$")),
        shared(GROUP, "exec ended by KILL", add("kill -KILL $$")).quick(),
        shared(GROUP, "exec ended by SEGV", add("kill -SEGV $$")),
        row(GROUP, "init cannot kill itself", run("kill -KILL $$; exit 9")),
        row(
            GROUP,
            "init ended by an exec",
            life(
                create("trap 'exit 4' TERM; echo ready; sleep 1000 & wait"),
                [Step::Expect(INIT, "ready"), exec("e", "kill -TERM 1"), Step::Start("e")],
            ),
        ),
    ]
}

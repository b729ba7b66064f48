//! A minute without containerd: it is killed while containers speak and listen, and started again. What they said, heard
//! and came to must be what it would have been with it.

use std::{
    thread,
    time::{Duration, Instant},
};

use integration::{
    compare::{Driver, INIT, Kind, Session, Step, create, exec},
    environment::Environment,
    event_recorder::EventRecorder,
};
use tokio::runtime::Runtime;

/// Longer than containerd's clients and shims keep trying of themselves.
const OUTAGE: Duration = Duration::from_secs(62);
/// Counts on its output, says again what it hears, and ends after the last word.
const COUNTS_AND_LISTENS: &str = "exec 3<&0; \
    (while read x; do echo \"<$x>\"; [ \"$x\" = end ] && : >/tmp/end; done) <&3 & \
    i=0; until [ -e /tmp/end ]; do i=$((i+1)); echo $i; sleep 0.02; done; wait $!; exit 7";

fn before() -> Vec<Step> {
    vec![
        create(COUNTS_AND_LISTENS),
        Step::Start(INIT),
        exec("ends", "echo ready; sleep 20; echo later; exit 3"),
        Step::Start("ends"),
        exec("stays", "echo ready; read x; echo \"<$x>\"; exit 4"),
        Step::Start("stays"),
        Step::Expect("ends", "ready"),
        Step::Expect("stays", "ready"),
        Step::Write(INIT, b"early\n".to_vec()),
        Step::Expect(INIT, "<early>"),
    ]
}

fn after() -> Vec<Step> {
    vec![
        Step::Until(INIT, "running"),
        Step::State("ends"),
        Step::State("stays"),
        Step::WaitBegin(INIT),
        Step::Write(INIT, b"late\n".to_vec()),
        Step::Expect(INIT, "<late>"),
        Step::Write("stays", b"late too\n".to_vec()),
        Step::Wait("stays"),
        Step::Output("stays"),
        Step::Wait("ends"),
        Step::Output("ends"),
        Step::Delete("ends"),
        Step::Delete("stays"),
        Step::Write(INIT, b"end\n".to_vec()),
        Step::EndInput(INIT),
        Step::CloseIo(INIT),
        Step::WaitEnd,
        Step::State(INIT),
    ]
}

/// What both must write down; its first half is written before the outage.
const OUTCOME: &str = "create: ok
start init: ok
exec ends: ok
start ends: ok
exec stays: ok
start stays: ok
state init: running
state ends: stopped 3
state stays: running
wait stays: 4
stays stdout \"ready\\n<late too>\\n\"
wait ends: 3
ends stdout \"ready\\nlater\\n\"
delete ends: 3
delete stays: 4
closeio init: ok
begun wait init: 7
state init: stopped 7
delete init: 7";

/// Whether lines count up from one, among what was said again; and how far.
fn counted(driver: &Driver) -> usize {
    let text = String::from_utf8(driver.brought(INIT)).expect("text");
    let (numbers, words): (Vec<_>, Vec<_>) = text.split_inclusive('\n').partition(|l| !l.starts_with('<'));
    for (place, line) in numbers.iter().enumerate() {
        let last_and_unfinished = place + 1 == numbers.len() && !line.ends_with('\n');
        let expected = format!("{}\n", place + 1);
        assert!(last_and_unfinished || *line == expected, "{}: line {expected:?} is {line:?}", driver.id());
    }
    assert!(["<early>\n", "<late>\n", "<end>\n"].starts_with(&words), "{}: {words:?}", driver.id());
    numbers.len()
}

#[test]
fn a_minute_without_containerd_loses_nothing_and_repeats_nothing() {
    let Some(env) = Environment::find() else { return };
    let executor = Runtime::new().expect("an executor");
    let mut session = executor.block_on(Session::begin(&env));
    let socket = session.containerd().dir().join("c.sock.ttrpc");
    let mut events = EventRecorder::intercept(&socket);
    let mut drivers = [Kind::Runc, Kind::Ours].map(|kind| session.driver(kind, "outage"));
    for driver in &mut drivers {
        executor.block_on(driver.drive(&before()));
    }

    events.close();
    session.containerd().kill();
    let killed = Instant::now();
    let counts = drivers.each_ref().map(counted);
    thread::sleep(OUTAGE);
    for (driver, before) in drivers.iter().zip(counts) {
        let count = counted(driver);
        assert!(count > before + 200, "{}: from {before} to {count} in {:?}", driver.id(), killed.elapsed());
    }
    let moved = session.containerd().dir().join("again.ttrpc");
    session.containerd().start_again(&format!("[ttrpc]\naddress = \"{}\"\n", moved.display()));
    events.serve(&moved);

    for driver in &mut drivers {
        executor.block_on(driver.drive(&after()));
        let count = counted(driver);
        executor.block_on(driver.drive(&[Step::Delete(INIT)]));
        assert_eq!(
            driver.outcome(),
            OUTCOME,
            "{} after {count} lines\n{}",
            driver.id(),
            session.containerd().log()
        );
        let text = String::from_utf8(driver.brought(INIT)).expect("text");
        assert!(text.contains("<end>\n") && text.ends_with('\n'), "{}: {text:?}", driver.id());
    }
    // runc's shim gives up on events after fifteen seconds.
    let ours = &drivers[1];
    assert_eq!(
        events.topics(ours.id()),
        [
            "create",
            "start",
            "exec-added ends",
            "exec-started ends",
            "exec-added stays",
            "exec-started stays",
            "exit ends 3",
            "exit stays 4",
            "exit init 7",
            "delete",
        ]
    );
    for driver in &mut drivers {
        executor.block_on(driver.clear());
    }
    let id = drivers[1].id().to_owned();
    session.containerd().assert_gone(&id);
}

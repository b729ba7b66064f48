//! Containers that were begun under one release of containerd and go on under another.

use integration::{
    compare::{Driver, INIT, Kind, Session, Step, create, exec},
    environment::Environment,
    event_recorder::EventRecorder,
};
use tokio::runtime::Runtime;

use super::programs;

/// Says again what it hears, and ends after the last word.
const LISTENS: &str = "while read x; do echo \"<$x>\"; [ \"$x\" = end ] && exit 7; done";

/// A container, and what is done to it.
struct Case {
    name: &'static str,
    before: Vec<Step>,
    /// While there is no containerd, for the first time.
    without: Vec<Step>,
    /// Under each release.
    under: Vec<Step>,
    after: Vec<Step>,
    /// What is written down; `{under}` stands for what each release adds.
    outcome: &'static str,
    under_outcome: &'static str,
    events: &'static [&'static str],
    /// Why runc's differs.
    differs: Option<&'static str>,
}

fn cases() -> Vec<Case> {
    let thrown_away = Some("containerd from 1.7 on throws away what lists no process");
    vec![
        Case {
            name: "created",
            before: vec![create("echo made; exit 5")],
            without: vec![],
            under: vec![Step::State(INIT)],
            after: vec![Step::Start(INIT), Step::Wait(INIT), Step::Output(INIT)],
            outcome: "create: ok\n{under}start init: ok\nwait init: 5\ninit stdout \"made\\n\"\ndelete init: 5",
            under_outcome: "state init: created\n",
            events: &["create", "start", "exit init 5", "delete"],
            differs: None,
        },
        Case {
            name: "running",
            before: vec![
                create(LISTENS),
                Step::Start(INIT),
                Step::Write(INIT, b"early\n".to_vec()),
                Step::Expect(INIT, "<early>"),
            ],
            without: vec![Step::Write(INIT, b"without\n".to_vec()), Step::Expect(INIT, "<without>")],
            under: vec![
                Step::State(INIT),
                Step::Write(INIT, b"under\n".to_vec()),
                Step::Expect(INIT, "<under>"),
                exec("e", "echo here"),
                Step::Start("e"),
                Step::Wait("e"),
                Step::Output("e"),
                Step::Delete("e"),
            ],
            after: vec![
                Step::WaitBegin(INIT),
                Step::Write(INIT, b"end\n".to_vec()),
                Step::EndInput(INIT),
                Step::CloseIo(INIT),
                Step::WaitEnd,
            ],
            outcome: "create: ok\nstart init: ok\n{under}closeio init: ok\nbegun wait init: 7\ndelete init: 7",
            under_outcome: "state init: running\nexec e: ok\nstart e: ok\nwait e: 0\ne stdout \"here\\n\"\ndelete e: 0\n",
            events: &[
                "create",
                "start",
                "exec-added e",
                "exec-started e",
                "exit e 0",
                "exec-added e",
                "exec-started e",
                "exit e 0",
                "exit init 7",
                "delete",
            ],
            differs: None,
        },
        Case {
            name: "paused",
            before: vec![
                create("echo ready; while read x; do echo \"<$x>\"; done"),
                Step::Start(INIT),
                Step::Expect(INIT, "ready"),
                Step::Pause,
                Step::Write(INIT, b"early\n".to_vec()),
            ],
            without: vec![],
            under: vec![Step::State(INIT)],
            after: vec![Step::Resume, Step::Expect(INIT, "<early>"), Step::Kill(INIT, 9), Step::Wait(INIT)],
            outcome: "create: ok\nstart init: ok\npause: ok\n{under}resume: ok\nkill init 9: ok\nwait init: 137\n\
                      delete init: 137",
            under_outcome: "state init: paused\n",
            events: &["create", "start", "paused", "resumed", "exit init 137", "delete"],
            differs: None,
        },
        Case {
            name: "stopped",
            before: vec![create("echo over; exit 7"), Step::Start(INIT), Step::Until(INIT, "stopped")],
            without: vec![],
            under: vec![Step::State(INIT)],
            after: vec![Step::Wait(INIT), Step::Output(INIT)],
            outcome: "create: ok\nstart init: ok\nstate init: stopped 7\n{under}wait init: 7\n\
                      init stdout \"over\\n\"\ndelete init: 7",
            under_outcome: "state init: stopped 7\n",
            events: &["create", "start", "exit init 7", "delete"],
            differs: thrown_away,
        },
        Case {
            name: "away",
            before: vec![create(LISTENS), Step::Start(INIT)],
            without: vec![Step::Write(INIT, b"end\n".to_vec()), Step::Expect(INIT, "<end>")],
            under: vec![Step::Wait(INIT), Step::State(INIT)],
            after: vec![],
            outcome: "create: ok\nstart init: ok\n{under}delete init: 7",
            under_outcome: "wait init: 7\nstate init: stopped 7\n",
            events: &["create", "start", "exit init 7", "delete"],
            differs: thrown_away,
        },
        Case {
            name: "exec",
            before: vec![
                create("sleep 1000"),
                Step::Start(INIT),
                exec("stays", "echo ready; while read x; do echo \"<$x>\"; [ \"$x\" = end ] && exit 4; done"),
                Step::Start("stays"),
                Step::Expect("stays", "ready"),
            ],
            without: vec![Step::Write("stays", b"without\n".to_vec()), Step::Expect("stays", "<without>")],
            under: vec![
                Step::State("stays"),
                Step::Write("stays", b"under\n".to_vec()),
                Step::Expect("stays", "<under>"),
            ],
            after: vec![
                Step::Write("stays", b"end\n".to_vec()),
                Step::Wait("stays"),
                Step::Delete("stays"),
                Step::Kill(INIT, 9),
                Step::Wait(INIT),
            ],
            outcome: "create: ok\nstart init: ok\nexec stays: ok\nstart stays: ok\n{under}wait stays: 4\n\
                      delete stays: 4\nkill init 9: ok\nwait init: 137\ndelete init: 137",
            under_outcome: "state stays: running\n",
            events: &[
                "create",
                "start",
                "exec-added stays",
                "exec-started stays",
                "exit stays 4",
                "exit init 137",
                "delete",
            ],
            differs: None,
        },
    ]
}

/// How a containerd ends.
#[derive(Clone, Copy)]
enum End {
    Told,
    Killed,
}

/// Lives every case under Debian's containerd and then under each of `releases`, which is none for Debian's again.
fn outlives(ends: End, releases: [Option<&str>; 2]) {
    let Some(env) = Environment::find() else { return };
    let found: Option<Vec<_>> = releases.iter().map(|release| programs(&env, *release)).collect();
    let Some(found) = found else { return };
    let executor = Runtime::new().expect("an executor");
    let mut session = executor.block_on(Session::begin(&env));
    let containerds = session.containerd().dir().join("c.sock.ttrpc");
    let moved = session.containerd().dir().join("again.ttrpc");
    let mut events = EventRecorder::intercept(&containerds);
    let mut lives: Vec<(Case, Kind, Driver)> = Vec::new();
    for kind in [Kind::Runc, Kind::Ours] {
        lives.extend(cases().into_iter().map(|case| {
            let driver = session.driver(kind, case.name);
            (case, kind, driver)
        }));
    }
    let drive = |lives: &mut Vec<(Case, Kind, Driver)>, steps: fn(&Case) -> &[Step]| {
        for (case, _, driver) in lives {
            executor.block_on(driver.drive(steps(case)));
        }
    };
    drive(&mut lives, |case| &case.before);
    let mut more = format!("[ttrpc]\naddress = \"{}\"\n", moved.display());
    for (number, programs) in found.into_iter().enumerate() {
        events.close();
        match ends {
            End::Told => session.containerd().stop(),
            End::Killed => session.containerd().kill(),
        }
        if number == 0 {
            drive(&mut lives, |case| &case.without);
        }
        session.containerd().becomes(programs);
        session.containerd().start_again(&std::mem::take(&mut more));
        events.serve(&moved);
        drive(&mut lives, |case| &case.under);
    }
    drive(&mut lives, |case| &case.after);
    for (case, kind, driver) in &mut lives {
        executor.block_on(driver.drive(&[Step::Delete(INIT)]));
        let outcome = case.outcome.replace("{under}", &case.under_outcome.repeat(releases.len()));
        let log = session.containerd().log();
        match (*kind, case.differs) {
            (Kind::Runc, Some(why)) => assert_ne!(driver.outcome(), outcome, "runc's {}: {why}", driver.id()),
            _ => assert_eq!(driver.outcome(), outcome, "{}\n{log}", driver.id()),
        }
        if *kind == Kind::Ours {
            let mut told = events.topics(driver.id());
            told.dedup(); // Nobody can tell of one that was on its way whether it had arrived.
            assert_eq!(told, case.events, "{}", driver.id());
        }
        executor.block_on(driver.clear());
        if *kind == Kind::Ours {
            session.containerd().assert_gone(driver.id());
        }
    }
}

#[test]
fn containers_outlive_an_upgrade_from_1_6_to_2_and_the_way_back() {
    outlives(End::Told, [Some("2"), None]);
}

#[test]
fn containers_outlive_an_upgrade_by_way_of_1_7_with_every_containerd_killed() {
    outlives(End::Killed, [Some("1.7"), Some("2")]);
}

//! Signals.

use integration::oci_cli::eventually;

use super::{
    Scenario,
    stage::{Stage, WAITS, plain},
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "kill", covers: &["kill"], play: kill },
    Scenario { name: "kill with each signal", covers: &["killsig"], play: signals },
    Scenario { name: "kill of what has ended", covers: &["kill_no_effect"], play: no_effect },
];

fn kill(stage: &mut Stage<'_>) {
    let cli = stage.cli;
    stage.tell_ran("without a name", cli.run(&["kill"]), "argument");
    stage.tell_ran("of nothing", cli.run(&["kill", &stage.id(""), "KILL"]), "does not exist");
    let id = stage.created("", WAITS, plain);
    stage.tell_ran("of what is created", cli.run(&["kill", &id, "KILL"]), "");
    cli.reaches(&id, "stopped");
    stage.tell("which never ran", stage.output(""));
    cli.run(&["delete", &id]).good();
    let id = stage.created("", WAITS, plain);
    cli.run(&["start", &id]).good();
    stage.tell_ran("with no signal's name", cli.run(&["kill", &id, "NOSIGNAL"]), "NOSIGNAL");
    stage.tell_ran("with no signal's number", cli.run(&["kill", &id, "1000"]), "");
    stage.tell("which runs on", cli.status(&id));
    stage.tell_ran("of what runs", cli.run(&["kill", &id, "KILL"]), "");
    cli.reaches(&id, "stopped");
    stage.remove("");
}

/// Names and numbers as a caller may write them, and what they mean.
const SIGNALS: [(&str, &str); 9] = [
    ("TERM", "TERM"),
    ("SIGHUP", "HUP"),
    ("usr1", "USR1"),
    ("sigusr2", "USR2"),
    ("2", "INT"),
    ("QUIT", "QUIT"),
    ("WINCH", "WINCH"),
    ("CHLD", "CHLD"),
    ("CONT", "CONT"),
];

fn signals(stage: &mut Stage<'_>) {
    let cli = stage.cli;
    let traps: String = SIGNALS.iter().map(|(_, name)| format!("trap 'echo got {name}' {name}\n")).collect();
    // Children of its own would tell of themselves.
    let wait =
        "mkfifo /tmp/fifo; exec 3<>/tmp/fifo; rm /tmp/fifo; echo up; while true; do read -t 1 line <&3; done";
    let id = stage.created("", &format!("{traps}{wait}"), plain);
    cli.run(&["start", &id]).good();
    assert!(eventually(|| stage.output("").contains("up\n")));
    for (word, name) in SIGNALS {
        let got = || stage.output("").matches(&format!("got {name}\n")).count();
        let ran = cli.run(&["kill", &id, word]);
        let arrives = ran.code == Some(0) && eventually(|| got() > 0);
        stage.tell(&format!("{word} arrives as {name}"), arrives);
    }
    // The default.
    cli.run(&["kill", &id]).good();
    stage.tell("without a name it is TERM", eventually(|| stage.output("").matches("got TERM").count() == 2));
    stage.remove("");
}

fn no_effect(stage: &mut Stage<'_>) {
    let cli = stage.cli;
    let id = stage.created("", "true", plain);
    cli.run(&["start", &id]).good();
    cli.reaches(&id, "stopped");
    let before = cli.state(&id);
    stage.tell_ran("kill", cli.run(&["kill", &id, "KILL"]), "not running");
    stage.tell("changes nothing", cli.state(&id) == before);
    cli.run(&["delete", &id]).good();
}

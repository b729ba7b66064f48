//! Hooks: their order, what they are told, and what becomes of a container when one fails.

use std::fs;

use integration::oci_cli::eventually;
use serde_json::{Value, json};

use super::{
    Scenario,
    stage::{Stage, WAITS},
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "hooks",
        covers: &["hooks", "hooks_stdin", "prestart", "poststart", "poststop"],
        play: order,
    },
    Scenario { name: "a prestart hook fails", covers: &["prestart_fail"], play: prestart_fails },
    Scenario { name: "a createRuntime hook fails", covers: &["hooks"], play: create_runtime_fails },
    Scenario { name: "a createContainer hook fails", covers: &["hooks"], play: create_container_fails },
    Scenario { name: "a startContainer hook fails", covers: &["hooks"], play: start_container_fails },
    Scenario { name: "a poststart hook fails", covers: &["poststart_fail"], play: poststart_fails },
    Scenario { name: "a poststop hook fails", covers: &["poststop_fail"], play: poststop_fails },
    Scenario { name: "hooks that cannot be", covers: &["hooks"], play: impossible },
];

const ON_THE_HOST: [&str; 5] = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];

/// Two hooks of each kind, which write their names and states to `trace`; those of `failing` fail.
fn hooks(stage: &Stage<'_>, failing: &str) -> Value {
    let trace = stage.path("trace").display().to_string();
    let hook = |kind: &str, number: u32| {
        let end = if kind == failing && number == 1 { "exit 3" } else { "exit 0" };
        let script = format!("s=$(cat | tr -d '\\n'); echo \"{kind} {number} $A $0 $s\" >> {trace}; {end}");
        json!({"path": "/bin/sh", "args": ["sh", "-c", script, "zero"], "env": ["PATH=/usr/bin:/bin", "A=b"]})
    };
    let mut all: serde_json::Map<_, _> =
        ON_THE_HOST.iter().map(|kind| ((*kind).to_owned(), json!([hook(kind, 1), hook(kind, 2)]))).collect();
    let script = |number| {
        let end = if failing == "startContainer" && number == 1 { "exit 3" } else { "exit 0" };
        format!("echo startContainer {number} >> /tmp/trace; {end}")
    };
    let inside =
        |number| json!({"path": "/bin/sh", "args": ["sh", "-c", script(number)], "env": ["PATH=/bin"]});
    all.insert("startContainer".into(), json!([inside(1), inside(2)]));
    Value::Object(all)
}

/// The hooks that ran on the host since the last time, by name and number.
fn ran(stage: &Stage<'_>) -> String {
    let lines = fs::read_to_string(stage.path("trace")).unwrap_or_default();
    let _ = fs::remove_file(stage.path("trace")); // None ran.
    lines
        .lines()
        .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join("\n")
}

/// What ran in the container since the last time.
fn ran_inside(stage: &Stage<'_>) -> String {
    let trace = stage.cli.path().join("rootfs/tmp/trace");
    let lines = fs::read_to_string(&trace).unwrap_or_default();
    let _ = fs::remove_file(trace); // Nothing ran.
    lines
}

fn order(stage: &mut Stage<'_>) {
    let cli = stage.cli;
    let annotations = json!({"org.example.key": "value"});
    let hooks = hooks(stage, "");
    let id = stage.created("", "echo program >> /tmp/trace; sleep 1000", |config| {
        config["hooks"] = hooks;
        config["annotations"] = annotations.clone();
    });
    let pid = cli.state(&id)["pid"].clone();
    let states = fs::read_to_string(stage.path("trace")).unwrap_or_default();
    stage.tell("at create", ran(stage));
    cli.run(&["start", &id]).good();
    let program = cli.path().join("rootfs/tmp/trace");
    assert!(eventually(|| fs::read_to_string(&program).unwrap_or_default().contains("program")));
    let states = states + &fs::read_to_string(stage.path("trace")).unwrap_or_default();
    stage.tell("at start", ran(stage));
    stage.tell("in the container", ran_inside(stage));
    cli.run(&["kill", &id, "KILL"]).good();
    cli.reaches(&id, "stopped");
    stage.tell("at the end", ran(stage));
    cli.run(&["delete", &id]).good();
    let states = states + &fs::read_to_string(stage.path("trace")).unwrap_or_default();
    stage.tell("at delete", ran(stage));
    for line in states.lines().filter(|line| line.split(' ').nth(1) == Some("1")) {
        let parts: Vec<_> = line.splitn(5, ' ').collect();
        let [kind, _, env, zero, state] = parts[..] else { panic!("{line}") };
        let state: Value = serde_json::from_str(state).expect("a state is JSON");
        stage.tell(&format!("{kind}'s words"), format!("{env} {zero}"));
        let mut keys: Vec<_> = state.as_object().expect("an object").keys().cloned().collect();
        keys.sort();
        stage.tell(&format!("{kind}'s state has"), keys.join(" "));
        stage.tell(
            &format!("{kind}'s id, bundle, annotations"),
            ["id", "bundle", "annotations"].map(|key| state[key].to_string()).join(" "),
        );
        stage.tell(&format!("{kind}'s status"), &state["status"]);
        stage.tell(&format!("{kind}'s pid is the container's"), state["pid"] == pid);
    }
}

/// A container whose hook of that kind fails.
fn failing(stage: &mut Stage<'_>, kind: &str) {
    let cli = stage.cli;
    let hooks = hooks(stage, kind);
    let bundle = stage.bundle("", WAITS, |config| config["hooks"] = hooks);
    let created = stage.create("", &bundle);
    let is_there = created.code == Some(0);
    stage.tell_ran("create", created, "hook");
    stage.tell("hooks at create", ran(stage));
    let id = stage.id("");
    stage.tell_ran("state after it", cli.run(&["state", &id]), "does not exist");
    if is_there {
        stage.tell_ran("start", cli.run(&["start", &id]), "hook");
        stage.tell("hooks at start", ran(stage));
        if kind == "startContainer" {
            cli.reaches(&id, "stopped");
            stage.tell("the container's output names the hook", stage.output("").contains("hook"));
        } else {
            assert!(eventually(|| stage.output("").contains("up\n")));
        }
        stage.tell("hooks in the container", ran_inside(stage));
        let status = cli.run(&["state", &id]).stdout;
        let status: Value = serde_json::from_str(&status).unwrap_or_default();
        stage.tell("status after it", &status["status"]);
        cli.run(&["kill", &id, "KILL"]);
        if cli.run(&["state", &id]).code == Some(0) {
            cli.reaches(&id, "stopped");
        }
        stage.tell_ran("delete", cli.run(&["delete", &id]), "does not exist");
        stage.tell("hooks at delete", ran(stage));
        stage.tell_ran("state at last", cli.run(&["state", &id]), "does not exist");
    }
}

fn prestart_fails(stage: &mut Stage<'_>) {
    failing(stage, "prestart");
}

fn create_runtime_fails(stage: &mut Stage<'_>) {
    failing(stage, "createRuntime");
}

fn create_container_fails(stage: &mut Stage<'_>) {
    failing(stage, "createContainer");
}

fn start_container_fails(stage: &mut Stage<'_>) {
    failing(stage, "startContainer");
}

fn poststart_fails(stage: &mut Stage<'_>) {
    failing(stage, "poststart");
}

fn poststop_fails(stage: &mut Stage<'_>) {
    failing(stage, "poststop");
}

fn impossible(stage: &mut Stage<'_>) {
    let one = |hook: Value| move |config: &mut Value| config["hooks"] = json!({"createRuntime": [hook]});
    let cases = [
        ("of a program that is missing", json!({"path": "/no/such/hook"}), "/no/such/hook"),
        ("by a path from somewhere", json!({"path": "bin/true"}), "bin/true"),
        (
            "that takes too long",
            json!({"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}),
            "hook",
        ),
        ("without a path", json!({"args": ["true"]}), ""),
    ];
    for (fact, hook, naming) in cases {
        let part = fact.replace(' ', "-");
        let ran = stage.run(&part, "echo it ran", one(hook));
        let ran_it = ran.stdout.contains("it ran");
        stage.tell_ran(fact, ran, naming);
        stage.tell(&format!("{fact}: its container ran"), ran_it);
    }
}

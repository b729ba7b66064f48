//! From create to delete: what each command does in each state, and what it refuses.

use std::{fs, path::Path};

use integration::oci_cli::eventually;
use serde_json::{Value, json};

use super::{
    Scenario,
    stage::{Stage, WAITS, group_of_the_host, plain},
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "create", covers: &["create"], play: create },
    Scenario { name: "start", covers: &["start"], play: start },
    Scenario { name: "start without a process", covers: &["start"], play: no_process },
    Scenario { name: "state", covers: &["state"], play: state },
    Scenario { name: "delete", covers: &["delete"], play: delete },
    Scenario {
        name: "what a delete takes",
        covers: &["delete_resources", "delete_only_create_resources"],
        play: resources,
    },
    Scenario { name: "pid file", covers: &["pidfile"], play: pid_file },
    Scenario { name: "a changed config", covers: &["config_updates_without_affect"], play: changed_config },
    Scenario { name: "unknown things", covers: &["misc_props"], play: unknown },
];

fn create(stage: &mut Stage<'_>) {
    let bundle = stage.bundle("", WAITS, plain);
    let cli = stage.cli;
    stage.tell_ran("without a name", cli.leave(&["create", "--bundle", &bundle], "unnamed"), "argument");
    for name in ["", "..", "a/b", "a b c"] {
        let ran = cli.leave(&["create", "--bundle", &bundle, name], &format!("named-{}", name.len()));
        stage.tell_ran(&format!("by the name {name:?}"), ran, "container id");
    }
    let nowhere = stage.path("nowhere").display().to_string();
    stage.tell_ran(
        "without a bundle",
        cli.leave(&["create", "--bundle", &nowhere, &stage.id("")], "nowhere"),
        &nowhere,
    );
    stage.create("", &bundle).good();
    stage.tell("status", cli.status(&stage.id("")));
    stage.tell("ran before its start", !stage.output("").is_empty());
    stage.tell_ran("once more", stage.create("", &bundle), "exist");
    stage.tell("status of the first", cli.status(&stage.id("")));
    stage.remove("");
}

fn start(stage: &mut Stage<'_>) {
    let cli = stage.cli;
    let script = "echo process called >> /tmp/called";
    let called = || fs::read_to_string(cli.path().join("rootfs/tmp/called")).unwrap_or_default();
    stage.tell_ran("without a name", cli.run(&["start"]), "argument");
    stage.tell_ran("of nothing", cli.run(&["start", &stage.id("")]), "does not exist");
    let id = stage.created("", script, plain);
    stage.tell("ran before its start", called());
    stage.tell_ran("of what is created", cli.run(&["start", &id]), "");
    cli.reaches(&id, "stopped");
    stage.tell("ran after it", called());
    stage.tell_ran(
        "of what has ended",
        cli.run(&["start", &id]),
        "cannot start a container that has stopped",
    );
    stage.tell("ran once", called());
    stage.remove("");
    fs::remove_file(cli.path().join("rootfs/tmp/called")).expect("the script wrote it");
}

fn no_process(stage: &mut Stage<'_>) {
    let bundle = stage.bundle("", WAITS, |config| {
        config.as_object_mut().expect("an object").remove("process");
    });
    let created = stage.create("", &bundle);
    let is_there = created.code == Some(0);
    stage.tell_ran("create", created, "process");
    if is_there {
        stage.tell_ran("start", stage.cli.run(&["start", &stage.id("")]), "process");
    }
    stage.cli.run(&["delete", "--force", &stage.id("")]).good();
}

/// What `state` says, but for what is another container's each time.
fn told(stage: &mut Stage<'_>, fact: &str) {
    let state = stage.cli.state(&stage.id(""));
    let spec = stage.cli.run(&["--version"]).good();
    let map = state.as_object().expect("an object");
    let text: Vec<_> = map
        .iter()
        .map(|(key, value)| match (key.as_str(), value) {
            ("created", Value::String(time)) => format!("created: {}", time.ends_with('Z')),
            ("pid", Value::Number(pid)) => format!("pid: {}", pid.as_u64() > Some(0)),
            ("ociVersion", Value::String(version)) => {
                format!("ociVersion is told: {}", spec.contains(version))
            }
            _ => format!("{key}: {value}"),
        })
        .collect();
    stage.tell(fact, text.join("\n"));
}

fn state(stage: &mut Stage<'_>) {
    let cli = stage.cli;
    stage.tell_ran("without a name", cli.run(&["state"]), "argument");
    stage.tell_ran("of nothing", cli.run(&["state", &stage.id("")]), "does not exist");
    let id = stage.created("", WAITS, |config| {
        config["annotations"] = json!({"org.example.key": "a value", "empty": ""});
    });
    told(stage, "created");
    cli.run(&["start", &id]).good();
    told(stage, "running");
    cli.run(&["pause", &id]).good();
    told(stage, "paused");
    cli.run(&["resume", &id]).good();
    cli.run(&["kill", &id, "KILL"]).good();
    cli.reaches(&id, "stopped");
    told(stage, "stopped");
    cli.run(&["delete", &id]).good();
    stage.tell_ran("after its delete", cli.run(&["state", &id]), "does not exist");
}

fn delete(stage: &mut Stage<'_>) {
    let cli = stage.cli;
    stage.tell_ran("without a name", cli.run(&["delete"]), "argument");
    stage.tell_ran("of nothing", cli.run(&["delete", &stage.id("")]), "does not exist");
    stage.tell_ran("of nothing by force", cli.run(&["delete", "--force", &stage.id("")]), "");
    let id = stage.created("", WAITS, plain);
    stage.tell_ran("of what is created", cli.run(&["delete", &id]), "not stopped");
    stage.tell_ran("after it", cli.run(&["state", &id]), "does not exist");
    // The name is free again.
    let id = stage.created("", WAITS, plain);
    cli.run(&["start", &id]).good();
    stage.tell_ran("of what runs", cli.run(&["delete", &id]), "is not stopped: running");
    stage.tell("which runs on", cli.status(&id));
    cli.run(&["kill", &id, "KILL"]).good();
    cli.reaches(&id, "stopped");
    stage.tell_ran("of what has ended", cli.run(&["delete", &id]), "");
    stage.tell_ran("twice", cli.run(&["delete", &id]), "does not exist");
}

fn resources(stage: &mut Stage<'_>) {
    let cli = stage.cli;
    // Somebody else's control group, which the container is put into, and a file of the bundle.
    let group = group_of_the_host("unified").join(stage.id("other"));
    fs::create_dir(&group).expect("make a control group");
    let id = stage.created("", WAITS, plain);
    let pid = cli.state(&id)["pid"].to_string();
    fs::write(group.join("cgroup.procs"), &pid).expect("put it into the control group");
    cli.run(&["start", &id]).good();
    assert!(eventually(|| stage.output("") == "up\n"));
    cli.run(&["kill", &id, "KILL"]).good();
    cli.reaches(&id, "stopped");
    stage.tell_ran("delete", cli.run(&["delete", &id]), "");
    stage.tell("its process is there", Path::new("/proc").join(pid).exists());
    stage.tell("the other's group is there", group.exists());
    stage
        .tell("its bundle is there", Path::new(&stage.bundle("", WAITS, plain)).join("config.json").exists());
    assert!(eventually(|| fs::remove_dir(&group).is_ok()), "{} is in use", group.display());
}

fn pid_file(stage: &mut Stage<'_>) {
    let cli = stage.cli;
    let (bundle, id) = (stage.bundle("", WAITS, plain), stage.id(""));
    let path = stage.path("pid").display().to_string();
    fs::write(&path, "what was there before").expect("write a file");
    cli.leave(&["create", "--bundle", &bundle, "--pid-file", &path, &id], &id).good();
    let text = fs::read_to_string(&path).expect("read the pid file");
    stage.tell("is the state's", cli.state(&id)["pid"] == text.parse::<u64>().unwrap_or_default());
    stage.tell("is a process", Path::new("/proc").join(&text).exists());
    stage.remove("");
    let nowhere = stage.path("no").join("such/folder").display().to_string();
    let ran = cli.leave(&["create", "--bundle", &bundle, "--pid-file", &nowhere, &id], "no-pid-file");
    stage.tell_ran("nowhere", ran, "no such file or directory");
    stage.tell_ran("after that", cli.run(&["state", &id]), "does not exist");
}

fn changed_config(stage: &mut Stage<'_>) {
    let cli = stage.cli;
    let hostname = |name: &'static str| move |config: &mut Value| config["hostname"] = json!(name);
    let id = stage.created("", "hostname; echo first", hostname("before"));
    stage.bundle("", "hostname; echo second", hostname("after"));
    cli.run(&["start", &id]).good();
    cli.reaches(&id, "stopped");
    stage.tell("what ran", stage.output(""));
    cli.run(&["delete", &id]).good();
}

fn unknown(stage: &mut Stage<'_>) {
    stage.ask("a", &[("annotation", "echo runs")], |config| {
        config["annotations"] = json!({"org.example.unknown": "", "io.katacontainers.unknown": "x"});
    });
    stage.ask("p", &[("property", "echo runs")], |config| {
        config["unknown"] = json!("unknown");
        config["process"]["unknown"] = json!({"a": [1]});
        config["linux"]["unknown"] = json!(null);
    });
    for (part, version) in [("v", "invalid"), ("w", "0.1.0"), ("x", "1.99.0")] {
        let ran = stage.run(part, "true", |config| config["ociVersion"] = json!(version));
        stage.tell_ran(&format!("version {version}"), ran, "ersion");
    }
    let text = stage.bundle("broken", "true", plain);
    fs::write(Path::new(&text).join("config.json"), "{\"ociVersion\": ").expect("write config.json");
    stage.tell_ran("half a config", stage.create("broken", &text), "");
    stage.tell_ran(
        "of which nothing is left",
        stage.cli.run(&["state", &stage.id("broken")]),
        "does not exist",
    );
}

//! A container from create to delete: states, what is refused in them, hooks, what is listed.

use std::{
    fs,
    io::Read,
    process::{Command, Stdio},
};

use integration::oci_cli::{Cli, ended, eventually};
use serde_json::{Value, json};

use crate::{WAITS, namespace, nothing};

#[test]
fn a_container_lives_from_create_to_delete() {
    for cli in Cli::both() {
        let id = cli.id("life");
        let bundle = cli.bundle("life", WAITS, nothing).display().to_string();
        let pid_file = cli.path().join("pid");
        let create = ["create", "--bundle", &bundle, "--pid-file", &pid_file.display().to_string(), &id];
        cli.leave(&create, "out").good();

        let pid = fs::read_to_string(&pid_file).unwrap();
        let state = cli.state(&id);
        assert_eq!(state["pid"].to_string(), pid);
        assert_eq!(
            (&state["id"], &state["status"], &state["bundle"]),
            (&json!(id), &json!("created"), &json!(bundle))
        );
        assert_eq!(state["rootfs"], json!(cli.path().join("rootfs")));
        assert!(state["created"].as_str().unwrap().ends_with('Z'));
        assert_ne!(namespace(&pid), namespace("self"), "{:?}", cli.whose);
        assert_eq!(cli.output("out"), "", "{:?}: it runs before its start", cli.whose);

        cli.run(&["start", &id]).good();
        assert!(eventually(|| cli.output("out") == "up\n"));
        assert_eq!(cli.status(&id), "running");
        cli.run(&["kill", &id]).good();
        cli.reaches(&id, "stopped");
        assert_eq!(cli.state(&id)["pid"], 0);
        cli.run(&["delete", &id]).good();
        assert_eq!(cli.run(&["state", &id]).refusal(), (1, "container does not exist".into()));
        cli.assert_clean();
    }
}

#[test]
fn what_is_out_of_order_is_refused_in_the_same_words() {
    let mut told = Vec::new();
    for cli in Cli::both() {
        let id = cli.id("order");
        let bundle = cli.bundle("order", WAITS, nothing).display().to_string();
        let mut words = Vec::new();
        let mut refused = |args: &[&str]| {
            let (code, text) = cli.run(args).refusal();
            let plain = |text: &str| text.replace(&bundle, "BUNDLE").replace(&id, "ID");
            words.push((plain(&args.join(" ")), code, plain(&text)));
        };
        for command in ["state", "start", "kill", "delete", "pause", "resume", "ps", "events"] {
            refused(&[command, &id]);
        }
        refused(&["exec", &id, "true"]);
        refused(&["state", "a/b"]);
        refused(&["list", "--format", "no"]);
        cli.run(&["delete", "--force", &id]).good();

        cli.leave(&["create", "--bundle", &bundle, &id], "out").good();
        refused(&["create", "--bundle", &bundle, &id]);
        refused(&["resume", &id]);
        cli.run(&["start", &id]).good();
        assert!(eventually(|| cli.output("out") == "up\n"));
        refused(&["start", &id]);
        refused(&["delete", &id]);
        refused(&["kill", &id, "NOSIGNAL"]);
        refused(&["exec", &id]);
        cli.run(&["pause", &id]).good();
        assert_eq!(cli.status(&id), "paused");
        refused(&["start", &id]);
        refused(&["delete", &id]);
        refused(&["pause", &id]);
        cli.run(&["resume", &id]).good();
        cli.run(&["kill", &id, "KILL"]).good();
        cli.reaches(&id, "stopped");
        refused(&["start", &id]);
        refused(&["kill", &id, "KILL"]);
        refused(&["pause", &id]);
        refused(&["exec", &id, "true"]);
        refused(&["update", "--pids-limit", "9", &id]);
        cli.run(&["kill", "--all", &id, "KILL"]).good();
        cli.run(&["delete", &id]).good();
        cli.assert_clean();
        told.push(words);
    }
    // Without its usage, which is the program's own.
    for words in &mut told {
        words.retain(|(args, ..)| !args.contains("--format"));
        for (args, _, text) in words.iter_mut() {
            if args.starts_with("exec ID true") {
                *text = text.replace(" (use --ignore-paused to override)", "");
            }
        }
    }
    if let [ours, runcs] = &told[..] {
        assert_eq!(ours, runcs);
    }
}

#[test]
fn several_are_listed_in_order() {
    let mut shapes = Vec::new();
    for cli in Cli::both() {
        assert_eq!(cli.run(&["list", "--format", "json"]).good().trim(), "null");
        let bundle = cli.bundle("list", WAITS, nothing).display().to_string();
        let ids = ["b", "a"].map(|name| cli.id(name));
        for id in &ids {
            cli.leave(&["create", "--bundle", &bundle, id], "out").good();
        }
        cli.run(&["start", &ids[0]]).good();
        let [b, a] = &ids;
        assert_eq!(cli.run(&["list", "--quiet"]).good(), format!("{a}\n{b}\n"));
        let listed: Value = serde_json::from_str(&cli.run(&["list", "--format", "json"]).good()).unwrap();
        let told: Vec<_> =
            listed.as_array().unwrap().iter().map(|one| (one["id"].clone(), one["status"].clone())).collect();
        assert_eq!(told, [(json!(a), json!("created")), (json!(b), json!("running"))]);
        // By their numbers, which begin again after the last.
        let pids: Vec<u64> = serde_json::from_str(&cli.run(&["ps", "--format", "json", b]).good()).unwrap();
        assert!(pids.contains(&listed[1]["pid"].as_u64().unwrap()), "{pids:?}");
        let table = cli.run(&["list"]).good();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].starts_with(a.as_str()) && lines[1].ends_with("root"), "{table}");
        let keys: Vec<String> = listed[0].as_object().unwrap().keys().cloned().collect();
        shapes.push((lines[0].split_whitespace().map(str::to_owned).collect::<Vec<_>>(), keys));
        for id in &ids {
            cli.run(&["delete", "--force", id]).good();
        }
        cli.assert_clean();
    }
    if let [ours, runcs] = &shapes[..] {
        assert_eq!(ours, runcs);
    }
}

#[test]
fn hooks_run_in_their_order_and_know_the_pid_and_its_network() {
    for cli in Cli::both() {
        let id = cli.id("hooks");
        let trace = cli.path().join("trace");
        let hook = |name: &str| {
            let script = format!("s=$(tr -d '\\n '); echo {name} $s >> {}", trace.display());
            json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}])
        };
        let bundle = cli.bundle("hooks", WAITS, |config| {
            config["hooks"] = json!({
                "prestart": hook("prestart"), "createRuntime": hook("createRuntime"),
                "createContainer": hook("createContainer"), "poststart": hook("poststart"), "poststop": hook("poststop"),
            });
        });
        let bundle = bundle.display().to_string();
        cli.leave(&["create", "--bundle", &bundle, &id], "out").good();
        let pid = cli.state(&id)["pid"].clone();
        cli.run(&["start", &id]).good();
        cli.run(&["kill", &id, "KILL"]).good();
        cli.reaches(&id, "stopped");
        cli.run(&["delete", &id]).good();
        let trace = fs::read_to_string(&trace).unwrap();
        let lines: Vec<(&str, Value)> = trace
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, state)| (name, serde_json::from_str(state).unwrap()))
            .collect();
        let names: Vec<_> = lines.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]);
        for (name, state) in &lines[..2] {
            assert_eq!((&state["id"], &state["pid"]), (&json!(id), &pid), "{:?} {name}", cli.whose);
            assert_eq!(state["bundle"], json!(bundle));
        }
        cli.assert_clean();
    }
}

#[test]
fn what_it_may_use_is_changed_and_what_it_uses_is_told() {
    for cli in Cli::both() {
        let id = cli.id("limits");
        let bundle = cli.bundle("limits", WAITS, |config| {
            config["mounts"].as_array_mut().unwrap().push(json!({
                "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"],
            }));
        });
        cli.leave(&["run", "--detach", "--bundle", &bundle.display().to_string(), &id], "out").good();
        cli.run(&["update", "--pids-limit", "77", &id]).good();
        let told: Value = serde_json::from_str(&cli.run(&["events", "--stats", &id]).good()).unwrap();
        assert_eq!((&told["type"], &told["id"]), (&json!("stats"), &json!(id)));
        let data = &told["data"];
        assert_eq!(data["pids"]["limit"], 77, "{:?}: {data}", cli.whose);
        assert!(data["memory"]["usage"]["usage"].as_u64().unwrap() > 0, "{data}");
        assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 0, "{data}");
        let limits = cli.path().join("limits.json");
        fs::write(&limits, r#"{"pids": {"limit": 66}}"#).unwrap();
        cli.run(&["update", "--resources", &limits.display().to_string(), &id]).good();
        let told: Value = serde_json::from_str(&cli.run(&["events", "--stats", &id]).good()).unwrap();
        assert_eq!(told["data"]["pids"]["limit"], 66);
        cli.run(&["delete", "--force", &id]).good();
        cli.assert_clean();
    }
}

#[test]
fn a_signal_to_the_pid_of_a_container_is_the_containers() {
    for cli in Cli::both() {
        let id = cli.id("signal");
        let bundle = cli.bundle("signal", WAITS, nothing).display().to_string();
        let mut child =
            cli.command(&["run", "--bundle", &bundle, &id]).stdout(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 3];
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        let pid = cli.state(&id)["pid"].to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert_eq!(ended(&mut child), Some(5), "{:?}", cli.whose);
        // The same to the command in the foreground.
        let mut child =
            cli.command(&["run", "--bundle", &bundle, &id]).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
        assert_eq!(ended(&mut child), Some(5), "{:?}", cli.whose);
        cli.assert_clean();
    }
}

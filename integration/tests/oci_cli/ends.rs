//! Whatever goes wrong: nothing is left, and it is said why.

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Command, Stdio},
};

use integration::oci_cli::{Cli, ended};
use serde_json::{Value, json};

use crate::{WAITS, nothing};

#[test]
fn whatever_is_killed_a_forced_delete_leaves_nothing() {
    let Some(cli) = Cli::ours() else { return };
    for victim in ["serve", "proxy", "qemu", "all"] {
        let id = cli.id(victim);
        let bundle = cli.bundle("victims", WAITS, nothing).display().to_string();
        let mut child =
            cli.command(&["run", "--bundle", &bundle, &id]).stdout(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 3];
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        let names: &[&str] = match victim {
            "serve" => &["serve"],
            "proxy" => &["proxy"],
            "qemu" => &["qemu"],
            _ => &["serve", "proxy", "qemu"],
        };
        let pids: Vec<_> = names.iter().flat_map(|name| processes(&id, name)).collect();
        // Some go with others before it is their turn.
        let kill = |pid: &String| {
            Command::new("kill").args(["-KILL", pid]).stderr(Stdio::null()).status().unwrap().success()
        };
        assert!(pids.iter().filter(|pid| kill(pid)).count() > 0);
        // The command in the foreground hears of it, whichever it was.
        assert_eq!(ended(&mut child), Some(137), "{victim}");
        cli.run(&["delete", "--force", &id]).good();
        cli.assert_clean();
    }
}

#[test]
fn what_nobody_owns_is_listed_and_taken_away() {
    let Some(cli) = Cli::ours() else { return };
    let id = cli.id("orphan");
    let bundle = cli.bundle("orphan", WAITS, nothing).display().to_string();
    cli.leave(&["create", "--bundle", &bundle, &id], "out").good();
    assert!(cli.run(&["cleanup", &id]).good().contains("nothing is left"), "it has an owner");
    for pid in processes(&id, "serve") {
        Command::new("kill").args(["-KILL", &pid]).status().unwrap();
    }
    let listed = cli.run(&["cleanup", &id]).good();
    assert!(listed.contains(&format!("{id}: has no owner")) && listed.contains("mount /run"), "{listed}");
    let done = cli.run(&["cleanup", "--yes", &id]).good();
    assert!(done.contains(&format!("{id}: cleaned up")), "{done}");
    assert!(cli.run(&["cleanup", &id]).good().contains("nothing is left"));
    cli.run(&["delete", "--force", &id]).good();
    cli.assert_clean();
}

#[test]
fn a_create_that_fails_leaves_nothing_and_says_why() {
    for cli in Cli::both() {
        let id = cli.id("bad");
        let missing = cli.path().join("missing").display().to_string();
        assert!(cli.run(&["create", "--bundle", &missing, &id]).refusal().1.contains(&missing));
        let bundle = cli.bundle("bad", WAITS, |config| {
            config["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "echo no luck >&2; exit 1"]}]});
        });
        let (code, words) = cli.run(&["create", "--bundle", &bundle.display().to_string(), &id]).refusal();
        assert!(code == 1 && words.contains("no luck"), "{:?}: {words}", cli.whose);
        assert_eq!(cli.run(&["state", &id]).refusal().1, "container does not exist");
        cli.assert_clean();
    }
}

#[test]
fn errors_go_to_the_log_in_the_form_that_is_asked_for() {
    for cli in Cli::both() {
        for (format, is_so) in [
            (
                "json",
                (|line: &str| {
                    let line: Value = serde_json::from_str(line).unwrap();
                    line["level"] == "error"
                        && line["msg"] == "container does not exist"
                        && line["time"].is_string()
                }) as fn(&str) -> bool,
            ),
            ("text", |line: &str| {
                line.ends_with("level=error msg=\"container does not exist\"") && line.starts_with("time=")
            }),
        ] {
            let log = cli.path().join(format!("log.{format}")).display().to_string();
            let ran = cli.run(&["--log", &log, "--log-format", format, "state", "nobody"]);
            assert_eq!(
                (ran.code, ran.stderr.as_str()),
                (Some(1), "container does not exist\n"),
                "{:?}",
                cli.whose
            );
            let text = fs::read_to_string(Path::new(&log)).unwrap();
            assert!(is_so(text.trim_end()), "{:?}: {text}", cli.whose);
        }
    }
}

/// The processes of a container whose command line has that word.
fn processes(id: &str, word: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains(id) && line.split('\0').take(8).any(|part| part.contains(word)) {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    assert!(!found.is_empty(), "{id} has no {word}");
    found
}

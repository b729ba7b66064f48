//! `kata-runtime` as engines use it, beside runc: each test is put to both, and what they say must be the same.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::MetadataExt, net::UnixListener},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use integration::oci_cli::{Cli, Whose, ended, eventually, receive_terminal};
use serde_json::{Value, json};

/// Runs until it is told to end, which it does with 5.
const WAITS: &str = "trap 'exit 5' TERM; echo up; while true; do sleep 0.1; done";

fn nothing(_: &mut Value) {}

fn namespace(pid: &str) -> u64 {
    fs::metadata(format!("/proc/{pid}/ns/net")).expect("the stand-in has a network namespace").ino()
}

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
fn streams_pass_whole_and_the_code_comes_back() {
    for cli in Cli::both() {
        let id = cli.id("streams");
        let bundle = cli.bundle("streams", "cat; echo over >&2; exit 7", nothing).display().to_string();
        let mut command = cli.command(&["run", "--bundle", &bundle, &id]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let sent: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
        let (mut input, text) = (child.stdin.take().unwrap(), sent.clone());
        let writing = thread::spawn(move || input.write_all(&text));
        let mut received = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut received).unwrap();
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        writing.join().unwrap().unwrap();
        assert_eq!(ended(&mut child), Some(7));
        assert!(received == sent, "{:?}: {} of {} bytes", cli.whose, received.len(), sent.len());
        assert_eq!(errors, "over\n");
        cli.assert_clean();
    }
}

#[test]
fn output_to_a_file_goes_on_where_others_wrote_and_input_comes_from_one() {
    for cli in Cli::both() {
        let id = cli.id("file");
        let bundle = cli.bundle("file", "cat", nothing).display().to_string();
        let (input, output) = (cli.path().join("in"), cli.path().join("out"));
        fs::write(&input, "from a file\n").unwrap();
        let mut file = fs::File::create(&output).unwrap();
        file.write_all(b"before\n").unwrap();
        let mut command = cli.command(&["run", "--bundle", &bundle, &id]);
        command.stdin(fs::File::open(&input).unwrap()).stdout(file.try_clone().unwrap());
        assert_eq!(ended(&mut command.spawn().unwrap()), Some(0));
        file.write_all(b"after\n").unwrap();
        assert_eq!(fs::read_to_string(&output).unwrap(), "before\nfrom a file\nafter\n", "{:?}", cli.whose);
        cli.assert_clean();
    }
}

#[test]
fn a_slow_reader_gets_all_of_it_and_one_that_goes_away_ends_the_writer() {
    for cli in Cli::both() {
        let id = cli.id("slow");
        let bundle = cli.bundle("slow", "seq 200000; exit 4", nothing).display().to_string();
        let mut child =
            cli.command(&["run", "--bundle", &bundle, &id]).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = child.stdout.take().unwrap();
        let mut first = [0; 1];
        output.read_exact(&mut first).unwrap();
        // Longer than anybody waits who takes a silent reader for a dead one.
        thread::sleep(std::time::Duration::from_secs(5));
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert!(rest.ends_with("\n200000\n"), "{:?}: the end is lost", cli.whose);
        assert_eq!(ended(&mut child), Some(4));

        let id = cli.id("gone");
        let bundle = cli.bundle("gone", "yes; true", nothing).display().to_string();
        let mut child =
            cli.command(&["run", "--bundle", &bundle, &id]).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = child.stdout.take().unwrap();
        output.read_exact(&mut first).unwrap();
        drop(output);
        assert_eq!(ended(&mut child), Some(0));
        cli.assert_clean();
    }
}

#[test]
fn an_exec_has_its_own_streams_code_user_and_place() {
    for cli in Cli::both() {
        let id = cli.id("exec");
        let bundle = cli.bundle("exec", WAITS, nothing).display().to_string();
        let run = ["run", "--detach", "--bundle", &bundle, &id];
        cli.leave(&run, "out").good();
        let ran = cli.run(&["exec", &id, "sh", "-c", "echo out; echo err >&2; exit 3"]);
        assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(3), "out\n", "err\n"));
        assert_eq!(cli.run(&["exec", &id, "sh", "-c", "kill -9 $$"]).code, Some(137));
        let changed =
            ["exec", "--cwd", "/tmp", "--env", "A=b", "--user", "7:8", "--additional-gids", "9", &id];
        let script = ["sh", "-c", "pwd; echo $A; id -u; id -g; id -G"];
        let text = cli.run(&[&changed[..], &script[..]].concat()).good();
        assert_eq!(text, "/tmp\nb\n7\n8\n8 9\n", "{:?}", cli.whose);

        let process = cli.path().join("process.json");
        let spec = json!({"args": ["sh", "-c", "echo $B"], "cwd": "/", "env": ["B=c", "PATH=/bin"],
                          "user": {"uid": 0, "gid": 0}});
        fs::write(&process, spec.to_string()).unwrap();
        let process = process.display().to_string();
        assert_eq!(cli.run(&["exec", "--process", &process, &id]).good(), "c\n");

        let mut child = cli.command(&["exec", &id, "cat"]);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"through\n").unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((ended(&mut child), text.as_str()), (Some(0), "through\n"));

        let (code, words) = cli.run(&["exec", &id, "no-such-program"]).refusal();
        assert!(code == 255 && words.contains("no-such-program"), "{:?}: {code} {words}", cli.whose);
        cli.run(&["delete", "--force", &id]).good();
        cli.assert_clean();
    }
}

#[test]
fn a_detached_exec_is_known_by_a_pid_that_ends_it() {
    for cli in Cli::both() {
        let id = cli.id("detached");
        let bundle = cli.bundle("detached", WAITS, nothing).display().to_string();
        cli.leave(&["run", "--detach", "--bundle", &bundle, &id], "out").good();
        let pid_file = cli.path().join("pid").display().to_string();
        let script = "echo begun; sleep 1000";
        cli.leave(&["exec", "--detach", "--pid-file", &pid_file, &id, "sh", "-c", script], "exec").good();
        let pid = fs::read_to_string(&pid_file).unwrap();
        assert!(eventually(|| cli.output("exec") == "begun\n"));
        assert_eq!(namespace(&pid), namespace(&cli.state(&id)["pid"].to_string()), "{:?}", cli.whose);
        let sleeps = || cli.run(&["exec", &id, "ps"]).good().contains("sleep 1000");
        assert!(sleeps());
        assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
        assert!(eventually(|| !sleeps()), "{:?}: its process goes on", cli.whose);
        assert_eq!(cli.status(&id), "running");
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

#[test]
fn a_terminal_is_handed_over_and_keeps_its_size() {
    for cli in Cli::both() {
        let id = cli.id("console");
        let bundle = cli.bundle("console", "stty size; read line; echo got $line; exit 6", |config| {
            config["process"]["terminal"] = json!(true);
            config["process"]["consoleSize"] = json!({"height": 33, "width": 99});
        });
        let bundle = bundle.display().to_string();
        let (code, words) = cli.run(&["create", "--bundle", &bundle, &id]).refusal();
        let refused = "cannot allocate tty if runc will detach without setting console socket";
        assert!(code == 1 && words.ends_with(refused), "{words}");

        let socket = cli.path().join("console.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let receiving = thread::spawn(move || receive_terminal(&listener));
        let socket = socket.display().to_string();
        cli.leave(&["create", "--bundle", &bundle, "--console-socket", &socket, &id], "out").good();
        let mut terminal = receiving.join().unwrap();
        cli.run(&["start", &id]).good();
        let mut text = String::new();
        let mut read_until = |terminal: &mut fs::File, end: &str| {
            let mut block = [0; 1024];
            while !text.contains(end) {
                let length = terminal.read(&mut block).unwrap_or(0);
                assert!(length > 0, "{:?}: {text:?} has no {end:?}", cli.whose);
                text.push_str(&String::from_utf8_lossy(&block[..length]));
            }
        };
        read_until(&mut terminal, "33 99\r\n");
        terminal.write_all(b"this\n").unwrap();
        read_until(&mut terminal, "got this\r\n");
        cli.reaches(&id, "stopped");
        cli.run(&["delete", &id]).good();
        cli.assert_clean();
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
fn a_stand_in_is_small() {
    let Some(cli) = Cli::ours() else { return };
    let id = cli.id("small");
    let bundle = cli.bundle("small", WAITS, nothing).display().to_string();
    cli.leave(&["run", "--detach", "--bundle", &bundle, &id], "out").good();
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", cli.state(&id)["pid"])).unwrap();
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    let pss: u64 = pss.trim().trim_end_matches(" kB").parse().unwrap();
    let limit = if cli.is_optimized() { 1536 } else { 16384 };
    assert!(pss <= limit, "{pss} KiB");
    cli.run(&["delete", "--force", &id]).good();
    cli.assert_clean();
}

#[test]
fn a_spec_of_ours_runs_and_the_versions_are_told() {
    for cli in Cli::both() {
        let dir = cli.path().join("spec");
        fs::create_dir(&dir).unwrap();
        let bundle = dir.display().to_string();
        cli.run(&["spec", "--bundle", &bundle]).good();
        assert_eq!(
            cli.run(&["spec", "--bundle", &bundle]).refusal().1,
            "File config.json exists. Remove it first"
        );
        let path = dir.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["echo", "as it was written"]);
        config["root"]["path"] = json!(cli.path().join("rootfs"));
        fs::write(&path, config.to_string()).unwrap();
        let id = cli.id("spec");
        assert_eq!(cli.run(&["run", "--bundle", &bundle, &id]).good(), "as it was written\n");
        let version = cli.run(&["--version"]).good();
        let program = if cli.whose == Whose::Runc { "runc" } else { "kata-runtime" };
        assert!(
            version.starts_with(&format!("{program} version ")) && version.contains("\nspec: "),
            "{version}"
        );
        let features: Value = serde_json::from_str(&cli.run(&["features"]).good()).unwrap();
        assert!(features["hooks"].as_array().unwrap().contains(&json!("createRuntime")));
        cli.assert_clean();
    }
}

//! A container from its start to its end, its terminals, its logs.

use integration::{containerd::finish, docker::Docker, oci_cli::ended, terminal::Terminal};

use crate::{REST, Way, seconds, state, wait_for_log};

pub fn life(docker: &Docker, way: Way) {
    // What has no log is printed all the same.
    let options = "--rm -i --network none --log-driver none";
    let command = docker.run_command(options, "read line; echo \"$line\" out; echo err >&2; exit 3");
    let ran = finish(command, b"in\n");
    assert_eq!((ran.code, ran.text().as_str()), (3, "in out\n"), "{}\n{}", ran.stderr, docker.log());
    assert_eq!(ran.stderr, "err\n");

    let began = seconds();
    let script = format!("touch /made; trap 'echo told' USR1; {REST}");
    let id = docker.start_container("life", "--network none --init --hostname here", &script);
    wait_for_log(docker, "life", |log| log == "began");
    exec(docker, &id);
    figures(docker, &id, way);

    docker.ok(&["pause", "life"]);
    assert_eq!(state(docker, "life"), "paused 0");
    assert_ne!(docker.docker(&["exec", "life", "true"]).code, 0);
    docker.ok(&["unpause", "life"]);
    docker.ok(&["kill", "-s", "USR1", "life"]);
    wait_for_log(docker, "life", |log| log == "began\ntold");
    assert_eq!(docker.ok(&["diff", "life"]).lines().filter(|line| *line == "A /made").count(), 1);
    docker.ok(&["restart", "-t", "60", "life"]);
    wait_for_log(docker, "life", |log| log == "began\ntold\nbegan");
    assert_eq!(docker.inside("life", "ls /made"), "/made\n");

    let waits = docker.command(&["wait", "life"]).stdout(std::process::Stdio::piped()).spawn();
    docker.ok(&["stop", "-t", "60", "life"]);
    let waited = waits.and_then(|child| child.wait_with_output()).expect("run docker wait");
    assert_eq!(String::from_utf8_lossy(&waited.stdout), "9\n");
    assert_eq!(state(docker, "life"), "exited 9");
    docker.ok(&["commit", "life", "committed"]);
    assert_eq!(docker.ok(&["run", "--rm", "--network", "none", "committed", "ls", "/made"]), "/made");
    docker.ok(&["rmi", "committed"]);

    // Up to the end of this second.
    let (since, until) = (began.to_string(), (seconds() + 1).to_string());
    let words = ["--since", &since, "--until", &until, "--filter", "container=life"];
    let events = docker.ok(&[&["events"], &words[..], &["--format", "{{.Action}}"]].concat());
    let events: Vec<_> = events.lines().collect();
    for (event, times) in [("create", 1), ("start", 2), ("pause", 1), ("unpause", 1), ("restart", 1)] {
        assert_eq!(events.iter().filter(|is| **is == event).count(), times, "{event}: {events:?}");
    }
    assert_eq!(events.iter().filter(|is| **is == "die").count(), 2, "{events:?}");
    docker.remove(&[id]);
}

fn exec(docker: &Docker, id: &str) {
    assert_eq!(docker.inside("life", "hostname; cat /proc/1/comm"), "here\ndocker-init\n");
    let failed = docker.docker(&["exec", "life", "sh", "-c", "echo err >&2; exit 7"]);
    assert_eq!((failed.code, failed.stderr.as_str()), (7, "err\n"));
    let missing = docker.docker(&["exec", "life", "/no/such/program"]);
    assert!([126, 127].contains(&missing.code), "{}: {}", missing.code, missing.stderr);
    let echo = docker.docker_with_input(&["exec", "-i", "life", "cat"], b"typed");
    assert_eq!((echo.code, echo.text().as_str()), (0, "typed"), "{}", echo.stderr);
    let options = ["-u", "1000:7", "-e", "WORD=said", "-w", "/tmp", "life", "sh", "-c"];
    let said = docker.ok(&[&["exec"], &options[..], &["id -u; id -g; echo $WORD; pwd"]].concat());
    assert_eq!(said, "1000\n7\nsaid\n/tmp");
    docker.ok(&["exec", "-d", id, "touch", "/detached"]);
    docker.wait_inside("life", "ls /detached", |said| said == "/detached\n");
}

/// What Docker reads on the host: of whom it is differs, see docs/docker.md.
fn figures(docker: &Docker, id: &str, way: Way) {
    let listed = docker.ok(&["top", "life"]);
    let program = if way == Way::Name { "qemu-system" } else { "kata-runtime" };
    assert!(listed.contains(id) && listed.contains(program), "{listed}");
    let figures = docker.ok(&["stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", "life"]);
    let (processes, memory) = figures.split_once(' ').expect("two words");
    let processes: u32 = processes.parse().unwrap_or_else(|_| panic!("{figures}"));
    match way {
        // docker-init, sh and sleep.
        Way::Name => assert!((2..10).contains(&processes) && !memory.contains("GiB /"), "{figures}"),
        // QEMU's, the server's, and the stand-in.
        Way::Path { .. } => assert!((5..100).contains(&processes) && memory.contains("MiB /"), "{figures}"),
    }
}

pub fn terminals(docker: &Docker, _way: Way) {
    let size = "until stty size | grep -q '30 100'; do sleep 0.1; done";
    let command = docker
        .run_command("--rm -it --network none", &format!("{size}; tty; read line; echo \"<$line>\"; exit 4"));
    let mut terminal = Terminal::start(command, 100, 30);
    terminal.expect("/dev/pts/0");
    terminal.write("typed\n");
    terminal.expect("<typed>");
    assert_eq!(ended(&mut terminal.child), Some(4));

    // Attached without a terminal of its own; what it has said comes before its end.
    let script = "read line; echo \"<$line>\"; read line; exit 5";
    let id = docker.start_container("typist", "-i --network none", script);
    let exec = docker.command(&["exec", "-it", "typist", "sh", "-c", &format!("{size}; {script}")]);
    for command in [exec, docker.command(&["attach", "typist"])] {
        let mut terminal = Terminal::start(command, 100, 30);
        terminal.write("more\n");
        terminal.expect("<more>");
        terminal.write("end\n");
        assert_eq!(ended(&mut terminal.child), Some(5));
    }
    docker.remove(&[id]);
}

pub fn logs(docker: &Docker, _way: Way) {
    // What is written last is there, too.
    let options = "--name logs --network none --log-driver local";
    let ran = finish(docker.run_command(options, "seq 20000; echo err >&2"), b"");
    let is_whole = |text: String| text.lines().eq((1..=20000).map(|n| n.to_string()));
    assert!(is_whole(ran.text()), "{} bytes", ran.text().len());
    let logs = docker.docker(&["logs", "logs"]);
    assert!(is_whole(logs.text()), "{} bytes", logs.text().len());
    assert_eq!((ran.stderr.as_str(), logs.stderr.as_str()), ("err\n", "err\n"));
    docker.ok(&["rm", "logs"]);
}

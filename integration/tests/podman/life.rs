//! The life of a container, and what is done to it.

use std::process::Stdio;

use integration::{podman::Podman, terminal::Terminal};

use crate::REST;

pub fn life(podman: &Podman) {
    let ran = podman.run("--network none", "echo out; echo err >&2; exit 3");
    assert_eq!((ran.code, ran.text().as_str()), (3, "out\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("err"), "{}", ran.stderr);
    let id = podman.start_container("life", "--hostname here --init", REST);
    let (host, guest) =
        (podman.outside("uname -r").text(), podman.inside("life", "uname -r; cat /proc/1/comm"));
    let (kernel, init) = guest.split_once('\n').expect("two lines");
    assert_ne!(kernel, host.trim_end());
    assert!(init != "sh", "{guest}");
    assert_eq!(podman.inside("life", "hostname; echo from exec"), "here\nfrom exec");
    assert_eq!(podman.podman(&["exec", "life", "sh", "-c", "exit 7"]).code, 7);
    podman.wait_for("the log", || podman.ok(&["logs", "life"]) == "began");
    podman.ok(&["stop", "--time", "60", "life"]);
    assert_eq!(
        podman.ok(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "life"]),
        "exited 9"
    );
    podman.ok(&["rm", "life"]);
    podman.assert_gone(&id);
}

pub fn pause_and_restart(podman: &Podman) {
    let id = podman.start_container("moods", "--network none --health-cmd true --health-interval 0", REST);
    let status = || podman.ok(&["inspect", "--format", "{{.State.Status}}", "moods"]);
    podman.ok(&["pause", "moods"]);
    assert_eq!(status(), "paused");
    podman.ok(&["unpause", "moods"]);
    assert_eq!(status(), "running");
    podman.ok(&["healthcheck", "run", "moods"]);
    podman.inside("moods", "touch /stays");
    podman.wait_for("the trap", || podman.ok(&["logs", "moods"]) == "began");
    podman.ok(&["restart", "--time", "60", "moods"]);
    assert_eq!(podman.inside("moods", "ls /stays"), "/stays");
    podman.wait_for("the trap", || podman.ok(&["logs", "moods"]).ends_with("began\nbegan"));
    podman.ok(&["stop", "--time", "60", "moods"]);
    assert_eq!(podman.ok(&["wait", "moods"]), "9");
    podman.ok(&["rm", "moods"]);
    podman.assert_gone(&id);
}

pub fn terminals(podman: &Podman) {
    let command = podman.run_command("--rm -it --network none", "tty; read line; echo \"<$line>\"; exit 4");
    let mut terminal = Terminal::start(command, 100, 30);
    terminal.expect("/dev/pts/0");
    terminal.write("typed\n");
    terminal.expect("<typed>");
    assert_eq!(integration::oci_cli::ended(&mut terminal.child), Some(4));

    let id = podman.start_container("typist", "--network none", REST);
    let command =
        podman.command(&["exec", "-it", "typist", "sh", "-c", "read line; echo \"<$line>\"; exit 5"]);
    let mut terminal = Terminal::start(command, 100, 30);
    terminal.write("more\n");
    terminal.expect("<more>");
    assert_eq!(integration::oci_cli::ended(&mut terminal.child), Some(5));
    podman.ok(&["rm", "--force", "--time", "0", "typist"]);
    podman.assert_gone(&id);
}

pub fn attach_wait_kill(podman: &Podman) {
    let id = podman.start_container("typist", "-it --network none", "read line; echo \"<$line>\"; exit 4");
    let mut terminal = Terminal::start(podman.command(&["attach", "typist"]), 100, 30);
    terminal.write("typed\n");
    terminal.expect("<typed>");
    integration::oci_cli::ended(&mut terminal.child);
    assert_eq!(podman.ok(&["wait", "typist"]), "4");
    podman.ok(&["rm", "typist"]);
    podman.assert_gone(&id);

    let script = format!("trap 'echo hung up' HUP; {REST}");
    let id = podman.start_container("waited", "--network none", &script);
    podman.wait_for("the traps", || podman.ok(&["logs", "waited"]) == "began");
    podman.ok(&["kill", "--signal", "HUP", "waited"]);
    podman.wait_for("the signal", || podman.ok(&["logs", "waited"]) == "began\nhung up");
    let waiting = podman.command(&["wait", "waited"]).stdout(Stdio::piped()).spawn().expect("start podman");
    podman.ok(&["kill", "--signal", "TERM", "waited"]);
    let waited = waiting.wait_with_output().expect("wait for podman");
    assert_eq!(String::from_utf8_lossy(&waited.stdout), "9\n");
    podman.ok(&["rm", "waited"]);
    podman.assert_gone(&id);
}

/// What is told of a container: of the group on the host, and nothing of the host's processes.
pub fn what_is_seen(podman: &Podman) {
    let id = podman.start_container("seen", "--network none", REST);
    let stats = podman.ok(&["stats", "--no-stream", "--format", "{{.MemUsageBytes}} {{.PIDs}}", "seen"]);
    assert!(stats.contains("MiB / ") && !stats.ends_with(" 0"), "{stats}");
    assert_eq!(podman.ok(&["top", "seen"]).lines().count(), 1, "the heading");
    let by_ps = podman.podman(&["top", "seen", "-ef"]).text();
    assert!(!by_ps.contains("conmon"), "{by_ps}");
    assert!(podman.ok(&["ps", "--sync", "--format", "{{.Names}} {{.Status}}"]).starts_with("seen Up "));
    podman.ok(&["rm", "--force", "--time", "0", "seen"]);
    podman.assert_gone(&id);
    let told =
        podman.ok(&["events", "--stream=false", "--filter", "container=seen", "--format", "{{.Status}}"]);
    assert!(told.starts_with("create\ninit\nstart\n") && told.contains("died\nremove"), "{told}");
}

//! A real Podman over `kata-runtime`: a container's life, what it is given, what is done to it, its network.

use integration::{environment::Environment, podman::Podman, terminal::Terminal};

const REST: &str = "trap 'exit 9' TERM; echo began; while :; do sleep 1 & wait $!; done";
const SERVE: &str = "mkdir -p /tmp/www && echo served >/tmp/www/name && exec httpd -f -p 80 -h /tmp/www";
/// What the server at that address and port says.
const FETCH: &str = "printf 'GET /name HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 5 ADDRESS | tail -n 1";

type Scenario = (&'static str, fn(&Podman));

const ALL: [Scenario; 8] = [
    ("life", life),
    ("files", files),
    ("limits and rights", limits_and_rights),
    ("pause and restart", pause_and_restart),
    ("terminals", terminals),
    ("network", network),
    ("shared namespaces", shared_namespaces),
    ("pods", pods),
];

#[test]
fn podman_runs_containers_in_vms() {
    let Some(env) = Environment::find() else { return };
    let Some(podman) = Podman::start(&env) else { return };
    for (name, scenario) in ALL {
        let began = std::time::Instant::now();
        scenario(&podman);
        eprintln!("podman, {name}: {:.1?}", began.elapsed());
    }
    assert_eq!(podman.ok(&["ps", "-aq"]), "");
}

fn life(podman: &Podman) {
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

/// What is copied goes into the container, not to the host.
fn files(podman: &Podman) {
    let shared = podman.path().join("shared");
    std::fs::create_dir(&shared).expect("make a folder");
    std::fs::write(shared.join("file"), "of the host").expect("write a file");
    let options =
        format!("--network none --read-only --tmpfs /scratch:size=1m -v {}:/data", shared.display());
    let id = podman.start_container("fixed", &options, REST);
    assert_eq!(
        podman.inside("fixed", "touch /x 2>/dev/null || touch /data/x /tmp/x /scratch/x && echo fixed"),
        "fixed"
    );
    let refused = podman.podman(&["exec", "fixed", "touch", "/x"]);
    assert!(refused.stderr.contains("Read-only file system"), "{}", refused.stderr);
    podman.ok(&["rm", "--force", "--time", "0", "fixed"]);
    podman.assert_gone(&id);

    let options = format!("--network none -v {}:/data", shared.display());
    let id = podman.start_container("files", &options, REST);
    assert_eq!(podman.inside("files", "cat /data/file; echo back >/data/new"), "of the host");
    assert_eq!(std::fs::read_to_string(shared.join("new")).expect("read a file"), "back\n");

    let name = format!("/tmp/copied-{id}");
    let from = shared.join("file").display().to_string();
    podman.ok(&["cp", &from, &format!("files:{name}")]);
    let is_on_the_host = podman.outside(&format!("ls {name}")).code == 0;
    assert!(!is_on_the_host, "{name}");
    assert_eq!(podman.inside("files", &format!("cat {name}; echo made >/made")), "of the host");
    let to = shared.join("made");
    podman.ok(&["cp", "files:/made", &to.display().to_string()]);
    assert_eq!(std::fs::read_to_string(to).expect("read a file"), "made\n");
    podman.ok(&["rm", "--force", "--time", "0", "files"]);
    podman.assert_gone(&id);
}

fn limits_and_rights(podman: &Podman) {
    let options =
        "--network none --memory 256m --cpus 1 --pids-limit 50 --cap-drop all --cap-add NET_BIND_SERVICE";
    let id = podman.start_container("limits", options, REST);
    let seen = podman.ok(&[
        "exec",
        "--user",
        "1000:7",
        "limits",
        "sh",
        "-c",
        "id -u; id -g; grep CapBnd /proc/1/status",
    ]);
    assert_eq!(seen, "1000\n7\nCapBnd:\t0000000000000400");
    let limits = "cd /sys/fs/cgroup && cat memory.max cpu.max pids.max";
    assert_eq!(podman.inside("limits", limits), "268435456\n100000 100000\n50");
    podman.ok(&["update", "--memory", "300m", "limits"]);
    assert_eq!(podman.inside("limits", "cat /sys/fs/cgroup/memory.max"), "314572800");
    podman.ok(&["rm", "--force", "--time", "0", "limits"]);
    podman.assert_gone(&id);
}

fn pause_and_restart(podman: &Podman) {
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

fn terminals(podman: &Podman) {
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

/// By the default bridge, with a published port.
fn network(podman: &Podman) {
    let id = podman.start_container("server", "-p 8081:80", SERVE);
    let address = podman.ok(&["inspect", "--format", "{{.NetworkSettings.IPAddress}}", "server"]);
    assert!(address.starts_with("10.208.0."), "{address}");
    assert!(podman.inside("server", "ip -o -4 addr show eth0").contains(&address));
    let fetch = |at: &str| FETCH.replace("ADDRESS", at);
    for at in ["127.0.0.1 8081", "10.208.0.1 8081", &format!("{address} 80")] {
        podman.wait_for(at, || podman.outside(&fetch(at)).text() == "served\n");
    }
    podman.ok(&["rm", "--force", "--time", "0", "server"]);
    podman.assert_gone(&id);
    assert_eq!(podman.outside(&fetch("127.0.0.1 8081")).text(), "");
}

/// One container in the namespaces of another, which is in its VM.
fn shared_namespaces(podman: &Podman) {
    let boot = "cat /proc/sys/kernel/random/boot_id";
    let first = podman.start_container("host", "-p 8081:80", SERVE);
    let (address, host) = (podman.inside("host", "hostname -i"), podman.inside("host", boot));
    let joins = "--network container:host --pid container:host --ipc container:host";
    let second = podman.start_container("guest", joins, REST);
    assert_eq!(podman.inside("guest", boot), host);
    assert_eq!(podman.inside("guest", &FETCH.replace("ADDRESS", "127.0.0.1 80")), "served");
    assert!(podman.inside("guest", "hostname -i; ps").contains(&address));
    assert!(podman.inside("guest", "ps").contains("httpd"));
    podman.ok(&["rm", "--force", "--time", "0", "guest"]);
    assert_eq!(podman.inside("host", boot), host);
    podman.ok(&["rm", "--force", "--time", "0", "host"]);
    podman.assert_gone(&first);
    podman.assert_gone(&second);
}

fn pods(podman: &Podman) {
    podman.ok(&["pod", "create", "--name", "pod", "--share", "net,ipc,uts,pid", "-p", "8082:80"]);
    let first = podman.start_container("one", "--pod pod", SERVE);
    let second = podman.start_container("two", "--pod pod", REST);
    assert_eq!(podman.inside("two", &FETCH.replace("ADDRESS", "127.0.0.1 80")), "served");
    assert!(podman.inside("two", "ps").contains("httpd"));
    assert_eq!(podman.inside("one", "hostname"), "pod");
    let fetch = FETCH.replace("ADDRESS", "127.0.0.1 8082");
    podman.wait_for("the pod's port", || podman.outside(&fetch).text() == "served\n");
    podman.ok(&["pod", "restart", "pod"]);
    podman.wait_for("the port of the pod that was started again", || {
        podman.outside(&fetch).text() == "served\n"
    });
    podman.ok(&["pod", "stop", "--time", "5", "pod"]);
    podman.ok(&["pod", "rm", "pod"]);
    podman.assert_gone(&first);
    podman.assert_gone(&second);
}

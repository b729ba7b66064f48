//! `kata-runtime` as CRI-O runs it with `runtime_type = "oci"`, beside runc: by the same conmon, its flags, pipes and sockets;
//! network, IPC and host name in namespaces that CRI-O keeps in files; the pod's first container kept, as CRI-O does for
//! handlers with `kata` in their names.

mod conmon;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use conmon::{Answer, Engine};
use integration::oci_cli::{Cli, Whose, eventually};
use nix::mount::{MntFlags, umount2};
use serde_json::{Value, json};

/// Ends when its terminal has this size.
const SIZED: &str = "read x; until [ \"$(stty size)\" = '30 70' ]; do sleep 0.1; done; exit 2";

/// The namespaces of a pod, as `pinns` leaves them: files to be unmounted.
struct Pinned {
    files: Vec<(&'static str, PathBuf)>,
}

impl Pinned {
    fn new(dir: &Path) -> Self {
        let files = [("network", "net"), ("ipc", "ipc"), ("uts", "uts")]
            .map(|(kind, flag)| (kind, dir.join(format!("{flag}ns")), flag));
        let mut command = Command::new("unshare");
        for (_, file, flag) in &files {
            fs::write(file, "").expect("make a file");
            command.arg(format!("--{flag}={}", file.display()));
        }
        assert!(command.arg("true").status().expect("run unshare").success());
        Self { files: files.map(|(kind, file, _)| (kind, file)).into() }
    }

    /// Puts their paths into a spec.
    fn join(&self, config: &mut Value) {
        let all = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        for (kind, file) in &self.files {
            all.iter_mut().find(|one| one["type"] == *kind).expect("it is among them")["path"] = json!(file);
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        for (_, file) in &self.files {
            let _ = umount2(file, MntFlags::MNT_DETACH); // The folder's end would tell.
        }
    }
}

/// A bundle of a pod as CRI-O writes it.
fn bundle(cli: &Cli, pod: &str, name: &str, kind: &str, args: Value, pinned: &Pinned) -> PathBuf {
    cli.bundle(name, "", |config| {
        pinned.join(config);
        config["process"]["args"] = args;
        config["hostname"] = json!("a-pod");
        config["annotations"] = json!({
            "io.kubernetes.cri-o.ContainerType": kind, "io.kubernetes.cri-o.SandboxID": cli.id(pod),
            "io.kubernetes.cri-o.ContainerID": cli.id(name), "io.kubernetes.cri-o.Name": name,
            "io.container.manager": "cri-o",
        });
        config["linux"]["cgroupsPath"] = json!(format!("/crio-{}", cli.id(name)));
    })
}

/// The file of a process that is added, made of the container's own.
fn process(bundle: &Path, args: Value, terminal: bool) -> PathBuf {
    let config = fs::read(bundle.join("config.json")).expect("read the bundle");
    let mut process = serde_json::from_slice::<Value>(&config).expect("the bundle is JSON")["process"].take();
    process["args"] = args;
    process["terminal"] = json!(terminal);
    let path = bundle.join("process.json");
    fs::write(&path, process.to_string()).expect("write a process");
    path
}

#[test]
fn a_pod_is_made_used_and_taken_away() {
    for cli in Cli::both() {
        let Some(engine) = Engine::new(&cli) else { return };
        let pinned = Pinned::new(cli.path());
        let sandbox = bundle(&cli, "pod", "pod", "sandbox", json!(["/pause"]), &pinned);
        let pid = engine.create("pod", &sandbox, &[]).unwrap();
        let pod = cli.id("pod");
        assert_eq!(cli.state(&pod)["pid"], pid);
        assert_eq!(fs::read_to_string(sandbox.join("pidfile")).unwrap(), pid.to_string());
        cli.run(&["start", &pod]).good();

        let boot = "cat /proc/sys/kernel/random/boot_id";
        let script = format!(
            "trap 'exit 7' TERM; hostname; {boot}; echo err >&2; read line; echo got $line; while true; do sleep 0.1; done"
        );
        let inside = bundle(&cli, "pod", "one", "container", json!(["sh", "-c", script]), &pinned);
        let pid = engine.create("one", &inside, &["-i", "--leave-stdin-open"]).unwrap();
        let one = cli.id("one");
        assert_eq!(cli.status(&one), "created");
        // CRI-O takes a container for alive by this.
        assert!(Path::new(&format!("/proc/{pid}/stat")).exists());
        cli.run(&["start", &one]).good();
        let is_all_there = |log: &str| log.contains("stderr F err\n") && log.matches("stdout F").count() == 2;
        assert!(eventually(|| is_all_there(&engine.logged("one"))), "{:?}", cli.whose);
        let host = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let log = engine.logged("one");
        assert!(log.contains("stdout F a-pod\n"), "{:?}: {log}", cli.whose);
        assert_eq!(log.contains(host.trim()), cli.whose == Whose::Runc, "{log}");

        let client = engine.attach("one");
        client.say("this\n");
        assert_eq!(client.hear(), "got this\n");
        assert!(eventually(|| engine.logged("one").contains("stdout F got this\n")));

        // Logs are moved away, and conmon is told to begin a new one.
        fs::rename(engine.log("one"), engine.log("one.old")).unwrap();
        engine.control(&inside, "2 0 0\n");
        assert!(eventually(|| engine.log("one").exists()));

        commands(&engine, &inside);
        limits(&cli, &one);
        cli.run(&["pause", &one]).good();
        assert_eq!(cli.status(&one), "paused");
        cli.run(&["resume", &one]).good();

        cli.run(&["kill", &one, "TERM"]).good();
        assert_eq!(engine.exit(&one), "7");
        cli.run(&["delete", "--force", &one]).good();
        assert_eq!(cli.status(&pod), "running");
        again(&engine, &pinned);
        lacks_memory(&engine, &pinned);
        shared_processes(&engine, &pinned);

        cli.run(&["kill", &pod, "KILL"]).good();
        assert_eq!(engine.exit(&pod), "137");
        cli.run(&["delete", "--force", &pod]).good();
        // Whom nobody knows any more is gone: CRI-O asks for it all the same.
        cli.run(&["delete", "--force", &pod]).good();
        cli.assert_clean();
    }
}

/// Added processes: by conmon, whose answer is waited for, and in the foreground.
fn commands(engine: &Engine<'_>, bundle: &Path) {
    let (cli, whose) = (engine.cli, engine.cli.whose);
    let script = |script: &str| process(bundle, json!(["sh", "-c", script]), false);
    let answer = engine.exec("one", &script("echo out; echo err >&2; exit 3"), &[]);
    assert_eq!(answer, Answer { code: 3, output: "out\n".into(), error: "err\n".into() }, "{whose:?}");
    let answer = engine.exec("one", &script("exec sleep 1000"), &["-T", "1"]);
    assert_eq!((answer.code, answer.error.as_str()), (-1, "command timed out"), "{whose:?}");
    assert!(eventually(|| !cli.run(&["exec", &cli.id("one"), "ps"]).good().contains("sleep 1000")));
    let answer = engine.exec("one", &process(bundle, json!(["no-such-program"]), false), &[]);
    assert!(answer.code == -1 && answer.error.contains("no-such-program"), "{whose:?}: {answer:?}");

    let file = script("cat; exit 4").display().to_string();
    let mut command = cli.command(&["exec", "--process", &file, &cli.id("one")]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"through\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout), (Some(4), b"through\n".to_vec()), "{whose:?}");
}

/// Resources of a pod that is resized in place: from standard input.
fn limits(cli: &Cli, id: &str) {
    let mut command = cli.command(&["update", "--resources", "-", id]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let resources = json!({"pids": {"limit": 55}, "memory": {"limit": 134_217_728}});
    child.stdin.take().unwrap().write_all(resources.to_string().as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    let stats: Value = serde_json::from_str(&cli.run(&["events", "--stats", id]).good()).unwrap();
    assert_eq!(stats["data"]["pids"]["limit"], 55, "{:?}", cli.whose);
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], 134_217_728, "{:?}", cli.whose);
}

/// A container in the process namespace of the pod's first one, as `shareProcessNamespace` has it.
fn shared_processes(engine: &Engine<'_>, pinned: &Pinned) {
    let cli = engine.cli;
    let script = json!(["sh", "-c", "[ $$ != 1 ] && echo not the first; hostname"]);
    let inside = bundle(cli, "pod", "shared", "container", script, pinned);
    let path = inside.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let all = config["linux"]["namespaces"].as_array_mut().unwrap();
    let own = all.iter_mut().find(|one| one["type"] == "pid").unwrap();
    own["path"] = json!(format!("/proc/{}/ns/pid", cli.state(&cli.id("pod"))["pid"]));
    fs::write(path, config.to_string()).unwrap();
    engine.create("shared", &inside, &[]).unwrap();
    cli.run(&["start", &cli.id("shared")]).good();
    assert_eq!(engine.exit(&cli.id("shared")), "0", "{:?}", cli.whose);
    let log = engine.logged("shared");
    assert_eq!(log, "stdout F not the first\nstdout F a-pod\n", "{:?}", cli.whose);
    cli.run(&["delete", "--force", &cli.id("shared")]).good();
}

/// A container that is killed for want of memory, which CRI-O learns from a file of conmon's.
fn lacks_memory(engine: &Engine<'_>, pinned: &Pinned) {
    let cli = engine.cli;
    let inside = bundle(cli, "pod", "greedy", "container", json!(["tail", "/dev/zero"]), pinned);
    let path = inside.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["linux"]["resources"] = json!({"memory": {"limit": 64 << 20, "swap": 64 << 20}});
    fs::write(path, config.to_string()).unwrap();
    engine.create("greedy", &inside, &[]).unwrap();
    cli.run(&["start", &cli.id("greedy")]).good();
    assert_eq!(engine.exit(&cli.id("greedy")), "137", "{:?}", cli.whose);
    assert!(eventually(|| inside.join("oom").exists()), "{:?}", cli.whose);
    cli.run(&["delete", "--force", &cli.id("greedy")]).good();
}

/// A container that ends by itself and is made again, one with a terminal, and one that cannot be made.
fn again(engine: &Engine<'_>, pinned: &Pinned) {
    let cli = engine.cli;
    for round in 0..2 {
        let name = format!("restarted{round}");
        let inside = bundle(cli, "pod", &name, "container", json!(["sh", "-c", "hostname; exit 9"]), pinned);
        engine.create(&name, &inside, &[]).unwrap();
        cli.run(&["start", &cli.id(&name)]).good();
        assert_eq!(engine.exit(&cli.id(&name)), "9", "{:?}", cli.whose);
        assert_eq!(engine.logged(&name), "stdout F a-pod\n", "{:?}", cli.whose);
        cli.run(&["delete", "--force", &cli.id(&name)]).good();
    }
    let inside = bundle(cli, "pod", "tty", "container", json!(["sh", "-c", SIZED]), pinned);
    let path = inside.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["process"]["terminal"] = json!(true);
    fs::write(path, config.to_string()).unwrap();
    engine.create("tty", &inside, &["-t"]).unwrap();
    cli.run(&["start", &cli.id("tty")]).good();
    engine.control(&inside, "1 30 70\n");
    let client = engine.attach("tty");
    client.say("\n");
    assert_eq!(engine.exit(&cli.id("tty")), "2");
    cli.run(&["delete", "--force", &cli.id("tty")]).good();

    let inside = bundle(cli, "pod", "bad", "container", json!(["no-such-program"]), pinned);
    let words = engine.create("bad", &inside, &[]).unwrap_err();
    assert!(words.contains("no-such-program"), "{:?}: {words}", cli.whose);
    if cli.whose == Whose::Ours {
        let inside = bundle(cli, "dropped", "alone", "container", json!(["true"]), pinned);
        let words = engine.create("alone", &inside, &[]).unwrap_err();
        assert!(words.contains("no container of sandbox") && words.contains("drop_infra_ctr"), "{words}");
    }
    cli.run(&["delete", "--force", &cli.id("bad")]).good();
}

//! What is told when something dies: in containerd's log, by `kata-runtime logs`, and to whoever asks for a dead sandbox.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use integration::{
    cgroups::of_helpers,
    containerd::{Containerd, Finished, Runtime, finish},
    environment::Environment,
    place::unique,
    terminal::Terminal,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

struct World {
    env: Environment,
    containerd: Containerd,
    kata: Runtime,
}

impl World {
    fn open() -> Option<Self> {
        let env = Environment::find()?;
        let kata = Runtime::Kata(env.configuration());
        Some(Self { containerd: Containerd::start(&env, None), env, kata })
    }

    /// Starts a container of that name, which goes on.
    fn start(&self, options: &[&str], id: &str) {
        self.containerd.run_detached(&self.kata, options, id, &["sleep", "1000"]);
    }

    fn kata_runtime(&self, words: &[&str]) -> Finished {
        let mut command = Command::new(self.env.programs().join("kata-runtime"));
        command.args(words);
        finish(command, b"")
    }

    fn logs(&self, id: &str) -> String {
        let logs = self.kata_runtime(&["logs", id]);
        assert_eq!(logs.code, 0, "{}\n{}", logs.stderr, self.containerd.log());
        logs.text()
    }

    /// Does not wait for its end: it may be the guest's.
    fn type_into(&self, id: &str, script: &str) {
        let name = format!("e{}", unique());
        let mut command =
            self.containerd.command(self.containerd.exec_args(id, &name, &["sh", "-c", script]));
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::spawn(move || child.wait());
    }

    fn until_it_ends(&self, id: &str) {
        let state = || self.containerd.ctr(["task", "ls"]).text();
        let ended =
            || state().lines().any(|line| line.starts_with(&format!("{id} ")) && line.contains("STOPPED"));
        wait_for("the end of the container", ended, || self.containerd.log());
    }

    /// The one line of level error that says what died. A log goes through a pipe, and may be behind.
    fn told(&self, id: &str) -> String {
        let name = format!("sandbox={id}");
        let told = || {
            let log = self.containerd.log_of_all();
            let lines =
                log.lines().filter(|line| line.contains("the VM ended by itself") && line.contains(&name));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        wait_for("the line that tells", || !told().is_empty(), || self.containerd.log());
        let lines = told();
        assert!(lines.len() == 1 && lines[0].contains("level=error"), "{lines:#?}");
        lines[0].clone()
    }
}

fn wait_for(what: &str, mut fact: impl FnMut() -> bool, explain: impl Fn() -> String) {
    let began = Instant::now();
    while !fact() {
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}\n{}", explain());
        thread::sleep(Duration::from_millis(50));
    }
}

fn record(id: &str) -> Value {
    let text = fs::read_to_string(format!("/run/vc/sbs/{id}/persist.json")).expect("read the record");
    serde_json::from_str(&text).expect("the record is JSON")
}

fn end(pid: &Value, signal: Signal) {
    let pid = pid.as_u64().expect("a pid") as i32;
    assert!(pid > 1, "{pid}");
    kill(Pid::from_raw(pid), signal).expect("it runs");
}

#[test]
fn a_guests_panic_is_told_with_its_words() {
    let Some(world) = World::open() else { return };
    let (pod, member) = (format!("panics{}", unique()), format!("member{}", unique()));
    world.start(&["--annotation", "io.kubernetes.cri.container-type=sandbox"], &pod);
    let of = format!("io.kubernetes.cri.sandbox-id={pod}");
    let options = [
        "--privileged",
        "--memory-limit",
        "67108864",
        "--annotation",
        "io.kubernetes.cri.container-type=container",
        "--annotation",
        &of,
    ];
    world.start(&options, &member);

    // While it lives: what it says is kept, even of a long time ago, and cleaned.
    let speak = "echo on > /proc/sys/kernel/printk_devkmsg; for i in $(seq 100); do echo \"<2>word $i\"; done > /dev/kmsg; printf '<2>red \\033[31malert\\n' > /dev/kmsg";
    world.type_into(&member, speak);
    let alive = || world.logs(&member);
    wait_for("its words", || alive().contains("alert"), alive);
    let logs = alive();
    assert!(logs.contains(&format!("sandbox {pod}, containers {member}, {pod}")), "{logs}");
    assert!(logs.contains("it runs") && logs.contains("word 100\n") && !logs.contains("word 1\n"), "{logs}");
    assert!(!logs.contains('\x1b'), "{logs:?}");

    world.type_into(
        &member,
        "echo 2 > /proc/sys/vm/panic_on_oom; dd if=/dev/zero of=/dev/null bs=128M count=1",
    );
    world.until_it_ends(&pod);
    let told = world.told(&pod);
    assert!(
        told.contains("Kernel panic - not syncing: Out of memory: compulsory panic_on_oom is enabled"),
        "{told}"
    );
    assert!(told.contains(&format!("containers={member},{pod}")), "{told}");
    let words = || {
        let log = world.containerd.log_of_all();
        log.lines()
            .filter(|line| line.contains(&format!("msg=\"last words\" sandbox={pod} by=console")))
            .count()
    };
    wait_for("the last words", || words() >= 10, || world.containerd.log());
    assert!(words() <= 64, "{} lines", words());

    // The sandbox is there until its containers are taken away, and what is asked of it says what became of it.
    let exec = world.containerd.ctr(world.containerd.exec_args(&pod, "late", &["true"]));
    assert_ne!(exec.code, 0);
    let dead = world.logs(&pod);
    assert!(dead.contains("compulsory panic_on_oom") && dead.contains("console said last:"), "{dead}");
    world.containerd.remove(&member);
    world.containerd.remove(&pod);
    world.containerd.assert_gone(&pod);

    // Nothing of it is there any more but the report, under either name.
    for id in [&pod, &member] {
        let logs = world.logs(id);
        assert!(
            logs.contains(&format!("sandbox {pod}")) && logs.contains("compulsory panic_on_oom"),
            "{logs}"
        );
    }
    let list = world.kata_runtime(&["logs"]).text();
    assert!(list.lines().any(|line| line.contains(&pod) && line.contains("panic")), "{list}");
}

#[test]
fn who_died_and_how_is_told_whichever_it_is() {
    let Some(world) = World::open() else { return };
    let cases: [(&str, &str, Signal, &[&str]); 3] = [
        ("killed", "/HypervisorState/Pid", Signal::SIGKILL, &["qemu ended: signal: 9 (SIGKILL)"]),
        (
            "told",
            "/HypervisorState/Pid",
            Signal::SIGTERM,
            &["qemu was told to end by a signal", "qemu ended: exit status: 0"],
        ),
        (
            "share",
            "/HypervisorState/VirtiofsDaemonPid",
            Signal::SIGKILL,
            &["virtiofsd ended: signal: 9 (SIGKILL)"],
        ),
    ];
    for (name, pid, signal, words) in cases {
        let id = format!("{name}{}", unique());
        world.start(&[], &id);
        end(record(&id).pointer(pid).expect("it is recorded"), signal);
        world.until_it_ends(&id);
        let told = world.told(&id);
        world.containerd.remove(&id);
        world.containerd.assert_gone(&id);
        let logs = world.logs(&id);
        for word in words {
            assert!(told.contains(word) && logs.contains(word), "{name}: {told}\n{logs}");
        }
    }
}

#[test]
fn a_shim_that_is_killed_is_told_by_the_one_who_cleans_up() {
    let Some(world) = World::open() else { return };
    let id = format!("orphan{}", unique());
    world.start(&[], &id);
    let owner = record(&id)["kata_rs"]["owner"]["pid"].clone();
    // Whoever is among its helpers, and whether anybody wrote down who that is, goes with them.
    let (group, maker) = of_helpers(&id).pop().expect("helpers have a group");
    assert_eq!(Some(u64::from(maker)), owner.as_u64());
    let inside = fs::read_to_string(group.join("cgroup.procs")).expect("read the group's processes");
    assert!(inside.lines().count() >= 2, "QEMU and virtiofsd: {inside}");
    let mut stray = Command::new("sleep").arg("1000").spawn().expect("run sleep");
    fs::write(group.join("cgroup.procs"), stray.id().to_string()).expect("put it there");
    end(&owner, Signal::SIGKILL);
    let cleaned = || !Path::new("/run/vc/sbs").join(&id).exists();
    wait_for("the clean-up", cleaned, || world.containerd.log());
    let logs = world.logs(&id);
    assert_eq!(stray.wait().expect("it has ended").signal(), Some(9));
    assert!(logs.contains(&format!("its owner, process {owner}, ended without taking it down")), "{logs}");
    world.containerd.remove(&id);
    world.containerd.assert_gone(&id);
}

#[test]
fn a_start_that_fails_leaves_what_was_said() {
    let Some(world) = World::open() else { return };
    let id = format!("unborn{}", unique());
    // A guest that finds no agent panics.
    let params = "kernel_params = \"rdinit=/nonexistent init=/nonexistent\"".to_owned();
    let config = world.env.configuration_with(world.containerd.dir(), "unborn", &[("kernel_params", params)]);
    let ran = world.containerd.run(&Runtime::Kata(config), &[], &id, &["true"], b"");
    assert!(ran.code != 0 && ran.stderr.contains("Kernel panic"), "{}", ran.stderr);
    world.containerd.assert_gone(&id);
    let logs = world.logs(&id);
    assert!(logs.contains("it did not start: ") && logs.contains("Kernel panic"), "{logs}");
}

#[test]
fn who_is_unknown_has_no_logs_and_no_console() {
    let Some(world) = World::open() else { return };
    for (words, text) in [
        (["logs", "nobody-there"], "no such sandbox or container"),
        (["console", "nobody-there"], "no such sandbox or container"),
        (["logs", "../../etc"], "invalid container ID format"),
    ] {
        let refused = world.kata_runtime(&words);
        assert!(refused.code == 1 && refused.stderr.contains(text), "{}", refused.stderr);
    }
    let id = format!("closed{}", unique());
    world.start(&[], &id);
    let refused = world.kata_runtime(&["console", &id]);
    assert_eq!(refused.code, 1, "{}", refused.text());
    assert!(
        refused.stderr.contains("set debug_console_enabled = true in [agent.kata] of /"),
        "{}",
        refused.stderr
    );
    world.containerd.remove(&id);
}

/// The guest's initrd with a shell in it: the kernel unpacks one archive after the other.
fn initrd_with_shell(world: &World) -> PathBuf {
    let mut bytes = fs::read(world.env.setting("hypervisor.qemu.initrd")).expect("read the initrd");
    let shell = fs::read("/bin/busybox").expect("busybox is there");
    for (name, mode, data) in [("bin/sh", 0o100755, &shell[..]), ("TRAILER!!!", 0, &[])] {
        let pad = |bytes: &mut Vec<u8>| bytes.resize(bytes.len().next_multiple_of(4), 0);
        pad(&mut bytes);
        let length = data.len() as u32;
        bytes.extend(b"070701");
        for field in [1, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name.len() as u32 + 1, 0] {
            bytes.extend(format!("{field:08x}").as_bytes());
        }
        bytes.extend(name.as_bytes());
        bytes.push(0);
        pad(&mut bytes);
        bytes.extend(data);
    }
    pad_to(&mut bytes, 512);
    let path = world.containerd.dir().join("with-shell.cpio");
    fs::write(&path, bytes).expect("write the initrd");
    path
}

fn pad_to(bytes: &mut Vec<u8>, size: usize) {
    bytes.resize(bytes.len().next_multiple_of(size), 0);
}

#[test]
fn a_console_is_a_shell_beside_the_containers() {
    let Some(world) = World::open() else { return };
    let own = |world: &World, name: &str, initrd: Option<&Path>| {
        let templates = world.containerd.dir().join(format!("templates-{name}"));
        let mut changes = vec![
            ("debug_console_enabled", "debug_console_enabled = true".to_owned()),
            ("template_path", format!("template_path = {templates:?}")),
        ];
        changes.extend(initrd.map(|path| ("hypervisor.qemu.initrd", format!("initrd = {path:?}"))));
        Runtime::Kata(world.env.configuration_with(world.containerd.dir(), name, &changes))
    };
    let initrd = initrd_with_shell(&world);
    let id = format!("console{}", unique());
    world.containerd.run_detached(&own(&world, "with", Some(&initrd)), &[], &id, &["sleep", "1000"]);

    // By pipe.
    let mut command = Command::new(world.env.programs().join("kata-runtime"));
    command.args(["console", &id]);
    let finished = finish(command, b"cat /proc/1/comm; echo $((6 * 7)); ls -d /run/kata-containers/shared\n");
    let text = finished.text();
    assert!(finished.code == 0 && text.contains("\n42\n"), "{text}{}", finished.stderr);
    assert!(text.contains("\n/run/kata-containers/shared\n"), "{text}");

    // By terminal, which is given back as it was; and more than one at once.
    let terminals = [(); 2].map(|()| {
        let mut command = Command::new(world.env.programs().join("kata-runtime"));
        command.args(["console", &id]);
        Terminal::start(command, 80, 25)
    });
    for (mut terminal, last) in terminals.into_iter().zip(["exit\n", "\x1d"]) {
        terminal.write("echo $((40 + 2))=\n");
        terminal.expect("42=");
        terminal.write(last);
        let code = terminal.child.wait().expect("it ends").code();
        assert_eq!(code, Some(0));
    }
    world.containerd.remove(&id);
    world.containerd.assert_gone(&id);

    // A guest without a shell says so.
    let id = format!("bare{}", unique());
    world.containerd.run_detached(&own(&world, "without", None), &[], &id, &["sleep", "1000"]);
    let text = world.kata_runtime(&["console", &id]).text();
    assert!(text.contains("this guest has no shell"), "{text}");
    world.containerd.remove(&id);
}

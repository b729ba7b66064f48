//! VMs that are kept ready by `kata-runtime factory serve`, under a real containerd.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use integration::{
    containerd::Runtime,
    factory::{Factory, phases},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A first standby boots a VM, makes a template and warms up a clone of it.
const READY: Duration = Duration::from_secs(120);
const GONE: Duration = Duration::from_secs(30);

/// `kata-runtime factory serve`, killed when dropped.
struct Pool {
    process: Child,
    endpoint: PathBuf,
}

impl Pool {
    fn start(factory: &Factory, runtime: &Runtime) -> Self {
        let Runtime::Kata(config) = runtime else { unreachable!("ours") };
        let log = fs::File::create(factory.containerd.dir().join("pool.log")).expect("make the pool's log");
        let process = Command::new(factory.env.programs().join("kata-runtime"))
            .arg("--config")
            .arg(config)
            .args(["factory", "serve"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("start the pool");
        Self { process, endpoint: endpoint(factory) }
    }

    /// The processes of those that are ready. One that was killed leaves its socket.
    fn ready(&self) -> Vec<u32> {
        let dir = self.endpoint.parent().expect("a folder");
        let prefix = format!("{}.", self.endpoint.file_name().expect("a name").to_string_lossy());
        let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let pids = names.filter_map(|name| name.to_string_lossy().strip_prefix(&prefix)?.parse().ok());
        pids.filter(|pid| is_alive(*pid)).collect()
    }

    #[track_caller]
    fn wait_until_full(&self, number: usize) -> Vec<u32> {
        let began = Instant::now();
        while self.ready().len() < number {
            assert!(began.elapsed() < READY, "no {number} VMs are ready: {:?}", self.ready());
            thread::sleep(Duration::from_millis(20));
        }
        self.ready()
    }

    fn signal(&mut self, signal: Signal) {
        kill(Pid::from_raw(self.process.id() as i32), signal).expect("signal the pool");
        let began = Instant::now();
        while self.process.try_wait().expect("wait for the pool").is_none() {
            assert!(began.elapsed() < GONE, "the pool does not end");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = self.process.kill(); // It may have ended.
        let _ = self.process.wait();
    }
}

fn endpoint(factory: &Factory) -> PathBuf {
    factory.containerd.dir().join("pool/cache.sock")
}

fn runtime(factory: &Factory, name: &str, changes: &[(&str, &str)]) -> Runtime {
    let socket = format!("\"{}\"", endpoint(factory).display());
    let usual = [("vm_cache_number", "2"), ("vm_cache_endpoint", socket.as_str())];
    factory.runtime(name, &[&usual[..], changes].concat())
}

/// Nothing that names a standby is left: no process, no record, no mount.
#[track_caller]
fn assert_all_gone(pids: &[u32]) {
    let began = Instant::now();
    loop {
        let left: Vec<String> = pids.iter().flat_map(|pid| remains(*pid)).collect();
        if left.is_empty() {
            return;
        }
        assert!(began.elapsed() < GONE, "left behind: {left:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn remains(pid: u32) -> Vec<String> {
    let id = format!("standby-{pid}");
    let mut left = Vec::new();
    if is_alive(pid) {
        left.push(format!("process {pid}"));
    }
    for dir in ["/run/vc/sbs", "/run/vc/vm", "/run/kata-containers/shared/sandboxes"] {
        left.extend(fs::metadata(format!("{dir}/{id}")).is_ok().then(|| format!("{dir}/{id}")));
    }
    let mounts = fs::read_to_string("/proc/self/mounts").expect("read the mounts");
    left.extend(mounts.lines().filter(|line| line.contains(&id)).map(str::to_owned));
    left
}

#[test]
fn a_start_takes_a_ready_vm_and_the_pool_is_filled_again() {
    let Some(factory) = Factory::open() else { return };
    let kata = runtime(&factory, "pool", &[]);
    let mut pool = Pool::start(&factory, &kata);
    let first = pool.wait_until_full(2);

    // Two from the pool, with what each must have of its own.
    let script = "hostname; cat /proc/sys/kernel/random/boot_id; date +%s; nproc";
    let before = std::time::SystemTime::now();
    let starts = ["one", "two"].map(|name| factory.start(&kata, name, &["sh", "-c", script]));
    let since =
        |time: std::time::SystemTime| time.duration_since(std::time::UNIX_EPOCH).expect("now").as_secs();
    let mut boot_ids = Vec::new();
    for start in &starts {
        start.assert_ended_well();
        assert_eq!(phases(&start.log, "adopt"), 1, "{}", start.log);
        let text = start.finished.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], gethostname(), "{text}");
        boot_ids.push(lines[1].to_owned());
        let date: u64 = lines[2].parse().expect("a date");
        assert!((since(before)..=since(std::time::SystemTime::now())).contains(&date), "{text}");
    }
    assert_ne!(boot_ids[0], boot_ids[1]);

    let second = pool.wait_until_full(2);
    assert_ne!(first, second, "some were used up");
    // Limits are added to a VM that runs already.
    let id = factory.id("grown");
    let options = ["--cpus", "0.5", "--memory-limit", "268435456"];
    let script = "nproc; awk '/MemTotal/ {print ($2 > 2150000)}' /proc/meminfo";
    let grown = factory.containerd.run(&kata, &options, &id, &["sh", "-c", script], b"");
    assert_eq!((grown.code, grown.text().as_str()), (0, "2\n1\n"), "{}", grown.stderr);
    factory.containerd.assert_gone(&id);
    assert_eq!(phases(&factory.log(&id), "adopt"), 1, "{}", factory.log(&id));

    // Another configuration than the pool's is not served by it.
    let other = runtime(&factory, "other", &[("kernel_params", "\"sysrq_always_enabled\"")]);
    let start = factory.good_start(&other, "other");
    assert_eq!(phases(&start.log, "adopt"), 0, "{}", start.log);

    // Nor is what annotations ask for.
    let mut last = pool.wait_until_full(2);
    let id = factory.id("annotated");
    let options = ["--annotation", "io.katacontainers.config.runtime.disable_guest_seccomp=false"];
    let annotated = factory.containerd.run(&kata, &options, &id, &["echo", "works"], b"");
    assert_eq!(annotated.text(), "works\n", "{}", annotated.stderr);
    factory.containerd.assert_gone(&id);
    assert_eq!(phases(&factory.log(&id), "adopt"), 0, "{}", factory.log(&id));
    let mut ready = pool.ready();
    last.sort_unstable();
    ready.sort_unstable();
    assert_eq!(ready, last, "all still wait");

    pool.signal(Signal::SIGTERM);
    assert_all_gone(&[first, second, last].concat());
    assert_eq!(pool.ready(), [0u32; 0]);
    // Without it, starts go on.
    let start = factory.good_start(&kata, "alone");
    assert_eq!(phases(&start.log, "adopt"), 0, "{}", start.log);
}

#[test]
fn a_killed_pool_leaves_nothing_but_the_vms_that_were_taken() {
    let Some(factory) = Factory::open() else { return };
    let kata = runtime(&factory, "pool", &[("sandbox_cgroup_only", "true")]);
    let mut pool = Pool::start(&factory, &kata);
    let first = pool.wait_until_full(2);
    let id = factory.id("taken");
    factory.containerd.run_detached(&kata, &[], &id, &["sleep", "1000"]);
    let taken: Vec<u32> = first.iter().copied().filter(|pid| !pool.ready().contains(pid)).collect();
    assert_eq!(taken.len(), 1, "{first:?}");
    // It has moved with all that serves it to where the engine wants it.
    let found = members(&factory, &id).expect("the group is there");
    assert!(found.contains(&taken[0]) && found.len() >= 3, "{found:?}, the shim is {taken:?}");
    let second = pool.wait_until_full(2);
    // One of those that wait is killed, and what it leaves is nobody's.
    kill(Pid::from_raw(second[0] as i32), Signal::SIGKILL).expect("kill a standby");
    pool.signal(Signal::SIGKILL);
    assert_all_gone(&second[1..]);

    let exec = factory.containerd.exec_args(&id, "e", &["echo", "alive"]);
    let alive = integration::containerd::finish(factory.containerd.command(exec), b"");
    assert_eq!(alive.text(), "alive\n", "{}", alive.stderr);
    factory.containerd.remove(&id);
    factory.containerd.assert_gone(&id);
    factory.containerd.wait_for("the end of the group", || members(&factory, &id).is_none());

    // The next pool takes away what the killed one of those left.
    let mut pool = Pool::start(&factory, &kata);
    let third = pool.wait_until_full(2);
    pool.signal(Signal::SIGTERM);
    assert_all_gone(&[first, second, third].concat());
}

/// Who is in the group that `ctr` names for a container; `None` if there is no such group.
fn members(factory: &Factory, id: &str) -> Option<Vec<u32>> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchy = if root.join("cgroup.controllers").exists() { root.into() } else { root.join("memory") };
    let group = hierarchy.join(factory.containerd.namespace()).join(id);
    let text = fs::read_to_string(group.join("cgroup.procs")).ok()?;
    Some(text.lines().map(|pid| pid.parse().expect("a pid")).collect())
}

fn gethostname() -> String {
    let host = nix::sys::utsname::uname().expect("uname");
    host.nodename().to_string_lossy().into_owned()
}

#[test]
fn a_server_from_the_pool_that_containerd_has_forgotten_makes_room() {
    let Some(factory) = Factory::open() else { return };
    let kata = runtime(&factory, "forgotten", &[]);
    let mut pool = Pool::start(&factory, &kata);
    let ready = pool.wait_until_full(2);
    let containerd = &factory.containerd;
    let id = factory.id("forgotten");
    containerd.run_detached(&kata, &[], &id, &["sleep", "1000"]);
    let serves = |pid: &&u32| {
        let dir = fs::read_link(format!("/proc/{pid}/cwd"));
        dir.is_ok_and(|dir| dir.ends_with(&id))
    };
    assert_eq!(ready.iter().filter(serves).count(), 1, "it is from the pool: {ready:?}");
    containerd.kill();
    containerd.lose_tasks();
    containerd.start_again("");
    let started = containerd.ctr(["task", "start", "--detach", "--null-io", &id]);
    assert_eq!(started.code, 0, "{}\n{}", started.stderr, containerd.log());
    assert_eq!(containerd.ctr(containerd.exec_args(&id, "e1", &["echo", "alive"])).text(), "alive\n");
    containerd.remove(&id);
    containerd.assert_gone(&id);
    pool.signal(Signal::SIGTERM);
}

#[test]
fn a_vm_whose_start_ends_without_an_answer_ends_at_once() {
    let Some(factory) = Factory::open() else { return };
    let kata = runtime(&factory, "unheard", &[]);
    let Runtime::Kata(config) = &kata else { unreachable!("ours") };
    let mut pool = Pool::start(&factory, &kata);
    let ready = pool.wait_until_full(2);
    let bundle = factory.containerd.dir().join("unheard");
    fs::create_dir_all(bundle.join("rootfs")).expect("make a bundle");
    let spec = r#"{"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "linux": {},
        "process": {"cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0}}}"#;
    fs::write(bundle.join("config.json"), spec).expect("write config.json");
    // Its answer has no reader.
    let (reader, writer) = io::pipe().expect("make a pipe");
    drop(reader);
    let start = Command::new(factory.env.programs().join("containerd-shim-kata-v2"))
        .args(["-namespace", "unheard", "-id", &factory.id("unheard"), "-address"])
        .arg(bundle.join("containerd.sock"))
        .arg("start")
        .current_dir(&bundle)
        .env("KATA_CONF_FILE", config)
        .env("TTRPC_ADDRESS", bundle.join("events.sock"))
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(Stdio::null())
        .status();
    assert!(!start.expect("run start").success());
    let pid = fs::read_to_string(bundle.join("shim.pid")).expect("read shim.pid");
    let taken: u32 = pid.trim().parse().expect("a pid");
    assert!(ready.contains(&taken), "{taken} is not from the pool: {ready:?}");
    let began = Instant::now();
    assert_all_gone(&[taken]);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    pool.signal(Signal::SIGTERM);
}

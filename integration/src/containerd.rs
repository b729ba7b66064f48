//! A private containerd: own root, state and socket, and `ctr` to drive it. Gone without a trace when dropped.

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    cgroups::{everywhere, of_helpers},
    environment::Environment,
};

pub const IMAGE: &str = "docker.io/library/kata-busybox:latest";
/// The name of the configuration for those who name none, if there is one in containerd's folder.
pub const DEFAULT_CONFIGURATION: &str = "default";
/// How long one `ctr` command may take: a cold VM under emulation on a busy machine, and then some.
const PATIENCE: Duration = Duration::from_secs(150);

/// Which runtime a container runs with.
#[derive(Debug, Clone)]
pub enum Runtime {
    Runc,
    /// Ours, with a configuration file.
    Kata(PathBuf),
}

/// A running containerd and its namespace.
pub struct Containerd {
    dir: TempDir,
    process: Mutex<Child>,
    programs: Option<PathBuf>,
    /// The network namespace that plays the host.
    host: Option<String>,
    namespace: String,
    env: Environment,
}

/// What a finished command said.
#[derive(Debug)]
pub struct Finished {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Finished {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).replace("\r\n", "\n")
    }
}

impl Containerd {
    /// Starts the containerd on `PATH`, or the one in `programs`, and imports the image.
    pub fn start(env: &Environment, programs: Option<PathBuf>) -> Self {
        Self::start_with(env, programs, None, |_| String::new())
    }

    /// The same with `more` of its configuration, which is given the folder of it all. With the network namespace of
    /// that name it serves CRI in it, whose containers are all in containerd's namespace `k8s.io`.
    pub fn start_with(
        env: &Environment,
        programs: Option<PathBuf>,
        host: Option<String>,
        more: impl FnOnce(&Path) -> String,
    ) -> Self {
        let dir =
            tempfile::Builder::new().prefix("kt.").tempdir_in("/run").expect("make a folder below /run");
        let config = dir.path().join("config.toml");
        let path = dir.path().display();
        let cri = if host.is_some() { "" } else { "\"io.containerd.grpc.v1.cri\", " };
        let more = more(dir.path());
        fs::write(
            &config,
            format!(
                "version = 2\nroot = \"{path}/root\"\nstate = \"{path}/state\"\n\
                 disabled_plugins = [{cri}\"io.containerd.snapshotter.v1.btrfs\", \
                 \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.devmapper\"]\n\
                 [grpc]\naddress = \"{path}/c.sock\"\n[debug]\nlevel = \"debug\"\n{more}"
            ),
        )
        .expect("write the configuration");
        let process = launch(dir.path(), programs.as_deref(), host.as_deref(), env);
        let namespace = if host.is_some() { "k8s.io".into() } else { format!("kt{}", process.id()) };
        let process = Mutex::new(process);
        let containerd = Self { dir, process, programs, host, namespace, env: env.clone() };
        containerd.wait_for("containerd to answer", || containerd.ctr(["version"]).code == 0);
        let image = containerd.env.image();
        let imported = containerd.ctr(["images", "import", &image.display().to_string()]);
        assert_eq!(imported.code, 0, "import the image: {}", imported.stderr);
        containerd
    }

    /// Ends it as a restart does; containers and their shims stay.
    pub fn stop(&self) {
        let mut process = self.process();
        let pid = nix::unistd::Pid::from_raw(process.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("containerd runs");
        process.wait().expect("wait for containerd");
    }

    /// Ends it as a crash does.
    pub fn kill(&self) {
        let mut process = self.process();
        process.kill().expect("containerd runs");
        process.wait().expect("wait for containerd");
    }

    /// From its next start on it is the release in `programs`, or the one on `PATH`.
    pub fn becomes(&mut self, programs: Option<PathBuf>) {
        self.programs = programs;
    }

    /// Loses what it keeps of its tasks, whose shims live on. Not while it runs.
    pub fn lose_tasks(&self) {
        let tasks = self.dir.path().join("state/io.containerd.runtime.v2.task");
        for bundle in fs::read_dir(tasks.join(&self.namespace)).expect("read the tasks").flatten() {
            let rootfs = bundle.path().join("rootfs");
            let _ = nix::mount::umount2(&rootfs, nix::mount::MntFlags::MNT_DETACH); // Not every root is mounted there.
        }
        fs::remove_dir_all(&tasks).expect("remove the tasks");
    }

    /// Starts it again after [`Self::stop`] or [`Self::kill`], with `more` in its configuration.
    pub fn start_again(&self, more: &str) {
        let config = self.dir.path().join("config.toml");
        let text = fs::read_to_string(&config).expect("read the configuration");
        fs::write(&config, text + more).expect("write the configuration");
        *self.process() = launch(self.dir.path(), self.programs.as_deref(), self.host.as_deref(), &self.env);
        self.wait_for("containerd to answer again", || self.ctr(["version"]).code == 0);
    }

    fn process(&self) -> MutexGuard<'_, Child> {
        // A handle, whole at any time.
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a fact that only asking tells.
    pub fn wait_for(&self, what: &str, mut fact: impl FnMut() -> bool) {
        let began = Instant::now();
        while !fact() {
            assert!(began.elapsed() < Duration::from_secs(60), "waited in vain for {what}\n{}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Containerd's and the shims' log.
    pub fn log_of_all(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The end of that log.
    pub fn log(&self) -> String {
        let log = self.log_of_all();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// What its log has of one container.
    pub fn log_of(&self, id: &str) -> String {
        let log = self.log_of_all();
        log.lines().filter(|line| line.contains(id)).collect::<Vec<_>>().join("\n")
    }

    /// The namespace that `ctr` works in.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What it was started with.
    pub fn environment(&self) -> &Environment {
        &self.env
    }

    /// Where its services are.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("c.sock")
    }

    /// A scratch folder that goes with it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A `ctr` command to be started.
    pub fn command<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let program = self.programs.as_deref().map_or("ctr".into(), |dir| dir.join("ctr"));
        let mut command = Command::new(program);
        command.arg("--address").arg(self.dir.path().join("c.sock")).args(["--namespace", &self.namespace]);
        command.args(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        command
    }

    pub fn ctr<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> Finished {
        finish(self.command(args), b"")
    }

    /// The arguments of `ctr task exec`.
    pub fn exec_args(&self, id: &str, name: &str, command: &[&str]) -> Vec<String> {
        let fifos = self.dir.path().join("fifo").display().to_string();
        ["task", "exec", "--fifo-dir", &fifos, "--exec-id", name, id]
            .into_iter()
            .chain(command.iter().copied())
            .map(str::to_owned)
            .collect()
    }

    /// The arguments of `ctr run` up to the command.
    pub fn run_args(&self, runtime: &Runtime, options: &[&str], id: &str) -> Vec<String> {
        let mut args = vec![
            "run".to_owned(),
            "--fifo-dir".to_owned(),
            self.dir.path().join("fifo").display().to_string(),
        ];
        args.extend(options.iter().map(|option| option.to_string()));
        match runtime {
            Runtime::Runc => args.extend(["--runtime", "io.containerd.runc.v2"].map(str::to_owned)),
            Runtime::Kata(config) => {
                args.extend(
                    ["--runtime", "io.containerd.kata.v2", "--runtime-config-path"].map(str::to_owned),
                );
                args.push(config.display().to_string());
            }
        }
        args.extend([IMAGE.to_owned(), id.to_owned()]);
        args
    }

    /// What a container goes through from its start to its kill: each call by its name, and its words.
    pub fn life(&self, runtime: &Runtime, options: &[&str], id: &str) -> Vec<(&'static str, Vec<String>)> {
        let mut run = self.run_args(runtime, options, id);
        run.splice(1..1, ["-d", "--null-io"].map(str::to_owned));
        run.extend(["sleep", "1000"].map(str::to_owned));
        let plain = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        vec![
            ("run", run),
            ("exec", self.exec_args(id, "e1", &["true"])),
            ("pause", plain(&["task", "pause", id])),
            ("resume", plain(&["task", "resume", id])),
            ("metrics", plain(&["task", "metrics", id])),
            ("kill", plain(&["task", "kill", "--signal", "9", id])),
        ]
    }

    /// Makes these calls until one fails: which, and with which words.
    pub fn live(&self, calls: Vec<(&'static str, Vec<String>)>) -> Result<(), (&'static str, String)> {
        for (call, args) in calls {
            let done = self.ctr(args);
            if done.code != 0 {
                return Err((call, done.stderr));
            }
        }
        Ok(())
    }

    /// Runs a container to its end.
    pub fn run(
        &self,
        runtime: &Runtime,
        options: &[&str],
        id: &str,
        command: &[&str],
        stdin: &[u8],
    ) -> Finished {
        let mut args = self.run_args(runtime, options, id);
        args.splice(1..1, ["--rm".to_owned()]);
        args.extend(command.iter().map(|word| word.to_string()));
        finish(self.command(args), stdin)
    }

    /// Runs a container and leaves it running; `gone` takes it away.
    pub fn run_detached(&self, runtime: &Runtime, options: &[&str], id: &str, command: &[&str]) {
        let mut args = self.run_args(runtime, options, id);
        args.splice(1..1, ["-d".to_owned(), "--null-io".to_owned()]);
        args.extend(command.iter().map(|word| word.to_string()));
        let started = self.ctr(args);
        assert_eq!(started.code, 0, "start {id}: {}\n{}", started.stderr, self.log());
    }

    /// Takes a container away, running or not.
    pub fn remove(&self, id: &str) {
        self.ctr(["task", "rm", "--force", id]);
        let removed = self.ctr(["container", "rm", id]);
        assert_eq!(removed.code, 0, "remove {id}: {}\n{}", removed.stderr, self.log());
    }

    /// What is left on the host of a sandbox of ours.
    pub fn remains(&self, id: &str) -> Vec<String> {
        remains(id, Path::new("/proc/thread-self/mounts"))
    }

    /// Asserts that nothing is left of a sandbox, after a moment for what ends by itself.
    pub fn assert_gone(&self, id: &str) {
        let began = Instant::now();
        while !self.remains(id).is_empty() && began.elapsed() < Duration::from_secs(15) {
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(self.remains(id), Vec::<String>::new(), "left of {id}\n{}", self.log());
    }
}

/// Runs containerd with the configuration in `dir`.
fn launch(dir: &Path, programs: Option<&Path>, host: Option<&str>, env: &Environment) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).expect("open the log");
    let program = programs.map_or("containerd".into(), |dir| dir.join("containerd"));
    let mut command = match host {
        None => Command::new(program),
        Some(host) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/run/netns/{host}")).arg(program);
            command
        }
    };
    let search = format!(
        "{}:{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        env.programs().display(),
        programs.unwrap_or(Path::new("/usr/bin")).display()
    );
    let configuration = Some(dir.join(DEFAULT_CONFIGURATION).with_extension("toml"));
    let configuration = configuration.filter(|path| path.exists()).unwrap_or_else(|| env.configuration());
    command
        .arg("--config")
        .arg(dir.join("config.toml"))
        .env("PATH", search)
        .env("KATA_CONF_FILE", configuration)
        .envs(env.variables().iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("start containerd")
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let listed = self.ctr(["container", "ls", "-q"]);
        for id in listed.text().lines() {
            self.ctr(["task", "rm", "--force", id]);
            self.ctr(["container", "rm", id]);
        }
        if thread::panicking() {
            eprintln!("the end of containerd's log:\n{}", self.log());
        }
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.process().id() as i32),
            nix::sys::signal::Signal::SIGTERM,
        );
        let _ = self.process().wait();
        let dir = self.dir.path().display().to_string();
        let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap_or_default();
        for point in
            mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|point| point.starts_with(&dir))
        {
            let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
        }
        // The reference's cgroups: it leaves the namespace's own one.
        for group in everywhere(&self.namespace) {
            let _ = fs::remove_dir(group);
        }
        if self.host.is_none() {
            // With CRI the namespace is everybody's, and the reference keeps its state in our folder.
            let _ = fs::remove_dir_all(Path::new("/run/containerd/runc").join(&self.namespace));
        }
    }
}

/// What is left on the host of a sandbox of ours, with the mounts in that file of procfs.
pub fn remains(id: &str, mounts: &Path) -> Vec<String> {
    let mut remains: Vec<String> = ["/run/vc/sbs", "/run/vc/vm", "/run/kata-containers/shared/sandboxes"]
        .iter()
        .map(|dir| format!("{dir}/{id}"))
        .filter(|path| Path::new(path).exists())
        .collect();
    remains.extend(of_helpers(id).iter().map(|(group, _)| group.display().to_string()));
    let mounts = fs::read_to_string(mounts).expect("read the mounts");
    remains.extend(mounts.lines().filter(|line| line.contains(id)).map(str::to_owned));
    let processes = processes().into_iter().map(|(_, line)| line);
    remains.extend(processes.filter(|line| line.contains(id) && is_ours(line)));
    remains
}

/// Whether a command line is one of the programs that stand around a VM.
fn is_ours(line: &str) -> bool {
    ["qemu-system", "virtiofsd", "vhost-device-vsock", "containerd-shim-kata"]
        .iter()
        .any(|name| line.contains(name))
}

/// Every process: pid and command line.
pub fn processes() -> Vec<(u32, String)> {
    let entries = fs::read_dir("/proc").expect("read /proc").flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
        })
        .collect()
}

/// Runs a command to its end, within [`PATIENCE`].
pub fn finish(mut command: Command, stdin: &[u8]) -> Finished {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    let mut input = child.stdin.take().expect("piped");
    let bytes = stdin.to_vec();
    // A command may end without reading its input.
    let writer = thread::spawn(move || drop(input.write_all(&bytes)));
    let mut out = child.stdout.take().expect("piped");
    let mut err = child.stderr.take().expect("piped");
    let stdout = thread::spawn(move || {
        let mut bytes = Vec::new();
        out.read_to_end(&mut bytes).map(|_| bytes)
    });
    let stderr = thread::spawn(move || {
        let mut bytes = Vec::new();
        err.read_to_end(&mut bytes).map(|_| bytes)
    });
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait for a child of ours") {
            break status;
        }
        if began.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("{command:?} takes longer than {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(5));
    };
    writer.join().expect("the writer does not panic");
    let output = Output {
        status,
        stdout: stdout.join().expect("no panic").expect("read stdout"),
        stderr: stderr.join().expect("no panic").expect("read stderr"),
    };
    Finished {
        code: output.status.code().unwrap_or(-1),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

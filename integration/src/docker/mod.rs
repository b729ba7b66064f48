//! A private Docker: own daemon, containerd, folders and socket, in network and mount namespaces of their own, so that the
//! machine's rules, bridges and mounts stay as they are. Gone without a trace when dropped.

mod daemon;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use self::daemon::{PATIENCE, Programs};
use crate::{
    cgroups::remove_everywhere,
    containerd::{Finished, finish, processes, remains},
    environment::Environment,
    holder::{enter, hold},
    name_server::NameServer,
};

pub const IMAGE: &str = "kata-busybox";
/// For what was done on the host to be seen in a guest.
const WITHIN: Duration = Duration::from_secs(15);
/// Made by every daemon, and wherever its own folders are.
const PLUGINS: [&str; 2] = ["/run/docker/plugins", "/run/docker"];

/// A running daemon.
pub struct Docker {
    dir: TempDir,
    /// Of [`PLUGINS`], those that were not there before.
    made: Vec<&'static str>,
    /// Whether its settings name our runtime.
    is_named: bool,
    /// Dropped in this order by hand.
    daemon: Mutex<Child>,
    containerd: Child,
    holder: Child,
    programs: Programs,
}

impl Docker {
    /// Starts the release of that name, whose containers are given to our shim; `None`, with a word, where it is not there.
    pub fn start(env: &Environment, release: &str) -> Option<Self> {
        let options = json!({"TypeUrl": "runtimeoptions.v1.Options", "ConfigPath": env.configuration()});
        let ours =
            json!({"runtimes": {"kata": {"runtimeType": "io.containerd.kata.v2", "options": options}}});
        // 20.10 knows runc's shim only: ours stands in its place.
        Self::start_with(env, release, &if release == "20" { json!({}) } else { ours })
    }

    /// The same with these settings in its `daemon.json`, whose runtime `kata` is the one that is used if they have it.
    pub fn start_with(env: &Environment, release: &str, settings: &Value) -> Option<Self> {
        let tree = env.docker(release)?;
        let is_named = settings["runtimes"].get("kata").is_some();
        let dir =
            tempfile::Builder::new().prefix("ktd.").tempdir_in("/run").expect("make a folder below /run");
        for name in ["bin", "view"] {
            fs::create_dir(dir.path().join(name)).expect("make a folder");
        }
        let made = PLUGINS.into_iter().filter(|dir| !Path::new(dir).exists()).collect();
        let programs = Programs::find(env, &tree, &dir.path().join("bin"), !is_named);
        programs.add_compose(&dir.path().join("config"));
        let holder = hold(daemon::HOLD, [dir.path().join("view")]);
        let containerd = daemon::start_containerd(env, &programs, dir.path(), &holder);
        daemon::configure(env, dir.path(), settings);
        let daemon = Mutex::new(daemon::start_daemon(&programs, dir.path(), &holder));
        let docker = Self { dir, made, is_named, daemon, containerd, holder, programs };
        docker.wait_for("the daemon to answer", || docker.docker(&["version"]).code == 0);
        docker.import(env);
        Some(docker)
    }

    /// As `docker import` takes it: the image's one layer.
    fn import(&self, env: &Environment) {
        let layer = self.dir.path().join("layer.tar");
        fs::write(&layer, layer_of(&env.image())).expect("write the layer");
        let layer = layer.display().to_string();
        self.ok(&["import", "-c", "ENV PATH=/bin:/sbin:/usr/bin:/usr/sbin", &layer, IMAGE]);
    }

    /// Ends the daemon, whose containers live on if its settings say so.
    pub fn stop_daemon(&self) {
        daemon::end(&mut self.daemon());
    }

    /// Starts it again.
    pub fn start_daemon(&self) {
        assert!(self.revive(), "the daemon does not answer again\n{}", self.log());
    }

    /// Whether it answers again.
    fn revive(&self) -> bool {
        *self.daemon() = daemon::start_daemon(&self.programs, self.dir.path(), &self.holder);
        let began = Instant::now();
        loop {
            let answers = self.docker(&["version"]).code == 0;
            if answers || began.elapsed() > PATIENCE {
                return answers;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn daemon(&self) -> MutexGuard<'_, Child> {
        // A handle, whole at any time.
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A folder that containers can be given.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `docker` with these arguments, before it is started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.docker);
        command.envs(self.variables()).args(args);
        command
    }

    /// What leads a client to the daemon.
    fn variables(&self) -> [(&'static str, String); 3] {
        let path = self.dir.path().display();
        [
            ("DOCKER_HOST", format!("unix://{path}/d.sock")),
            ("DOCKER_CONFIG", format!("{path}/config")),
            ("PATH", self.programs.path.clone()),
        ]
    }

    /// Runs `docker`.
    pub fn docker(&self, args: &[&str]) -> Finished {
        self.docker_with_input(args, b"")
    }

    /// Runs `docker`, which can read that much.
    pub fn docker_with_input(&self, args: &[&str], input: &[u8]) -> Finished {
        finish(self.command(args), input)
    }

    /// Runs `docker`, which is to succeed; what it prints, without the end of its last line.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let finished = self.docker(args);
        assert_eq!(finished.code, 0, "docker {args:?}: {}\n{}", finished.stderr, self.log());
        finished.text().trim_end().to_owned()
    }

    /// The arguments of `docker run` or `docker create` for a container of ours, up to the command.
    fn options<'a>(&self, verb: &[&'a str], options: &str, rest: &'a [&'a str]) -> Vec<String> {
        let mut args: Vec<String> = verb.iter().map(|word| word.to_string()).collect();
        if self.is_named {
            args.push("--runtime=kata".into());
        }
        args.extend(options.split_whitespace().map(str::to_owned));
        args.push(IMAGE.into());
        args.extend(rest.iter().map(|word| word.to_string()));
        args
    }

    /// `docker run` with these options and a script, before it is started.
    pub fn run_command(&self, options: &str, script: &str) -> Command {
        let args = self.options(&["run"], options, &["sh", "-c", script]);
        self.command(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Runs a script in a container to its end.
    pub fn run(&self, options: &str, script: &str) -> Finished {
        finish(self.run_command(&format!("--rm {options}"), script), b"")
    }

    /// Starts a script in a container; its id.
    #[track_caller]
    pub fn start_container(&self, name: &str, options: &str, script: &str) -> String {
        let args = self.options(&["run", "-d", "--name", name], options, &["sh", "-c", script]);
        self.ok(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Makes a container, not started; its id.
    pub fn create_container(&self, name: &str, options: &str, script: &str) -> String {
        let args = self.options(&["create", "--name", name], options, &["sh", "-c", script]);
        self.ok(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// What a script in a running container prints.
    #[track_caller]
    pub fn inside(&self, name: &str, script: &str) -> String {
        let finished = self.docker(&["exec", name, "sh", "-c", script]);
        let said = finished.text();
        assert_eq!(finished.code, 0, "{script}: {said}{}\n{}", finished.stderr, self.log());
        said
    }

    /// Waits until what a script in the container prints is as it should be.
    pub fn wait_inside(&self, name: &str, script: &str, fact: impl Fn(&str) -> bool) {
        let began = Instant::now();
        loop {
            let said = self.docker(&["exec", name, "sh", "-c", script]);
            if fact(&said.text()) {
                return;
            }
            let late = began.elapsed() > WITHIN;
            assert!(!late, "{script}: {}{}\n{}", said.text(), said.stderr, self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs a script where the daemon is: what its host would be, with `docker`.
    pub fn outside(&self, script: &str) -> Finished {
        let mut command = enter(&self.holder);
        command.args(["sh", "-c", script]).envs(self.variables());
        finish(command, b"")
    }

    /// A name server at every address that the daemon's host has.
    pub fn serve_names(&self) -> NameServer {
        let namespace = format!("/proc/{}/ns/net", self.holder.id());
        NameServer::start(namespace.as_ref()).expect("start a name server")
    }

    /// One of the things that `docker inspect` knows.
    pub fn inspect(&self, name: &str, template: &str) -> String {
        self.ok(&["inspect", "--format", template, name])
    }

    /// Waits for a fact that only asking tells.
    #[track_caller]
    pub fn wait_for(&self, what: &str, mut fact: impl FnMut() -> bool) {
        let began = Instant::now();
        while !fact() {
            assert!(began.elapsed() < PATIENCE, "waited in vain for {what}\n{}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Removes containers, of which nothing may be left.
    #[track_caller]
    pub fn remove(&self, ids: &[String]) {
        let mut args = vec!["rm", "-f", "-v"];
        args.extend(ids.iter().map(String::as_str));
        self.ok(&args);
        self.assert_gone(ids);
    }

    /// Nothing is left of containers that were removed.
    #[track_caller]
    pub fn assert_gone(&self, ids: &[String]) {
        let mounts = PathBuf::from(format!("/proc/{}/mounts", self.holder.id()));
        let left = || {
            let links = self.outside("ip -o link").text();
            let links = links.lines().filter(|line| line.contains("_kata") || line.contains("veth"));
            let of_ids = ids.iter().flat_map(|id| remains(id, &mounts));
            let processes = processes().into_iter().map(|(_, line)| line);
            let of_ids = of_ids.chain(processes.filter(|line| ids.iter().any(|id| line.contains(id))));
            links.map(str::to_owned).chain(of_ids).collect::<Vec<_>>()
        };
        let began = Instant::now();
        while !left().is_empty() && began.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(left(), Vec::<String>::new(), "{}", self.log());
    }

    /// The end of the daemon's and of containerd's log.
    pub fn log(&self) -> String {
        let end = |name: &str| {
            let log = fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            lines[lines.len().saturating_sub(30)..].join("\n")
        };
        format!("dockerd:\n{}\ncontainerd:\n{}", end("dockerd.log"), end("containerd.log"))
    }
}

/// The bytes of an OCI archive's one layer, which is not compressed.
pub(crate) fn layer_of(archive: &Path) -> Vec<u8> {
    let read = |name: &str| {
        let output = Command::new("tar").arg("-xOf").arg(archive).arg(name).output().expect("run tar");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().expect("a digest").replace(':', "/");
        read(&format!("./blobs/{digest}"))
    };
    let parse = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).expect("JSON");
    let index = parse(read("./index.json"));
    blob(&parse(blob(&index["manifests"][0]))["layers"][0])
}

impl Drop for Docker {
    fn drop(&mut self) {
        let has_ended = !matches!(self.daemon().try_wait(), Ok(None));
        if has_ended {
            self.revive(); // What it left running is to end.
        }
        let ids = self.docker(&["ps", "-aq"]).text();
        if !ids.trim().is_empty() {
            self.docker(&["rm", "-f"].into_iter().chain(ids.split_whitespace()).collect::<Vec<_>>());
        }
        daemon::end(&mut self.daemon());
        daemon::end(&mut self.containerd);
        for dir in &self.made {
            let _ = fs::remove_dir(dir); // Another daemon may use it by now.
        }
        drop(self.holder.stdin.take()); // Its mounts end with it.
        let _ = self.holder.wait();
        // BuildKit has one in it.
        remove_everywhere(&self.dir.path().file_name().expect("a name").to_string_lossy());
    }
}

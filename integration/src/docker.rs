//! A private Docker: own daemon, containerd, folders and socket, in network and mount namespaces of their own, so that the
//! machine's rules, bridges and mounts stay as they are. Gone without a trace when dropped.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    containerd::{Finished, finish, remains},
    environment::Environment,
    name_server::NameServer,
};

pub const IMAGE: &str = "kata-busybox";
const SYSTEM: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// For a daemon to come up, and for what ends by itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// For what was done on the host to be seen in a guest.
const WITHIN: Duration = Duration::from_secs(15);
/// Own namespaces, with a view of `/sys` that belongs to them, for as long as standard input is open.
const HOLD: &str = "mount -t tmpfs none \"$0\" && mkdir \"$0/c\" && mount --rbind /sys/fs/cgroup \"$0/c\" \
    && mount -t sysfs none /sys && mount --rbind \"$0/c\" /sys/fs/cgroup && ip link set lo up && echo held && read -r _";

/// Made by every daemon, and wherever its own folders are.
const PLUGINS: [&str; 2] = ["/run/docker/plugins", "/run/docker"];

/// A running daemon.
pub struct Docker {
    dir: TempDir,
    /// Of [`PLUGINS`], those that were not there before.
    made: Vec<&'static str>,
    release: String,
    /// Dropped in this order by hand.
    daemon: Child,
    containerd: Child,
    holder: Child,
    programs: Programs,
}

/// Where a release's programs are.
struct Programs {
    docker: PathBuf,
    dockerd: PathBuf,
    containerd: PathBuf,
    /// What finds the others.
    path: String,
}

impl Docker {
    /// Starts the release of that name; `None`, with a word, where it is not there.
    pub fn start(env: &Environment, release: &str) -> Option<Self> {
        let tree = env.docker(release)?;
        let dir =
            tempfile::Builder::new().prefix("ktd.").tempdir_in("/run").expect("make a folder below /run");
        for name in ["bin", "view"] {
            fs::create_dir(dir.path().join(name)).expect("make a folder");
        }
        let made = PLUGINS.into_iter().filter(|dir| !Path::new(dir).exists()).collect();
        let programs = Programs::find(env, &tree, release, &dir.path().join("bin"));
        let holder = hold(&dir.path().join("view"));
        let containerd = start_containerd(env, &programs, dir.path(), &holder);
        let daemon = start_daemon(env, &programs, dir.path(), &holder, release);
        let docker = Self { dir, made, release: release.to_owned(), daemon, containerd, holder, programs };
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

    /// Runs `docker`.
    pub fn docker(&self, args: &[&str]) -> Finished {
        let mut command = Command::new(&self.programs.docker);
        command.env("DOCKER_HOST", format!("unix://{}", self.dir.path().join("d.sock").display()));
        command.env("DOCKER_CONFIG", self.dir.path().join("config")).args(args);
        finish(command, b"")
    }

    /// Runs `docker`, which is to succeed; what it prints, without the end of its last line.
    pub fn ok(&self, args: &[&str]) -> String {
        let finished = self.docker(args);
        assert_eq!(finished.code, 0, "docker {args:?}: {}\n{}", finished.stderr, self.log());
        finished.text().trim_end().to_owned()
    }

    /// The arguments of `docker run` or `docker create` for a container of ours, up to the command.
    fn options<'a>(&self, verb: &[&'a str], options: &str, rest: &'a [&'a str]) -> Vec<String> {
        let mut args: Vec<String> = verb.iter().map(|word| word.to_string()).collect();
        if self.release != "20" {
            args.push("--runtime=kata".into());
        }
        args.extend(options.split_whitespace().map(str::to_owned));
        args.push(IMAGE.into());
        args.extend(rest.iter().map(|word| word.to_string()));
        args
    }

    /// Runs a script in a container to its end.
    pub fn run(&self, options: &str, script: &str) -> Finished {
        let args = self.options(&["run", "--rm"], options, &["sh", "-c", script]);
        self.docker(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Starts a script in a container; its id.
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

    /// Runs a program where the daemon is: what its host would be.
    pub fn outside(&self, command: &str) -> Finished {
        let mut command_line = enter(&self.holder);
        command_line.args(["sh", "-c", command]);
        finish(command_line, b"")
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
    pub fn wait_for(&self, what: &str, mut fact: impl FnMut() -> bool) {
        let began = Instant::now();
        while !fact() {
            assert!(began.elapsed() < PATIENCE, "waited in vain for {what}\n{}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Removes containers, of which nothing may be left.
    pub fn remove(&self, ids: &[String]) {
        let mut args = vec!["rm", "-f"];
        args.extend(ids.iter().map(String::as_str));
        self.ok(&args);
        let mounts = PathBuf::from(format!("/proc/{}/mounts", self.holder.id()));
        let left = || {
            let links = self.outside("ip -o link").text();
            let links = links.lines().filter(|line| line.contains("_kata") || line.contains("veth"));
            let of_ids = ids.iter().flat_map(|id| remains(id, &mounts));
            links.map(str::to_owned).chain(of_ids).collect::<Vec<_>>()
        };
        let began = Instant::now();
        while !left().is_empty() && began.elapsed() < Duration::from_secs(15) {
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

impl Programs {
    fn find(env: &Environment, tree: &Path, release: &str, own: &Path) -> Self {
        let (bin, sbin) = (tree.join("usr/bin"), tree.join("usr/sbin"));
        let shipped = bin.join("containerd");
        let containerd = if shipped.exists() { shipped } else { "/usr/bin/containerd".into() };
        link(&bin.join("tini-static"), &own.join("docker-init"));
        if release == "20" {
            // It knows runc's shim only: ours stands in its place.
            link(&env.programs().join("containerd-shim-kata-v2"), &own.join("containerd-shim-runc-v2"));
        }
        let path = [own, &env.programs(), &bin, &sbin].map(|dir| dir.display().to_string()).join(":");
        Self {
            docker: bin.join("docker"),
            dockerd: sbin.join("dockerd"),
            containerd,
            path: format!("{path}:{SYSTEM}"),
        }
    }
}

fn link(to: &Path, at: &Path) {
    std::os::unix::fs::symlink(to, at).expect("make a symbolic link");
}

/// A process in new namespaces, which end with it and with what is started in them.
fn hold(view: &Path) -> Child {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--propagation", "private", "sh", "-c", HOLD]).arg(view);
    let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run unshare");
    let mut said = [0; 5];
    holder.stdout.take().expect("piped").read_exact(&mut said).expect("make the namespaces");
    holder
}

/// A command for the holder's namespaces.
fn enter(holder: &Child) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--net", "--mount", "--target", &holder.id().to_string(), "--"]);
    command
}

fn start_containerd(env: &Environment, programs: &Programs, dir: &Path, holder: &Child) -> Child {
    let (config, path) = (dir.join("containerd.toml"), dir.display());
    let text = format!(
        "version = 2\nroot = \"{path}/c/root\"\nstate = \"{path}/c/state\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.btrfs\", \
         \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.devmapper\"]\n\
         [grpc]\naddress = \"{path}/c.sock\"\n[debug]\nlevel = \"debug\"\n"
    );
    fs::write(&config, text).expect("write the configuration");
    let mut command = enter(holder);
    command.arg(&programs.containerd).arg("--config").arg(config).env("PATH", &programs.path);
    command.env("KATA_CONF_FILE", env.configuration());
    let child = logged(command, &dir.join("containerd.log"));
    let began = Instant::now();
    while !dir.join("c.sock").exists() {
        assert!(began.elapsed() < PATIENCE, "containerd does not come up");
        thread::sleep(Duration::from_millis(20));
    }
    child
}

fn start_daemon(env: &Environment, programs: &Programs, dir: &Path, holder: &Child, release: &str) -> Child {
    let config = dir.join("daemon.json");
    let mut settings = json!({
        "bip": "10.201.0.1/24",
        "default-address-pools": [{"base": "10.202.0.0/16", "size": 24}],
    });
    if release != "20" {
        let options = json!({"TypeUrl": "runtimeoptions.v1.Options", "ConfigPath": env.configuration()});
        settings["runtimes"] = json!({"kata": {"runtimeType": "io.containerd.kata.v2", "options": options}});
    }
    fs::write(&config, settings.to_string()).expect("write the configuration");
    let path = dir.display();
    let mut command = enter(holder);
    command.arg(&programs.dockerd).arg("--config-file").arg(config).env("PATH", &programs.path).args([
        format!("--data-root={path}/root"),
        format!("--exec-root={path}/exec"),
        format!("--host=unix://{path}/d.sock"),
        format!("--pidfile={path}/d.pid"),
        format!("--containerd={path}/c.sock"),
        // Named after the folder, to be told apart from another daemon's.
        format!("--cgroup-parent={}", dir.file_name().expect("a name").to_string_lossy()),
        "--storage-driver=overlay2".into(),
        "--debug".into(),
    ]);
    logged(command, &dir.join("dockerd.log"))
}

fn logged(mut command: Command, log: &Path) -> Child {
    let log = fs::File::create(log).expect("make a log");
    let again = log.try_clone().expect("share the log");
    command.stdin(Stdio::null()).stdout(again).stderr(log).spawn().expect("run nsenter")
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
        let ids = self.docker(&["ps", "-aq"]).text();
        if !ids.trim().is_empty() {
            self.docker(&["rm", "-f"].into_iter().chain(ids.split_whitespace()).collect::<Vec<_>>());
        }
        for child in [&mut self.daemon, &mut self.containerd] {
            let pid = nix::unistd::Pid::from_raw(child.id() as i32);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM); // It may have ended.
            let _ = child.wait();
        }
        for dir in &self.made {
            let _ = fs::remove_dir(dir); // Another daemon may use it by now.
        }
        drop(self.holder.stdin.take()); // Its mounts end with it.
        let _ = self.holder.wait();
        let name = self.dir.path().file_name().expect("a name").to_owned();
        for root in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = fs::remove_dir(root.path().join(&name));
        }
        let _ = fs::remove_dir(Path::new("/sys/fs/cgroup").join(&name));
    }
}

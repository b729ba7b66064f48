//! The processes of a private Docker, in namespaces of their own.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{environment::Environment, holder::enter};

const SYSTEM: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// For a daemon to come up.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Own namespaces, with a view of `/sys` that belongs to them, for as long as standard input is open.
pub const HOLD: &str = "mount -t tmpfs none \"$0\" && mkdir \"$0/c\" && mount --rbind /sys/fs/cgroup \"$0/c\" \
    && mount -t sysfs none /sys && mount --rbind \"$0/c\" /sys/fs/cgroup && ip link set lo up && echo held && read -r _";
/// What BuildKit runs a build's steps with, below the folder.
const BUILDER: &str = "bin/builder";
/// Where Debian has it.
const COMPOSE: &str = "usr/libexec/docker/cli-plugins/docker-compose";

/// Where a release's programs are.
pub struct Programs {
    pub docker: PathBuf,
    dockerd: PathBuf,
    containerd: PathBuf,
    compose: Option<PathBuf>,
    /// What finds the others.
    pub path: String,
}

impl Programs {
    /// Those in the tree of a release, with links in the folder `own`. Without a runtime of ours in the daemon's settings
    /// ours is what a daemon finds under the name of runc's shim.
    pub fn find(env: &Environment, tree: &Path, own: &Path, instead_of_runc: bool) -> Self {
        let (bin, sbin) = (tree.join("usr/bin"), tree.join("usr/sbin"));
        let shipped = bin.join("containerd");
        let containerd = if shipped.exists() { shipped } else { "/usr/bin/containerd".into() };
        link(&bin.join("tini-static"), &own.join("docker-init"));
        if instead_of_runc {
            link(&env.programs().join("containerd-shim-kata-v2"), &own.join("containerd-shim-runc-v2"));
        }
        let path = [own, &env.programs(), &bin, &sbin].map(|dir| dir.display().to_string()).join(":");
        // The one of 20.10 is a Python program, which more recent ones have replaced.
        let trees = [Some(tree.to_owned()), env.docker("26")].into_iter().flatten();
        Self {
            docker: bin.join("docker"),
            dockerd: sbin.join("dockerd"),
            containerd,
            compose: trees.map(|tree| tree.join(COMPOSE)).find(|program| program.exists()),
            path: format!("{path}:{SYSTEM}"),
        }
    }

    /// Gives the client its plugin, in the folder of its settings.
    pub fn add_compose(&self, settings: &Path) {
        let plugins = settings.join("cli-plugins");
        fs::create_dir_all(&plugins).expect("make a folder");
        if let Some(compose) = &self.compose {
            link(compose, &plugins.join("docker-compose"));
        }
    }
}

fn link(to: &Path, at: &Path) {
    std::os::unix::fs::symlink(to, at).expect("make a symbolic link");
}

pub fn start_containerd(env: &Environment, programs: &Programs, dir: &Path, holder: &Child) -> Child {
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

/// Writes the daemon's own settings, with these, and what builds by BuildKit are run with.
pub fn configure(env: &Environment, dir: &Path, settings: &Value) {
    let (path, program, configuration) =
        (dir.display(), env.programs().join("kata-runtime"), env.configuration());
    let (program, configuration) = (program.display(), configuration.display());
    let builder = format!("#!/bin/sh\nexec {program} --root {path}/kata --config {configuration} \"$@\"\n");
    fs::write(dir.join(BUILDER), builder).expect("write the runtime");
    fs::set_permissions(dir.join(BUILDER), fs::Permissions::from_mode(0o755)).expect("make it a program");
    let mut all = json!({
        "bip": "10.201.0.1/24",
        "default-address-pools": [{"base": "10.202.0.0/16", "size": 24}],
    });
    for (name, value) in settings.as_object().into_iter().flatten() {
        all[name] = value.clone();
    }
    fs::write(dir.join("daemon.json"), all.to_string()).expect("write the configuration");
}

pub fn start_daemon(programs: &Programs, dir: &Path, holder: &Child) -> Child {
    let path = dir.display();
    let mut command = enter(holder);
    command.env("DOCKER_BUILDKIT_RUNC_COMMAND", dir.join(BUILDER));
    command.arg(&programs.dockerd).env("PATH", &programs.path).args([
        format!("--config-file={path}/daemon.json"),
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
    let log = fs::File::options().create(true).append(true).open(log).expect("make a log");
    let again = log.try_clone().expect("share the log");
    command.stdin(Stdio::null()).stdout(again).stderr(log).spawn().expect("run nsenter")
}

/// Asks it to end, and waits for that.
pub fn end(child: &mut Child) {
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM); // It may have ended.
    let _ = child.wait();
}

//! A private Podman over `kata-runtime`: own storage, settings and libraries, in network and mount namespaces of its own, so
//! that the machine's rules, folders and mounts stay as they are. Gone without a trace when dropped.

mod place;
mod user;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

pub use user::User;

use crate::{
    cgroups::{everywhere, remove_everywhere},
    containerd::{Finished, finish, processes, remains},
    docker::{IMAGE, layer_of},
    environment::Environment,
    holder::enter,
};

/// For whatever is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// What there is to run containers with.
pub struct Podman {
    dir: TempDir,
    tree: PathBuf,
    env: Environment,
    holder: Child,
}

impl Podman {
    /// `None`, with a word, where it is not there.
    pub fn start(env: &Environment, release: &str) -> Option<Self> {
        let tree = env.podman(release)?;
        let dir =
            tempfile::Builder::new().prefix("ktp.").tempdir_in("/run").expect("make a folder below /run");
        place::configure(dir.path(), &tree, env);
        let holder = place::held(dir.path(), &tree, env);
        let podman = Self { dir, tree, env: env.clone(), holder };
        podman.import();
        Some(podman)
    }

    /// As `podman import` takes it: the image's one layer.
    fn import(&self) {
        let layer = self.dir.path().join("layer.tar");
        fs::write(&layer, layer_of(&self.env.image())).expect("write the layer");
        self.ok(&[
            "import",
            "-c",
            "ENV PATH=/bin:/sbin:/usr/bin:/usr/sbin",
            &layer.display().to_string(),
            IMAGE,
        ]);
    }

    /// Adds to `containers.conf`.
    pub fn configure(&self, text: &str) {
        let file = fs::OpenOptions::new().append(true).open(self.dir.path().join("containers.conf"));
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("write the configuration");
    }

    /// `kata-runtime`, which finds no configuration of its own.
    pub fn program(&self) -> PathBuf {
        self.env.programs().join("kata-runtime")
    }

    /// The configuration that it is given.
    pub fn configuration(&self) -> PathBuf {
        self.env.configuration()
    }

    /// Another runtime of that name, whose configuration has these lines changed.
    pub fn runtime_with(&self, name: &str, changes: &[(&str, String)]) -> String {
        let path = self.dir.path();
        let configuration = self.env.configuration_with(path, name, changes);
        let runtime = path.join(name);
        let flags = format!("--root {}/kata --config {}", path.display(), configuration.display());
        place::write_runtime(&runtime, &self.env.programs(), &flags);
        runtime.display().to_string()
    }

    /// Runs commands for a shell in `dir`, each of which is to succeed, and whose `podman` is this one with no flags.
    pub fn paste(&self, dir: &Path, commands: &str) -> Finished {
        let path = self.dir.path();
        let podman = format!(
            "podman() {{ {} --tmpdir {}/tmp \"$@\"; }}\n",
            self.tree.join("usr/bin/podman").display(),
            path.display()
        );
        let mut command = self.settle(self.enter());
        command.args(["env", "--chdir"]).arg(dir).args(["sh", "-eu", "-c", &(podman + commands)]);
        finish(command, b"")
    }

    /// A folder that containers can be given.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `podman` with these arguments, before it is started.
    pub fn command(&self, args: &[&str]) -> Command {
        let path = self.dir.path();
        let mut command = self.settle(self.enter());
        command.arg(self.tree.join("usr/bin/podman")).arg("--tmpdir").arg(path.join("tmp"));
        command.arg("--runtime").arg(path.join("kata-runtime")).args(args);
        command
    }

    /// Runs `podman`.
    pub fn podman(&self, args: &[&str]) -> Finished {
        finish(self.command(args), b"")
    }

    /// Runs `podman`, which is to succeed; what it prints, without the end of its last line.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let finished = self.podman(args);
        assert_eq!(finished.code, 0, "podman {args:?}: {}", finished.stderr);
        finished.text().trim_end().to_owned()
    }

    /// A cgroup named after the folder, to be told apart from another Podman's.
    pub fn cgroup_parent(&self) -> String {
        format!("/{}", self.dir.path().file_name().expect("a name").to_string_lossy())
    }

    /// `podman run` with these options and a script.
    pub fn run_command(&self, options: &str, script: &str) -> Command {
        let parent = format!("--cgroup-parent={}", self.cgroup_parent());
        let options = options.split_whitespace();
        let args: Vec<_> =
            ["run", &parent].into_iter().chain(options).chain([IMAGE, "sh", "-c", script]).collect();
        self.command(&args)
    }

    /// Runs a script in a container to its end.
    pub fn run(&self, options: &str, script: &str) -> Finished {
        finish(self.run_command(&format!("--rm {options}"), script), b"")
    }

    /// Starts a script in a container; its id.
    #[track_caller]
    pub fn start_container(&self, name: &str, options: &str, script: &str) -> String {
        let started = finish(self.run_command(&format!("-d --name {name} {options}"), script), b"");
        assert_eq!(started.code, 0, "{}", started.stderr);
        started.text().trim_end().to_owned()
    }

    /// What a script in a running container prints.
    #[track_caller]
    pub fn inside(&self, name: &str, script: &str) -> String {
        self.ok(&["exec", name, "sh", "-c", script])
    }

    /// Runs a script where Podman is: what its host would be.
    pub fn outside(&self, script: &str) -> Finished {
        let mut command = self.enter();
        command.args(["sh", "-c", script]);
        finish(command, b"")
    }

    /// Waits for a fact that only asking tells.
    #[track_caller]
    pub fn wait_for(&self, what: &str, mut fact: impl FnMut() -> bool) {
        let began = Instant::now();
        while !fact() {
            assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// As if the machine had gone down under that container and come up again: nothing of it runs, and what is not on a disk
    /// is lost.
    pub fn reboot(&self, id: &str) {
        for (pid, _) in processes().into_iter().filter(|(_, line)| line.contains(id)) {
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL); // It may have ended with another.
        }
        self.wait_for("the end of all", || !processes().iter().any(|(_, line)| line.contains(id)));
        let mut command = Command::new(self.program());
        command.arg("--config").arg(self.configuration()).args(["cleanup", "--yes", id]);
        let cleaned = finish(command, b"");
        assert_eq!(cleaned.code, 0, "{}", cleaned.stderr);
        let path = self.dir.path().display().to_string();
        let lose = format!(
            "grep -oE ' {path}/(root|run)/[^ ]*' /proc/mounts | sort -r | xargs -r umount -l; \
             rm -rf {path}/tmp {path}/run {path}/kata"
        );
        let lost = self.outside(&lose);
        assert_eq!(lost.code, 0, "{}", lost.stderr);
    }

    /// Nothing is left of a container that was removed.
    #[track_caller]
    pub fn assert_gone(&self, id: &str) {
        let began = Instant::now();
        while !self.left(id).is_empty() && began.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(self.left(id), Vec::<String>::new());
    }

    fn left(&self, id: &str) -> Vec<String> {
        let mounts = PathBuf::from(format!("/proc/{}/mounts", self.holder.id()));
        let processes = processes().into_iter().map(|(_, line)| line).filter(|line| line.contains(id));
        let records = fs::read_dir(self.dir.path().join("kata")).into_iter().flatten().flatten();
        let records =
            records.map(|entry| entry.path().display().to_string()).filter(|path| path.contains(id));
        remains(id, &mounts).into_iter().chain(processes).chain(records).collect()
    }

    fn settle(&self, mut command: Command) -> Command {
        // nsenter gives its own environment to what it runs.
        command.env("CONTAINERS_CONF", self.dir.path().join("containers.conf"));
        command.env("CONTAINERS_STORAGE_CONF", self.dir.path().join("storage.conf"));
        command
    }

    fn enter(&self) -> Command {
        let mut command = enter(&self.holder);
        command.env("PODMAN_IGNORE_CGROUPSV1_WARNING", "1");
        // conmon leaves files where it is started.
        command.args(["env", "--chdir"]).arg(self.dir.path());
        command
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.podman(&["rm", "--all", "--force", "--time", "0"]);
        drop(self.holder.stdin.take()); // Its mounts end with it.
        let _ = self.holder.wait();
        let began = Instant::now();
        // The last conmon may be on its way out.
        while !remove_everywhere(self.cgroup_parent().trim_start_matches('/')) && began.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(50));
        }
        // Of what has no parent named, as pods; another's, if there is anything in it.
        for own in ["libpod_parent/conmon", "libpod_parent"] {
            for group in everywhere(own) {
                let _ = fs::remove_dir(group);
            }
        }
    }
}

//! A private Podman over `kata-runtime`: own storage, settings and libraries, in network and mount namespaces of its own, so
//! that the machine's rules, folders and mounts stay as they are. Gone without a trace when dropped.

use std::{
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    containerd::{Finished, finish, processes, remains},
    docker::{IMAGE, layer_of},
    environment::Environment,
};

/// For whatever is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Own namespaces for as long as standard input is open, in the folder `$0`, with what was unpacked in `$1` laid over the
/// machine's: a view of `/sys` that belongs to them, and a `/run` in which only what is ours is the machine's.
const HOLD: &str = r#"
set -e
view=$0/view
mount -t tmpfs none "$view"
mkdir "$view/cgroup" "$view/upper" "$view/work" "$view/run" "$view/run/vc" "$view/run/kata-containers" "$view/$0"
mkdir -p /run/vc /run/kata-containers
mount --rbind /sys/fs/cgroup "$view/cgroup"
mount -t sysfs none /sys
mount --rbind "$view/cgroup" /sys/fs/cgroup
for dir in /etc /usr/share /usr/lib/x86_64-linux-gnu; do
    [ ! -d "$1$dir" ] || mount -t overlay none -o "lowerdir=$1$dir:$dir" "$dir"
done
mount -t overlay none -o "lowerdir=/var/lib,upperdir=$view/upper,workdir=$view/work" /var/lib
mount --rbind /run/vc "$view/run/vc"
mount --rbind /run/kata-containers "$view/run/kata-containers"
mount --bind "$0" "$view/$0"
mount --rbind "$view/run" /run
ip link set lo up
echo held
read -r _
"#;

/// What there is to run containers with.
pub struct Podman {
    dir: TempDir,
    tree: PathBuf,
    env: Environment,
    holder: Child,
}

impl Podman {
    /// `None`, with a word, where it is not there.
    pub fn start(env: &Environment) -> Option<Self> {
        let tree = env.podman()?;
        let dir =
            tempfile::Builder::new().prefix("ktp.").tempdir_in("/run").expect("make a folder below /run");
        fs::create_dir(dir.path().join("view")).expect("make a folder");
        configure(dir.path(), &tree, env);
        let holder = hold(dir.path(), &tree);
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

    /// A folder that containers can be given.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `podman` with these arguments, before it is started.
    pub fn command(&self, args: &[&str]) -> Command {
        let path = self.dir.path();
        let mut command = self.enter();
        command.env("CONTAINERS_CONF", path.join("containers.conf"));
        command.env("CONTAINERS_STORAGE_CONF", path.join("storage.conf"));
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

    /// `podman run` with these options and a script.
    pub fn run_command(&self, options: &str, script: &str) -> Command {
        let name = self.dir.path().file_name().expect("a name").to_string_lossy();
        // A cgroup named after the folder, to be told apart from another Podman's.
        let parent = format!("--cgroup-parent=/{name}");
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

    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--target", &self.holder.id().to_string(), "--"]);
        // nsenter gives its own environment to what it runs.
        command.env("PODMAN_IGNORE_CGROUPSV1_WARNING", "1");
        command
    }
}

fn configure(dir: &Path, tree: &Path, env: &Environment) {
    let (path, tree) = (dir.display(), tree.display());
    // Flags of Podman's own, and its environment, do not reach the commands that conmon runs when a container ends.
    let (program, configuration) = (env.programs().join("kata-runtime"), env.configuration());
    let (program, configuration) = (program.display(), configuration.display());
    let runtime = format!("#!/bin/sh\nexec {program} --root {path}/kata --config {configuration} \"$@\"\n");
    let wrapper = dir.join("kata-runtime");
    fs::write(&wrapper, runtime).expect("write the runtime");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("make it a program");
    let engine = format!(
        "[containers]\nlog_driver = \"k8s-file\"\n\
         [network]\nnetwork_backend = \"netavark\"\nnetwork_config_dir = \"{path}/networks\"\n\
         default_subnet = \"10.208.0.0/24\"\n\
         [engine]\nconmon_path = [\"{tree}/usr/bin/conmon\"]\nhelper_binaries_dir = [\"{tree}/usr/lib/podman\", \"{tree}/usr/libexec/podman\", \"{tree}/usr/bin\"]\n\
         init_path = \"{tree}/usr/bin/catatonit\"\nevents_logger = \"file\"\n\
         events_logfile_path = \"{path}/events\"\ncgroup_manager = \"cgroupfs\"\nlock_type = \"file\"\n"
    );
    let storage =
        format!("[storage]\ndriver = \"overlay\"\ngraphroot = \"{path}/root\"\nrunroot = \"{path}/run\"\n");
    fs::write(dir.join("containers.conf"), engine).expect("write the configuration");
    fs::write(dir.join("storage.conf"), storage).expect("write the configuration");
}

/// A process in new namespaces, which end with it and with what is started in them.
fn hold(dir: &Path, tree: &Path) -> Child {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--propagation", "private", "sh", "-c", HOLD]).args([dir, tree]);
    let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run unshare");
    let mut said = [0; 5];
    holder.stdout.take().expect("piped").read_exact(&mut said).expect("make the namespaces");
    holder
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.podman(&["rm", "--all", "--force", "--time", "0"]);
        drop(self.holder.stdin.take()); // Its mounts end with it.
        let _ = self.holder.wait();
        let name = self.dir.path().file_name().expect("a name");
        let roots = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|root| root.path());
        for root in roots.chain(["/sys/fs/cgroup".into()]) {
            remove_cgroups(&root.join(name));
        }
    }
}

fn remove_cgroups(group: &Path) {
    for below in fs::read_dir(group).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        remove_cgroups(&below.path());
    }
    let _ = fs::remove_dir(group); // There is none in most hierarchies.
}

//! One OCI command line, ours or runc's, over roots and bundles of its own: the same test can be put to both.

use std::{
    fs,
    io::IoSliceMut,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    cmsg_space,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{environment::Environment, place::unique};

/// For whatever is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
const STEP: Duration = Duration::from_millis(20);

/// Whose command line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    Runc,
    Ours,
}

/// A command line with a root of its own. Dropping it takes away whatever a failed test has left.
pub struct Cli {
    pub whose: Whose,
    dir: TempDir,
    program: PathBuf,
    number: u32,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// The text of a command that is to succeed.
    #[track_caller]
    pub fn good(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// The code and the last line of a command that is to fail, in runc's name and without what a log puts around it.
    #[track_caller]
    pub fn refusal(self) -> (i32, String) {
        let code = self.code.expect("it ends by itself");
        assert_ne!(code, 0, "{self:?}");
        let line = self.stderr.lines().last().unwrap_or_default();
        let words = line
            .split_once("msg=\"")
            .map_or(line, |(_, message)| message.strip_suffix('"').unwrap_or(message));
        (code, words.replace("\\\"", "\"").replace("kata-runtime", "runc"))
    }
}

impl Cli {
    /// Ours and, where it is installed, runc's. None where nobody provides the environment.
    pub fn both() -> Vec<Self> {
        let runc = Path::new("/usr/sbin/runc");
        let runc =
            [runc, Path::new("/usr/bin/runc")].into_iter().find(|path| path.exists()).map(Path::to_path_buf);
        assert!(runc.is_some() || std::env::var_os("CI").is_none(), "runc is missing");
        let runc = runc.zip(Environment::find());
        let runc = runc.map(|(program, env)| Self::new(Whose::Runc, program, &env));
        Self::ours().into_iter().chain(runc).collect()
    }

    /// Ours, if the environment is provided.
    pub fn ours() -> Option<Self> {
        let env = Environment::find()?;
        Some(Self::new(Whose::Ours, env.programs().join("kata-runtime"), &env))
    }

    fn new(whose: Whose, program: PathBuf, env: &Environment) -> Self {
        let dir = tempfile::tempdir().expect("make a temporary folder");
        unpack(&env.image(), &dir.path().join("rootfs"));
        fs::copy(env.configuration(), dir.path().join("configuration.toml")).expect("copy the configuration");
        Self { whose, dir, program, number: unique() }
    }

    /// Whether the program is as it is installed, not as it is debugged.
    pub fn is_optimized(&self) -> bool {
        !self.program.parent().is_some_and(|dir| dir.ends_with("debug"))
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A container's name that no other test has: sandboxes are known to the whole host.
    pub fn id(&self, name: &str) -> String {
        format!("cli-{}-{name}", self.number)
    }

    /// A text without what another command line, or the next run, would say otherwise.
    pub fn plain(&self, text: &str) -> String {
        let text = text.replace(&self.dir.path().display().to_string(), "DIR");
        text.replace(&format!("cli-{}-", self.number), "").replace("kata-runtime", "runc")
    }

    /// The command with these words, before it is started; without input, its output thrown away.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.dir.path().join("root"));
        if self.whose == Whose::Ours {
            command.arg("--config").arg(self.dir.path().join("configuration.toml"));
        }
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Runs a command whose process ends with it.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Ran {
        let mut command = self.command(words);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run a command");
        let (told, output) = mpsc::channel();
        // Whoever keeps an output keeps this one, but not the test.
        thread::spawn(move || told.send(child.wait_with_output()));
        let output = output.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{words:?} does not end"));
        let output = output.expect("hear a command");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Runs a command that leaves a process behind, which has its output: a file of that name, for both streams.
    pub fn leave(&self, words: &[&str], output: &str) -> Ran {
        let path = self.dir.path().join(output);
        let file = || fs::File::options().append(true).create(true).open(&path).expect("open the output");
        let mut command = self.command(words);
        let status = command.stdout(file()).stderr(file()).status().expect("run a command");
        Ran { code: status.code(), stdout: self.output(output), stderr: self.output(output) }
    }

    pub fn output(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).expect("read the output")
    }

    /// A bundle whose program is a shell with that script.
    pub fn bundle(&self, name: &str, script: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
        let dir = self.dir.path().join(format!("bundle-{name}"));
        fs::create_dir_all(&dir).expect("make the bundle");
        let mount = |destination: &str, kind: &str, options: Value| json!({"destination": destination, "type": kind, "source": kind, "options": options});
        let capabilities = json!(["CAP_KILL", "CAP_CHOWN", "CAP_SETUID", "CAP_SETGID"]);
        let mut config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "args": ["sh", "-c", script], "cwd": "/", "user": {"uid": 0, "gid": 0},
                "env": ["PATH=/usr/bin:/bin", "TERM=xterm"],
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            },
            "root": {"path": self.dir.path().join("rootfs")},
            "mounts": [
                mount("/proc", "proc", json!([])),
                mount("/dev", "tmpfs", json!(["nosuid", "mode=755", "size=65536k"])),
                mount("/dev/pts", "devpts", json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"])),
                mount("/sys", "sysfs", json!(["nosuid", "noexec", "nodev", "ro"])),
            ],
            "linux": {
                "namespaces": [
                    {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                ],
            },
        });
        change(&mut config);
        fs::write(dir.join("config.json"), config.to_string()).expect("write config.json");
        dir
    }

    /// What `state` tells.
    pub fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.run(&["state", id]).good()).expect("the state is JSON")
    }

    pub fn status(&self, id: &str) -> String {
        self.state(id)["status"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the container has that status.
    #[track_caller]
    pub fn reaches(&self, id: &str, status: &str) {
        let reached = eventually(|| self.status(id) == status);
        assert!(reached, "{:?}: {id} is {}, not {status}", self.whose, self.status(id));
    }

    /// What is left of containers of this root: directories, mounts, processes.
    pub fn remains(&self) -> Vec<String> {
        let mut remains = Vec::new();
        let number = format!("cli-{}-", self.number);
        let dirs = [self.dir.path().join("root"), "/run/vc/sbs".into(), "/run/vc/vm".into()];
        let dirs = dirs.into_iter().chain(["/run/kata-containers/shared/sandboxes".into()]);
        for entry in dirs.flat_map(|dir| fs::read_dir(dir).into_iter().flatten()).flatten() {
            if entry.file_name().to_string_lossy().contains(&number) {
                remains.push(entry.path().display().to_string());
            }
        }
        let mounts = fs::read_to_string("/proc/self/mounts").expect("read the mounts");
        let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        let rootfs = self.dir.path().join("rootfs");
        remains.extend(places.filter(|place| Path::new(place).starts_with(&rootfs)).map(str::to_owned));
        for entry in fs::read_dir("/proc").expect("read /proc").flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let of_a_test = entry.file_name().to_string_lossy() == std::process::id().to_string();
            if line.contains(&number) && !of_a_test {
                remains.push(line);
            }
        }
        remains
    }

    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(eventually(|| self.remains().is_empty()), "{:?} leaves {:#?}", self.whose, self.remains());
    }
}

impl Drop for Cli {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.dir.path().join("root")).into_iter().flatten().flatten() {
            self.run(&["delete", "--force", &entry.file_name().to_string_lossy()]);
        }
    }
}

/// Looks until it is so, or until nobody would wait any longer.
pub fn eventually(is_so: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    while !is_so() {
        if began.elapsed() > PATIENCE {
            return false;
        }
        thread::sleep(STEP);
    }
    true
}

/// Waits for a child's end; its code. One that does not end is killed.
#[track_caller]
pub fn ended(child: &mut Child) -> Option<i32> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("wait for a child") {
            return status.code();
        }
        if began.elapsed() > PATIENCE {
            let _ = child.kill(); // It is told below.
            panic!("a command does not end");
        }
        thread::sleep(STEP);
    }
}

/// The terminal that comes through a console socket.
pub fn receive_terminal(listener: &UnixListener) -> fs::File {
    let (stream, _) = listener.accept().expect("somebody connects");
    let mut name = [0; 256];
    let mut space = cmsg_space!([i32; 1]);
    let mut parts = [IoSliceMut::new(&mut name)];
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
        .expect("a message comes");
    assert!(message.bytes > 0, "the message names the terminal");
    let rights = message.cmsgs().expect("the message is whole").find_map(|part| match part {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    let number = rights.expect("the message has a descriptor");
    // SAFETY: the kernel has just made this descriptor for us, and nobody else has it.
    fs::File::from(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Unpacks the first image of an OCI layout in a tar archive.
fn unpack(image: &Path, rootfs: &Path) {
    let layout = tempfile::tempdir().expect("make a temporary folder");
    let tar = |archive: &Path, to: &Path| {
        fs::create_dir_all(to).expect("make a folder");
        let status = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(to).status().expect("run tar");
        assert!(status.success(), "unpack {}", archive.display());
    };
    tar(image, layout.path());
    let read = |path: PathBuf| -> Value {
        serde_json::from_slice(&fs::read(path).expect("read the layout")).expect("the layout is JSON")
    };
    let blob = |digest: &Value| {
        let digest =
            digest.as_str().and_then(|digest| digest.split_once(':')).expect("a digest").1.to_owned();
        layout.path().join("blobs/sha256").join(digest)
    };
    let index = read(layout.path().join("index.json"));
    let manifest = read(blob(&index["manifests"][0]["digest"]));
    for layer in manifest["layers"].as_array().expect("layers") {
        tar(&blob(&layer["digest"]), rootfs);
    }
    for dir in ["proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(rootfs.join(dir)).expect("make a folder");
    }
}

//! conmon as CRI-O runs it: for each container, and for each command whose output and code it wants.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use integration::{
    environment::Environment,
    oci_cli::{Cli, ended, eventually},
};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket};
use serde_json::{Value, json};

/// What conmon prints first of what a container writes to its standard output.
const STDOUT: u8 = 2;

/// CRI-O's place on a host, for one runtime.
pub struct Engine<'a> {
    pub cli: &'a Cli,
    conmon: PathBuf,
}

/// What a command in a container said, as CRI-O hands it on.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub code: i64,
    pub output: String,
    pub error: String,
}

impl<'a> Engine<'a> {
    /// None where conmon is missing.
    pub fn new(cli: &'a Cli) -> Option<Self> {
        let conmon = Environment::find()?.podman("4")?.join("usr/bin/conmon");
        for dir in ["exits", "attach", "logs"] {
            fs::create_dir(cli.path().join(dir)).expect("make a folder");
        }
        Some(Self { cli, conmon })
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.cli.path().join("logs").join(name)
    }

    /// What a container's log has, without times.
    pub fn logged(&self, name: &str) -> String {
        let text = fs::read_to_string(self.log(name)).unwrap_or_default();
        text.lines().filter_map(|line| line.split_once(' ')).map(|(_, rest)| format!("{rest}\n")).collect()
    }

    /// The code in the file that tells of a container's end.
    #[track_caller]
    pub fn exit(&self, id: &str) -> String {
        let file = self.cli.path().join("exits").join(id);
        assert!(eventually(|| file.exists()), "{:?}: {id} does not end", self.cli.whose);
        assert_eq!(self.cli.status(id), "stopped", "{:?}", self.cli.whose);
        fs::read_to_string(file).expect("read an exit file")
    }

    /// Makes a container; its pid, or what was said instead.
    pub fn create(&self, name: &str, bundle: &Path, flags: &[&str]) -> Result<u32, String> {
        let id = self.cli.id(name);
        let mut command = self.command(&id, name);
        command.arg("-b").arg(bundle).arg("-P").arg(bundle.join("conmon-pidfile"));
        command.arg("-p").arg(bundle.join("pidfile")).arg("--persist-dir").arg(bundle);
        command.arg("--exit-dir").arg(self.cli.path().join("exits"));
        command.arg("-l").arg(self.log(name)).args(["--log-size-max", "-1", "--syslog"]).args(flags);
        let told = told(command.current_dir(bundle).spawn().expect("run conmon"));
        match told["pid"].as_i64() {
            Some(-1) | None => Err(told["message"].as_str().unwrap_or_default().to_owned()),
            Some(pid) => Ok(pid.try_into().expect("a pid")),
        }
    }

    /// Runs a command to its end, as for probes.
    pub fn exec(&self, name: &str, process: &Path, flags: &[&str]) -> Answer {
        let (id, log) = (self.cli.id(name), self.log("exec"));
        let mut command = self.command(&id, name);
        command.args(["-e", "--sync"]).arg("-l").arg(&log).arg("-p").arg(self.cli.path().join("exec.pid"));
        command
            .arg("--exec-process-spec")
            .arg(process)
            .args(["--log-global-size-max", "16777216"])
            .args(flags);
        let told = told(command.spawn().expect("run conmon"));
        let text = self.logged("exec");
        let of = |stream: &str| {
            let lines = text.lines().filter_map(|line| line.strip_prefix(stream));
            lines.filter_map(|line| line.split_once(' ')).map(|(_, words)| format!("{words}\n")).collect()
        };
        fs::remove_file(log).expect("conmon made a log");
        let message = told["message"].as_str().map(str::to_owned);
        Answer {
            code: told["exit_code"].as_i64().unwrap_or(-2),
            output: of("stdout "),
            error: message.unwrap_or_else(|| of("stderr ")),
        }
    }

    /// Says something to conmon beside a container: its control file's words.
    pub fn control(&self, bundle: &Path, words: &str) {
        let mut file =
            fs::File::options().write(true).open(bundle.join("ctl")).expect("open the control file");
        file.write_all(words.as_bytes()).expect("write to the control file");
    }

    /// The connection of a client that attaches.
    pub fn attach(&self, name: &str) -> Attached {
        let path = self.cli.path().join("attach").join(self.cli.id(name)).join("attach");
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None);
        let socket = socket.expect("make a socket");
        let address = UnixAddr::new(&path).expect("the path is short enough");
        connect(socket.as_raw_fd(), &address).expect("connect to the attach socket");
        Attached(socket)
    }

    /// The words that are the same for both, in the environment that CRI-O gives.
    fn command(&self, id: &str, name: &str) -> Command {
        // Its pipes are descriptors 3 and 4.
        let pipes = "exec 3>&1 4<&0 >/dev/null </dev/null; exec \"$@\"";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", pipes, "sh"]).arg(&self.conmon).args(["-c", id, "-n", name, "-u", id]);
        command
            .arg("-r")
            .arg(self.cli.program())
            .arg("--socket-dir-path")
            .arg(self.cli.path().join("attach"));
        command.arg("--runtime-arg").arg(format!("--root={}", self.cli.path().join("root").display()));
        command.args(["--log-level", "info"]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("KATA_CONF_FILE", self.cli.path().join("configuration.toml"));
        command.env("_OCI_SYNCPIPE", "3").env("_OCI_STARTPIPE", "4");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }
}

/// Lets conmon begin, and hears what it tells by its pipe.
fn told(mut conmon: Child) -> Value {
    conmon.stdin.take().expect("a pipe").write_all(&[0]).expect("let conmon begin");
    let mut pipe = BufReader::new(conmon.stdout.take().expect("a pipe"));
    // It keeps the pipe, and says no more by it.
    let telling = thread::spawn(move || {
        let mut line = String::new();
        pipe.read_line(&mut line).map(|_| line)
    });
    ended(&mut conmon);
    assert!(eventually(|| telling.is_finished()), "conmon says nothing");
    let line = telling.join().expect("the thread ends well").expect("read conmon's pipe");
    serde_json::from_str(&line).unwrap_or_else(|_| json!({"message": format!("conmon says {line:?}")}))
}

/// A client at a container's streams.
pub struct Attached(OwnedFd);

impl Attached {
    pub fn say(&self, words: &str) {
        send(self.0.as_raw_fd(), words.as_bytes(), MsgFlags::empty()).expect("send to the container");
    }

    /// What the container writes next, up to the end of a line.
    pub fn hear(&self) -> String {
        let (mut block, mut line) = ([0; 8193], String::new());
        while !line.ends_with('\n') {
            let length =
                recv(self.0.as_raw_fd(), &mut block, MsgFlags::empty()).expect("hear of the container");
            assert!(length > 0 && block[0] == STDOUT, "{line:?} is all");
            line += &String::from_utf8_lossy(&block[1..length]);
        }
        line
    }
}

//! The shim's commands as processes. `start` sets an OOM score below its own and needs a writable socket directory,
//! which these tests name by containerd's own parameter for it.

use std::{
    fs,
    io::{self, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use containerd_shim_protos::{
    api::{ConnectRequest, CreateTaskRequest, DeleteResponse, ShutdownRequest, StateRequest},
    bootstrap_api::{BootstrapParams, BootstrapResult},
    protobuf::Message,
    shim_async::{Client, TaskClient},
    types::introspection::RuntimeInfo,
};
use ttrpc::{Code, context};

const PROGRAM: &str = env!("CARGO_BIN_EXE_containerd-shim-kata-v2");
const PATIENCE: Duration = Duration::from_secs(10);

/// A bundle, a socket directory, and whatever server `start` makes for them.
struct Fixture {
    dir: tempfile::TempDir,
    id: String,
}

impl Fixture {
    fn new(id: &str, annotations: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("bundle");
        fs::create_dir(&bundle).unwrap();
        let config = format!(
            r#"{{"ociVersion":"1.0.2","process":{{"args":["sh"],"cwd":"/","user":{{"uid":0,"gid":0}}}},
                "root":{{"path":"rootfs"}},"linux":{{}},"annotations":{{{annotations}}}}}"#
        );
        fs::write(bundle.join("config.json"), config).unwrap();
        // Unlikely to be anybody's: the record of a sandbox is looked for under the host's own directory.
        Self { id: format!("{id}-{}", std::process::id()), dir }
    }

    fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args([
            "-namespace",
            "test",
            "-address",
            "/nowhere.sock",
            "-publish-binary",
            "/nowhere",
            "-id",
            &self.id,
        ]);
        command.args(arguments).current_dir(self.bundle()).env_remove("TTRPC_ADDRESS");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = self.command(arguments).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    /// What containerd hands to `start`.
    fn params(&self) -> Vec<u8> {
        let params = BootstrapParams {
            instance_id: self.id.clone(),
            namespace: "test".into(),
            socket_dir: Some(self.dir.path().join("s").display().to_string()),
            ..Default::default()
        };
        params.write_to_bytes().unwrap()
    }

    fn start(&self) -> Result<String, String> {
        let output = self.run(&["start"], &self.params());
        if !output.status.success() {
            return Err(String::from_utf8(output.stderr).unwrap());
        }
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            "",
            "containerd takes it for part of the address"
        );
        let result = BootstrapResult::parse_from_bytes(&output.stdout).unwrap();
        assert_eq!((result.version, result.protocol.as_str()), (2, "ttrpc"));
        Ok(result.address)
    }

    fn delete(&self) -> DeleteResponse {
        let output = self.run(&["-bundle", self.bundle().to_str().unwrap(), "delete"], b"");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        DeleteResponse::parse_from_bytes(&output.stdout).unwrap()
    }

    fn pid(&self) -> u32 {
        self.read("shim.pid").parse().unwrap()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.bundle().join(name)).unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.run(&["-bundle", self.bundle().to_str().unwrap(), "delete"], b"");
    }
}

fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(5));
    }
}

fn socket(address: &str) -> &Path {
    Path::new(address.strip_prefix("unix://").unwrap())
}

fn code<T: std::fmt::Debug>(result: ttrpc::Result<T>) -> Code {
    match result.unwrap_err() {
        ttrpc::Error::RpcStatus(status) => status.code(),
        other => panic!("{other}"),
    }
}

#[test]
fn a_server_of_which_containerd_was_not_told_ends_at_once() {
    let fixture = Fixture::new("untold", "");
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut start = fixture.command(&["start"]).stdout(writer).spawn().unwrap();
    start.stdin.take().unwrap().write_all(&fixture.params()).unwrap();
    assert!(!start.wait().unwrap().success());
    let (pid, address) = (fixture.pid(), fixture.read("address"));
    wait_until("the server's end", || !is_alive(pid) && !socket(&address).exists());
}

#[test]
fn start_leaves_a_server_that_delete_takes_away() {
    let fixture = Fixture::new("single", "");
    let address = fixture.start().unwrap();
    assert_eq!(fixture.read("address"), address);
    let pid = fixture.pid();
    assert!(is_alive(pid));
    let children = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(children.contains(&fixture.id), "ps shows whom it serves: {children}");
    UnixStream::connect(socket(&address)).unwrap();

    let again = fixture.start().unwrap_err();
    assert!(again.contains(&address) && again.contains("already"), "{again}");
    assert_eq!(fixture.pid(), pid, "the first is undisturbed");

    let response = fixture.delete();
    assert_eq!(response.exit_status, 137);
    assert!(response.exited_at.seconds > 0);
    wait_until("the server ends", || !is_alive(pid));
    assert!(!socket(&address).exists());
}

#[test]
fn delete_is_quick_and_succeeds_when_nothing_is_left() {
    let fixture = Fixture::new("gone", "");
    for _ in 0..2 {
        let began = Instant::now();
        assert_eq!(fixture.delete().exit_status, 137);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
    fs::remove_file(fixture.bundle().join("config.json")).unwrap();
    fixture.delete();
}

#[test]
fn delete_finishes_a_removal_that_containerd_was_killed_in() {
    let fixture = Fixture::new("halfway", "");
    let halfway = fixture.dir.path().join(".bundle");
    fs::create_dir(&halfway).unwrap();
    fs::write(halfway.join("config.json"), "{}").unwrap();
    std::os::unix::fs::symlink("/nowhere", halfway.join("work")).unwrap();
    fixture.delete();
    assert!(!halfway.exists());
    assert!(fixture.bundle().join("config.json").exists());
}

#[test]
fn delete_does_not_touch_another_process_with_the_pid() {
    let fixture = Fixture::new("reused", "");
    let mut other = Command::new("sleep").arg("60").spawn().unwrap();
    fs::write(fixture.bundle().join("shim.pid"), other.id().to_string()).unwrap();
    fixture.delete();
    assert!(is_alive(other.id()));
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn a_pods_container_joins_its_sandbox_and_its_delete_leaves_that_alone() {
    let sandbox = Fixture::new("pod", r#""io.kubernetes.cri.container-type":"sandbox""#);
    let address = sandbox.start().unwrap();
    let marks = format!(
        r#""io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-id":"{}""#,
        sandbox.id
    );
    let mut member = Fixture::new("member", &marks);
    // One containerd has one socket directory.
    let own = std::mem::replace(&mut member.dir, tempfile::tempdir().unwrap());
    fs::rename(own.path().join("bundle"), member.bundle()).unwrap();
    std::os::unix::fs::symlink(sandbox.dir.path().join("s"), member.dir.path().join("s")).unwrap();
    let joined = member.start().unwrap();
    assert_eq!(socket(&joined).file_name(), socket(&address).file_name());
    assert_eq!(member.read("address"), joined);
    assert!(!member.bundle().join("shim.pid").exists());
    member.delete();
    assert!(is_alive(sandbox.pid()));
    UnixStream::connect(socket(&address)).unwrap();
}

#[test]
fn a_failed_start_leaves_nothing_and_says_why() {
    let fixture = Fixture::new("bad", "");
    fs::write(fixture.bundle().join("config.json"), "{").unwrap();
    assert!(fixture.start().unwrap_err().contains("config.json"));
    assert!(!fixture.dir.path().join("s").exists());

    let fixture = Fixture::new("unwritable", "");
    // The pid file cannot be written: a directory is in the way.
    fs::create_dir_all(fixture.bundle().join("shim.pid/x")).unwrap();
    assert!(fixture.start().unwrap_err().contains("shim.pid"));
    assert_eq!(fs::read_dir(fixture.dir.path().join("s")).unwrap().count(), 0);
    let mine = |line: &str| line.contains(&fixture.id);
    let servers = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        fs::read_to_string(entry.path().join("cmdline")).is_ok_and(|line| mine(&line))
            && !entry.path().ends_with("self")
    });
    assert_eq!(servers.count(), 0, "no server is left behind");
}

#[test]
fn shutdown_after_a_failed_create_ends_the_server() {
    let fixture = Fixture::new("failed", "");
    let address = fixture.start().unwrap();
    let pid = fixture.pid();
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    executor.block_on(async {
        let task = TaskClient::new(Client::connect(&address).await.unwrap());
        let patience = || context::with_duration(PATIENCE);
        let connected = task.connect(patience(), &ConnectRequest::new()).await.unwrap();
        assert_eq!((connected.shim_pid, connected.task_pid), (pid, 0));

        let create = CreateTaskRequest {
            id: fixture.id.clone(),
            bundle: fixture.dir.path().join("no-bundle").display().to_string(),
            ..Default::default()
        };
        assert_eq!(code(task.create(patience(), &create).await), Code::INVALID_ARGUMENT);
        let state = StateRequest { id: fixture.id.clone(), ..Default::default() };
        assert_eq!(code(task.state(patience(), &state).await), Code::NOT_FOUND);
        let shutdown = ShutdownRequest { id: fixture.id.clone(), ..Default::default() };
        task.shutdown(patience(), &shutdown).await.unwrap();
    });
    wait_until("the server ends", || !is_alive(pid));
    assert!(!socket(&address).exists());
}

#[test]
fn a_server_without_containers_ends_on_sigterm() {
    let fixture = Fixture::new("term", "");
    let address = fixture.start().unwrap();
    let pid = fixture.pid();
    // It catches the signal once it serves.
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    executor.block_on(async {
        let task = TaskClient::new(Client::connect(&address).await.unwrap());
        task.connect(context::with_duration(PATIENCE), &ConnectRequest::new()).await.unwrap();
    });
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGTERM)
        .unwrap();
    wait_until("the server ends", || !is_alive(pid));
    assert!(!socket(&address).exists());
}

#[test]
fn info_and_version_tell_what_this_is() {
    let fixture = Fixture::new("info", "");
    let info = RuntimeInfo::parse_from_bytes(&fixture.run(&["-info"], b"").stdout).unwrap();
    assert_eq!(info.name, "io.containerd.kata.v2");
    assert_eq!(info.version.version, env!("CARGO_PKG_VERSION"));
    for flag in ["-v", "--version"] {
        let version = String::from_utf8(fixture.run(&[flag], b"").stdout).unwrap();
        assert!(version.contains("io.containerd.kata.v2") && version.lines().count() == 1, "{version}");
    }
    let variant = fixture.dir.path().join("containerd-shim-kata-fast-v2");
    std::os::unix::fs::symlink(PROGRAM, &variant).unwrap();
    let output = Command::new(&variant).arg("-info").stdin(Stdio::null()).output().unwrap();
    assert_eq!(RuntimeInfo::parse_from_bytes(&output.stdout).unwrap().name, "io.containerd.kata-fast.v2");
}

#[test]
fn nonsense_is_refused_on_standard_error() {
    let fixture = Fixture::new("nonsense", "");
    for arguments in [&["stop"][..], &["-debug=maybe", "start"], &[]] {
        let output = fixture.run(arguments, b"");
        assert!(
            !output.status.success() && output.stdout.is_empty() && !output.stderr.is_empty(),
            "{arguments:?}"
        );
    }
}

//! A shim as it is installed, driven without containerd: the reference, `containerd-shim-runc-v2` with runc, or our own with a
//! real VM.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use containerd_shim_protos::{
    api::Empty,
    protobuf::well_known_types::any::Any,
    shim::events::ForwardRequest,
    shim_async::{Client, Events, create_events},
};
use integration::{environment::Environment, workshop::options};
use nix::{
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};
use tempfile::TempDir;
use tokio::time::sleep;
use ttrpc::r#async::{Server, TtrpcContext};

use super::subject::Subject;

const NAMESPACE: &str = "task-table";
/// Tests run beside each other, each with its own.
fn unique() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("table-runc-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A running shim; ended and cleaned up after when dropped.
pub struct Program {
    pub subject: Subject,
    topics: Arc<Mutex<Vec<String>>>,
    program: PathBuf,
    id: String,
    dir: TempDir,
    pid: u32,
    _events: Server,
}

/// The reference; `None`, with a word, where it is not installed.
pub async fn start() -> Option<Program> {
    let installed = |program: &str| Command::new(program).arg("-v").output().is_ok();
    if !installed("containerd-shim-runc-v2") || !installed("runc") {
        assert!(std::env::var_os("CI").is_none(), "the reference is not installed");
        eprintln!("skipped: containerd-shim-runc-v2 or runc is not installed");
        return None;
    }
    Some(launch("containerd-shim-runc-v2".into(), None).await)
}

/// Ours, with a VM; `None`, with a word, where there is none to be had.
pub async fn start_ours() -> Option<Program> {
    let env = Environment::find()?;
    let program = env.programs().join("containerd-shim-kata-v2");
    Some(launch(program, Some(options(&env.configuration()))).await)
}

async fn launch(program: PathBuf, options: Option<Any>) -> Program {
    let dir = tempfile::Builder::new().prefix("kt.").tempdir_in("/run").expect("make a folder");
    let bundle = dir.path().join("bundle");
    let id = unique();
    make_bundle(&bundle, &id);
    let log = bundle.join("log");
    mkfifo(&log, Mode::S_IRWXU).expect("make the log");
    pass_on(OpenOptions::new().read(true).write(true).open(log).expect("open the log"));
    let (events, topics) = serve_events(&dir.path().join("events.sock")).await;
    let started = command(&program, dir.path(), &id, "start").output().expect("run the shim");
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    let address = String::from_utf8_lossy(&started.stdout).trim().to_owned();
    let client = Client::connect(&address).await.expect("connect to the shim");
    let subject = Subject::new(client, "containerd.task.v2.Task", &id, bundle, options);
    let pid = subject.shim_pid().await;
    Program { subject, topics, program, id, dir, pid, _events: events }
}

/// What the shim says, among what the test says, as long as this process lives.
fn pass_on(log: File) {
    std::thread::spawn(|| {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            eprintln!("{line}");
        }
    });
}

impl Program {
    /// The topics that it has published, in order, once `last` is among them.
    pub async fn topics(&self, last: &str) -> Vec<String> {
        for _ in 0..400 {
            let topics = self.topics.lock().expect("no panic").clone();
            if topics.iter().any(|topic| topic == last) {
                return topics;
            }
            // It publishes behind its answers, and tells nobody when.
            sleep(Duration::from_millis(50)).await;
        }
        panic!("{last} was not published: {:?}", self.topics);
    }
}

fn command(program: &Path, dir: &Path, id: &str, action: &str) -> Command {
    let socket = dir.join("events.sock");
    let mut command = Command::new(program);
    command
        .args(["-namespace", NAMESPACE, "-id", id, "-bundle"])
        .arg(dir.join("bundle"))
        .arg("-address")
        .arg(dir.join("c.sock"))
        .args(["-publish-binary", "/bin/true", action])
        .current_dir(dir.join("bundle"))
        .env("TTRPC_ADDRESS", socket)
        .stdin(Stdio::null());
    command
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.pid) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL); // After a good end it is gone.
        }
        let _ = command(&self.program, self.dir.path(), &self.id, "delete").output(); // After a good end there is nothing to delete.
        for root in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = fs::remove_dir(root.path().join(&self.id));
        }
        let _ = fs::remove_dir_all(Path::new("/run/containerd/runc").join(NAMESPACE).join(&self.id));
        // The last one takes the folder away.
        let _ = fs::remove_dir(Path::new("/run/containerd/runc").join(NAMESPACE));
    }
}

/// A bundle of the host's own programs: its init sleeps.
fn make_bundle(bundle: &Path, id: &str) {
    fs::create_dir_all(bundle.join("rootfs")).expect("make the bundle");
    let mut mounts = vec![
        serde_json::json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        serde_json::json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}),
    ];
    let shared = ["/bin", "/lib", "/lib64", "/usr"].map(PathBuf::from);
    for path in shared.iter().filter(|path| path.exists()) {
        mounts.push(serde_json::json!({
            "destination": path, "type": "bind", "source": path, "options": ["rbind", "ro"]
        }));
    }
    let namespaces = ["pid", "mount", "ipc", "uts", "network"].map(|kind| serde_json::json!({"type": kind}));
    let spec = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": ["sleep", "1000"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/usr/bin:/bin"],
        },
        "root": {"path": "rootfs"},
        "mounts": mounts,
        "linux": {
            "cgroupsPath": format!("/{id}"),
            "namespaces": namespaces,
        },
    });
    fs::write(bundle.join("config.json"), spec.to_string()).expect("write config.json");
}

struct Listener(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl Events for Listener {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let topic = request.envelope.topic.clone();
        self.0.lock().expect("no panic").push(topic);
        Ok(Empty::new())
    }
}

async fn serve_events(socket: &Path) -> (Server, Arc<Mutex<Vec<String>>>) {
    let topics = Arc::new(Mutex::new(Vec::new()));
    let service = create_events(Arc::new(Listener(topics.clone())));
    let mut server = Server::new()
        .bind(&format!("unix://{}", socket.display()))
        .expect("bind the event service")
        .register_service(service);
    server.start().await.expect("serve events");
    (server, topics)
}

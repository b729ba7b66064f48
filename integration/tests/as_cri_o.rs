//! The shim as CRI-O runs it with `runtime_type = "vm"`: no containerd, no address for events, root file systems that are
//! mounted already, its own annotations, and one start for each container of a pod.

use std::{
    fs::{self, OpenOptions},
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use containerd_shim_protos::{
    api::{
        CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, KillRequest,
        ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, Status, WaitRequest,
        WaitResponse,
    },
    protobuf::{Message, well_known_types::any::Any},
    shim_async::Client,
};
use integration::{containerd::remains, environment::Environment, place::unique};
use nix::{sys::stat::Mode, unistd::mkfifo};
use serde_json::json;
use tempfile::TempDir;
use ttrpc::proto::Request;

/// A VM that boots on a busy machine, and then some.
const PATIENCE: Duration = Duration::from_secs(120);

/// CRI-O and one pod of it.
struct Engine {
    dir: TempDir,
    program: PathBuf,
    configuration: PathBuf,
    pod: String,
}

/// A container, and its shim as this container's CRI-O has it.
struct Container {
    id: String,
    bundle: PathBuf,
    address: String,
    client: Client,
    output: JoinHandle<String>,
}

impl Engine {
    fn new() -> Option<Self> {
        let env = Environment::find()?;
        let dir = tempfile::Builder::new().prefix("kt.").tempdir_in("/run").unwrap();
        let program = env.programs().join("containerd-shim-kata-v2");
        Some(Self { dir, program, configuration: env.configuration(), pod: format!("criopod{}", unique()) })
    }

    /// Makes a bundle, starts the shim for it, and creates the container.
    async fn create(&self, id: &str, kind: &str, args: &[&str]) -> Container {
        let bundle = self.dir.path().join(id);
        fs::create_dir_all(bundle.join("merged")).unwrap();
        let spec = spec(&bundle.join("merged"), kind, &self.pod, args);
        fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        // Read and written, so that no open waits for the other end.
        let log = bundle.join("log");
        mkfifo(&log, Mode::S_IRWXU).unwrap();
        let _log = OpenOptions::new().read(true).write(true).open(&log).unwrap();
        let stdout = bundle.join("stdout");
        mkfifo(&stdout, Mode::S_IRWXU).unwrap();
        let reader = stdout.clone();
        let output = thread::spawn(move || {
            let mut text = String::new();
            fs::File::open(reader).unwrap().read_to_string(&mut text).unwrap();
            text
        });

        let started = self.command(&bundle, id, "start").output().unwrap();
        // CRI-O takes both outputs together for the address.
        let address = String::from_utf8([started.stdout, started.stderr].concat()).unwrap().trim().to_owned();
        assert!(started.status.success(), "{address}");
        let client = Client::connect(&address).await.unwrap();
        let container = Container { id: id.into(), bundle, address, client, output };
        let request = CreateTaskRequest {
            id: id.into(),
            bundle: container.bundle.display().to_string(),
            stdout: stdout.display().to_string(),
            options: Some(self.options()).into(),
            ..Default::default()
        };
        container.call::<CreateTaskResponse>("Create", &request).await.unwrap();
        container
    }

    fn command(&self, bundle: &Path, id: &str, action: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["-namespace", "default", "-address", "", "-publish-binary", "/usr/bin/crio"]);
        command.args(["-id", id, action]).current_dir(bundle);
        command.env("MAX_SHIM_VERSION", "2").env("TTRPC_ADDRESS", "").stdin(Stdio::null());
        command
    }

    /// `runtime_config_path`, which is field 2.
    fn options(&self) -> Any {
        let path = self.configuration.display().to_string();
        let mut value = vec![0x12, u8::try_from(path.len()).unwrap()];
        value.extend_from_slice(path.as_bytes());
        Any { type_url: "runtimeoptions.v1.Options".into(), value, ..Default::default() }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let bundle = self.dir.path().join(&self.pod);
        if bundle.exists() {
            let _ = self.command(&bundle, &self.pod, "delete").output(); // After a good end nothing is left to delete.
        }
    }
}

impl Container {
    async fn call<T: Message>(&self, method: &str, message: &impl Message) -> ttrpc::Result<T> {
        let request = Request {
            service: "containerd.task.v2.Task".into(),
            method: method.into(),
            timeout_nano: PATIENCE.as_nanos() as i64,
            payload: message.write_to_bytes().unwrap(),
            ..Default::default()
        };
        let response = self.client.request(request).await?;
        Ok(T::parse_from_bytes(&response.payload).unwrap())
    }

    async fn start(&self) {
        let request = StartRequest { id: self.id.clone(), ..Default::default() };
        self.call::<StartResponse>("Start", &request).await.unwrap();
    }

    async fn state(&self) -> StateResponse {
        let request = StateRequest { id: self.id.clone(), ..Default::default() };
        self.call("State", &request).await.unwrap()
    }

    async fn exit(&self) -> u32 {
        let request = WaitRequest { id: self.id.clone(), ..Default::default() };
        self.call::<WaitResponse>("Wait", &request).await.unwrap().exit_status
    }

    async fn kill(&self, signal: u32) {
        let request = KillRequest { id: self.id.clone(), signal, ..Default::default() };
        self.call::<Empty>("Kill", &request).await.unwrap();
    }

    /// Deletes it, and says to its shim that it may end.
    async fn delete(self) -> String {
        let request = DeleteRequest { id: self.id.clone(), ..Default::default() };
        self.call::<DeleteResponse>("Delete", &request).await.unwrap();
        let request = ShutdownRequest { id: self.id.clone(), ..Default::default() };
        // The last one's answer may be the end of the connection.
        let _ = self.call::<Empty>("Shutdown", &request).await;
        self.output.join().unwrap()
    }
}

/// A specification in CRI-O's manner, with the host's own programs.
fn spec(root: &Path, kind: &str, pod: &str, args: &[&str]) -> serde_json::Value {
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}),
    ];
    for path in ["/bin", "/lib", "/lib64", "/usr"].map(Path::new).iter().filter(|path| path.exists()) {
        mounts.push(json!({"destination": path, "type": "bind", "source": path, "options": ["rbind", "ro"]}));
    }
    let namespaces = ["pid", "mount", "ipc", "uts", "network"].map(|kind| json!({"type": kind}));
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": args, "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/usr/bin:/bin"],
        },
        "root": {"path": root},
        "hostname": "as-cri-o",
        "mounts": mounts,
        "annotations": {
            "io.kubernetes.cri-o.ContainerType": kind,
            "io.kubernetes.cri-o.SandboxID": pod,
            "io.kubernetes.cri-o.Name": "k8s_pod_default",
        },
        "linux": {"cgroupsPath": format!("/crio-{pod}"), "namespaces": namespaces},
    })
}

#[tokio::test]
async fn a_pod_lives_and_dies_as_cri_o_makes_it() {
    let Some(engine) = Engine::new() else { return };
    let pod = engine.create(&engine.pod, "sandbox", &["/pause"]).await;
    pod.start().await;
    assert_eq!(pod.state().await.status.enum_value(), Ok(Status::RUNNING));

    let id = format!("{}-c", engine.pod);
    let script = "hostname; cat /proc/sys/kernel/random/boot_id; exit 7";
    let container = engine.create(&id, "container", &["sh", "-c", script]).await;
    assert_eq!(container.address, pod.address);
    // From there it finds the shim again when it was restarted itself.
    for bundle in [&pod.bundle, &container.bundle] {
        assert_eq!(fs::read_to_string(bundle.join("address")).unwrap(), pod.address);
    }
    container.start().await;
    assert_eq!(container.exit().await, 7);
    let state = container.state().await;
    assert_eq!((state.status.enum_value(), state.exit_status), (Ok(Status::STOPPED), 7));
    let output = container.delete().await;
    let host = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert!(output.starts_with("as-cri-o\n") && !output.contains(&host), "{output}");

    // The shim was told to end, and has another container.
    assert_eq!(pod.state().await.status.enum_value(), Ok(Status::RUNNING));
    pod.kill(15).await;
    pod.exit().await;
    assert_eq!(pod.state().await.status.enum_value(), Ok(Status::STOPPED));
    pod.delete().await;

    let began = Instant::now();
    let mounts = Path::new("/proc/self/mounts");
    while !remains(&engine.pod, mounts).is_empty() && began.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(remains(&engine.pod, mounts), Vec::<String>::new());
}

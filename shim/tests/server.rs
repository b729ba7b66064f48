//! The server without a sandbox: what it answers, under which names, and when it ends.

use std::{
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use containerd_shim_protos::{
    api::{
        CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
        DeleteRequest, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, ResizePtyRequest,
        ResumeRequest, ShutdownRequest, StartRequest, StateRequest, StatsRequest, UpdateTaskRequest,
        WaitRequest,
    },
    protobuf::Message,
    shim_async::{Client, TaskClient},
};
use runtime::paths::Paths;
use shim::{
    keeper::{Keeper, KeeperSetup},
    logging::LogLevel,
    server,
};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use ttrpc::{Code, context, context::Context};

const PATIENCE: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(3600);

struct Fixture {
    dir: tempfile::TempDir,
    socket: PathBuf,
    serving: JoinHandle<runtime::error::Result<()>>,
}

impl Fixture {
    fn new(idle: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let keeper = Keeper::new(KeeperSetup {
            hypervisor_for: Box::new(|_| unreachable!("these tests make no sandbox")),
            paths: Paths::under(dir.path()),
            events: mpsc::unbounded_channel().0,
            log_level: LogLevel::default(),
            reserve: None,
        });
        let serving = tokio::spawn(server::serve(listener, Arc::new(keeper), idle));
        Self { dir, socket, serving }
    }

    async fn client(&self) -> Client {
        Client::connect(&format!("unix://{}", self.socket.display())).await.unwrap()
    }

    fn bundle(&self, annotations: &str) -> PathBuf {
        let config = format!(
            r#"{{"ociVersion":"1.0.2","process":{{"args":["sh"],"cwd":"/","user":{{"uid":0,"gid":0}}}},
                "root":{{"path":"rootfs"}},"linux":{{}},"annotations":{{{annotations}}}}}"#
        );
        let bundle = self.dir.path().join("bundle");
        std::fs::create_dir_all(&bundle).unwrap();
        std::fs::write(bundle.join("config.json"), config).unwrap();
        bundle
    }

    /// Waits for its end, and that it leaves nothing.
    async fn ended(self) {
        timeout(PATIENCE, self.serving).await.expect("the server ends").unwrap().unwrap();
        assert!(!self.socket.exists());
    }
}

fn patience() -> Context {
    context::with_duration(PATIENCE)
}

fn refusal<T>(result: ttrpc::Result<T>) -> (Code, String) {
    match result.err().expect("a refusal") {
        ttrpc::Error::RpcStatus(status) => (status.code(), status.message().to_owned()),
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_container_is_not_found_whatever_is_asked() {
    let fixture = Fixture::new(LONG);
    let task = TaskClient::new(fixture.client().await);
    let id = || "c1".to_owned();
    macro_rules! not_found {
        ($($call:ident($request:ident)),* $(,)?) => {$(
            let request = $request { id: id(), ..Default::default() };
            let (code, message) = refusal(task.$call(patience(), &request).await);
            assert_eq!((code, message.as_str()), (Code::NOT_FOUND, "container not created: not found"), stringify!($call));
        )*};
    }
    not_found!(
        start(StartRequest),
        state(StateRequest),
        wait(WaitRequest),
        kill(KillRequest),
        delete(DeleteRequest),
        exec(ExecProcessRequest),
        resize_pty(ResizePtyRequest),
        close_io(CloseIORequest),
        pids(PidsRequest),
        pause(PauseRequest),
        resume(ResumeRequest),
        checkpoint(CheckpointTaskRequest),
        update(UpdateTaskRequest),
        stats(StatsRequest),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn both_names_of_the_service_answer() {
    let fixture = Fixture::new(LONG);
    let client = fixture.client().await;
    for service in ["containerd.task.v2.Task", "containerd.task.v3.Task"] {
        let request = ttrpc::Request {
            service: service.into(),
            method: "Connect".into(),
            payload: ConnectRequest::new().write_to_bytes().unwrap(),
            timeout_nano: PATIENCE.as_nanos() as i64,
            ..Default::default()
        };
        let response = client.request(request).await.unwrap_or_else(|error| panic!("{service}: {error}"));
        let response = ConnectResponse::parse_from_bytes(&response.payload).unwrap();
        assert_eq!(response.shim_pid, std::process::id());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_cannot_be_is_refused_with_the_reason() {
    let fixture = Fixture::new(LONG);
    let task = TaskClient::new(fixture.client().await);
    let member = r#""io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-id":"pod""#;
    let options = |path: &str| {
        let mut value = vec![0x12, path.len() as u8];
        value.extend_from_slice(path.as_bytes());
        let mut any = containerd_shim_protos::protobuf::well_known_types::any::Any::new();
        any.type_url = "runtimeoptions.v1.Options".into();
        any.value = value;
        any
    };
    let create = |id: &str, bundle: &Path| CreateTaskRequest {
        id: id.into(),
        bundle: bundle.display().to_string(),
        ..Default::default()
    };
    for (what, request, code, words) in [
        ("no bundle", create("c1", &fixture.dir.path().join("x")), Code::INVALID_ARGUMENT, "config.json"),
        ("bad id", create("../c1", &fixture.bundle("")), Code::INVALID_ARGUMENT, "container id"),
        (
            "a checkpoint",
            CreateTaskRequest { checkpoint: "/x".into(), ..create("c1", &fixture.bundle("")) },
            Code::UNIMPLEMENTED,
            "checkpoint",
        ),
        (
            "no configuration",
            CreateTaskRequest {
                options: Some(options("/nowhere.toml")).into(),
                ..create("c1", &fixture.bundle(""))
            },
            Code::INVALID_ARGUMENT,
            "/nowhere.toml",
        ),
    ] {
        let (found, message) = refusal(task.create(patience(), &request).await);
        assert_eq!(found, code, "{what}: {message}");
        assert!(message.contains(words), "{what}: {message}");
    }
    let request = create("c1", &fixture.bundle(member));
    assert_eq!(refusal(task.create(patience(), &request).await).0, Code::NOT_FOUND, "a pod that is not here");
    task.shutdown(patience(), &ShutdownRequest::new()).await.unwrap();
    fixture.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_when_nobody_wants_anything_though_they_ask() {
    let idle = Duration::from_millis(400);
    let began = Instant::now();
    let fixture = Fixture::new(idle);
    let task = TaskClient::new(fixture.client().await);
    // The connection stays open, as containerd's does.
    while task.connect(patience(), &ConnectRequest::new()).await.is_ok() {
        assert!(began.elapsed() < Duration::from_secs(30), "it stays");
        tokio::time::sleep(idle / 10).await;
    }
    assert!(began.elapsed() >= idle, "it ends before anybody can want anything");
    fixture.ended().await;
}

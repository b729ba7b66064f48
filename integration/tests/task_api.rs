//! containerd's Task calls over the fake VM: what each answers in each state of a container.

use std::{os::unix::net::UnixListener, path::PathBuf, sync::Arc, time::Duration};

use containerd_shim_protos::{
    api::{
        CheckpointTaskRequest, CloseIORequest, ConnectRequest, CreateTaskRequest, DeleteRequest,
        ExecProcessRequest, KillRequest, PidsRequest, ResizePtyRequest, ShutdownRequest, StartRequest,
        StateRequest, Status, WaitRequest,
    },
    protobuf::well_known_types::any::Any,
    shim_async::{Client, TaskClient},
};
use integration::{
    fake_vm::{Behaviour, FakeHypervisor},
    workshop::{Workshop, options, sandbox_id},
};
use runtime::events::Event;
use shim::{
    keeper::{Keeper, KeeperSetup},
    logging::LogLevel,
    server,
};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use ttrpc::{Code, context, context::Context};

const PATIENCE: Duration = Duration::from_secs(20);

/// A shim's server over the fake VM, and a client of it.
struct Shim {
    hypervisor: Arc<FakeHypervisor>,
    keeper: Arc<Keeper>,
    task: TaskClient,
    config: PathBuf,
    serving: JoinHandle<runtime::error::Result<()>>,
    events: mpsc::UnboundedReceiver<Event>,
}

async fn shim(workshop: &Workshop, behaviour: Behaviour) -> Shim {
    let socket = workshop.path().join("shim.sock");
    let listener = UnixListener::bind(&socket).expect("bind");
    let (sender, events) = mpsc::unbounded_channel();
    let hypervisor = FakeHypervisor::new(behaviour);
    let boots = hypervisor.clone();
    let keeper = Arc::new(Keeper::new(KeeperSetup {
        hypervisor_for: Box::new(move |_| boots.clone()),
        paths: workshop.paths(),
        events: sender,
        log_level: LogLevel::default(),
        reserve: None,
    }));
    let serving = tokio::spawn(server::serve(listener, keeper.clone(), Duration::from_secs(60)));
    let client = Client::connect(&format!("unix://{}", socket.display())).await.expect("connect");
    let (task, config) = (TaskClient::new(client), workshop.config("").path);
    Shim { hypervisor, keeper, task, config, serving, events }
}

fn within() -> Context {
    context::with_duration(PATIENCE)
}

fn code<T: std::fmt::Debug>(result: ttrpc::Result<T>) -> Code {
    match result {
        Ok(_) => Code::OK,
        Err(ttrpc::Error::RpcStatus(status)) => status.code(),
        Err(error) => panic!("no status: {error}"),
    }
}

impl Shim {
    fn create_request(&self, workshop: &Workshop, id: &str, script: &str) -> CreateTaskRequest {
        CreateTaskRequest {
            id: id.into(),
            bundle: workshop.bundle(id, script).dir.display().to_string(),
            options: Some(options(&self.config)).into(),
            ..Default::default()
        }
    }

    async fn state(&self, id: &str, exec: &str) -> ttrpc::Result<Status> {
        let request = StateRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        let state = self.task.state(within(), &request).await?;
        Ok(state.status.enum_value().expect("a known status"))
    }

    async fn start(&self, id: &str, exec: &str) -> Code {
        let request = StartRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        code(self.task.start(within(), &request).await)
    }

    async fn kill(&self, id: &str, exec: &str, signal: u32) -> Code {
        let request = KillRequest { id: id.into(), exec_id: exec.into(), signal, ..Default::default() };
        code(self.task.kill(within(), &request).await)
    }

    async fn wait(&self, id: &str, exec: &str) -> ttrpc::Result<u32> {
        let request = WaitRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        Ok(self.task.wait(within(), &request).await?.exit_status)
    }

    async fn delete(&self, id: &str, exec: &str) -> ttrpc::Result<u32> {
        let request = DeleteRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        Ok(self.task.delete(within(), &request).await?.exit_status)
    }

    async fn exec(&self, id: &str, exec: &str, script: &str) -> Code {
        let process = serde_json::json!({
            "args": ["sh", "-c", script], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/usr/bin:/bin"]
        });
        let spec = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value: process.to_string().into_bytes(),
            ..Default::default()
        };
        let request = ExecProcessRequest {
            id: id.into(),
            exec_id: exec.into(),
            spec: Some(spec).into(),
            ..Default::default()
        };
        code(self.task.exec(within(), &request).await)
    }

    /// Shuts it down and asserts that it has ended and left nothing.
    async fn end(self, workshop: &Workshop) {
        // The answer may be lost with the connection.
        let _ =
            self.task.shutdown(within(), &ShutdownRequest { id: "c1".into(), ..Default::default() }).await;
        timeout(PATIENCE, self.serving).await.expect("the server ends").expect("no panic").expect("no error");
        assert_eq!(workshop.remains(), Vec::<PathBuf>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_answers_by_the_containers_state() {
    let Some(workshop) = Workshop::open() else { return };
    let shim = shim(&workshop, Behaviour::Boots).await;

    // No container at all.
    assert_eq!(code(shim.state("c1", "").await), Code::NOT_FOUND);
    assert_eq!(shim.start("c1", "").await, Code::NOT_FOUND);
    assert_eq!(shim.kill("c1", "", 9).await, Code::NOT_FOUND);
    assert_eq!(code(shim.wait("c1", "").await), Code::NOT_FOUND);
    assert_eq!(code(shim.delete("c1", "").await), Code::NOT_FOUND);
    assert_eq!(shim.exec("c1", "e1", "true").await, Code::NOT_FOUND);

    // Created.
    let request = shim.create_request(&workshop, "c1", "sleep 1000");
    let created = shim.task.create(within(), &request).await.expect("created");
    assert_eq!(created.pid, std::process::id());
    assert_eq!(shim.state("c1", "").await.expect("a state"), Status::CREATED);
    assert_eq!(code(shim.task.create(within(), &request).await), Code::ALREADY_EXISTS);
    assert_eq!(code(shim.state("c1", "e1").await), Code::NOT_FOUND);

    // Running.
    assert_eq!(shim.start("c1", "").await, Code::OK);
    assert_eq!(shim.state("c1", "").await.expect("a state"), Status::RUNNING);
    assert_eq!(shim.start("c1", "").await, Code::UNKNOWN);
    assert_eq!(code(shim.delete("c1", "").await), Code::UNKNOWN);
    let pids =
        shim.task.pids(within(), &PidsRequest { id: "c1".into(), ..Default::default() }).await.expect("pids");
    assert_eq!(pids.processes.len(), 1);
    let resize = ResizePtyRequest { id: "c1".into(), width: 80, height: 24, ..Default::default() };
    assert_eq!(
        code(shim.task.resize_pty(within(), &resize).await),
        Code::OK,
        "no terminal, and nobody minds"
    );
    let close = CloseIORequest { id: "c1".into(), stdin: true, ..Default::default() };
    assert_eq!(code(shim.task.close_io(within(), &close).await), Code::OK);

    // An exec, through its own states.
    assert_eq!(shim.exec("c1", "e1", "exit 4").await, Code::OK);
    assert_eq!(shim.exec("c1", "e1", "exit 4").await, Code::ALREADY_EXISTS);
    assert_eq!(shim.state("c1", "e1").await.expect("a state"), Status::CREATED);
    assert_eq!(shim.kill("c1", "e1", 9).await, Code::FAILED_PRECONDITION);
    assert_eq!(shim.start("c1", "e1").await, Code::OK);
    assert_eq!(shim.wait("c1", "e1").await.expect("an end"), 4);
    assert_eq!(shim.state("c1", "e1").await.expect("a state"), Status::STOPPED);
    assert_eq!(shim.kill("c1", "e1", 9).await, Code::NOT_FOUND);
    assert_eq!(shim.delete("c1", "e1").await.expect("deleted"), 4);
    assert_eq!(code(shim.delete("c1", "e1").await), Code::NOT_FOUND);
    assert_eq!(shim.exec("c1", "../e", "true").await, Code::INVALID_ARGUMENT);

    // Not served, and said so.
    let checkpoint = CheckpointTaskRequest { id: "c1".into(), ..Default::default() };
    assert_eq!(code(shim.task.checkpoint(within(), &checkpoint).await), Code::UNIMPLEMENTED);

    // A shutdown while there is a container changes nothing.
    let shutdown = ShutdownRequest { id: "c1".into(), ..Default::default() };
    assert_eq!(code(shim.task.shutdown(within(), &shutdown).await), Code::OK);
    let connected = shim.task.connect(within(), &ConnectRequest::default()).await.expect("connected");
    assert_eq!(connected.shim_pid, std::process::id());

    // Stopped.
    assert_eq!(shim.kill("c1", "", 9).await, Code::OK);
    assert_eq!(shim.wait("c1", "").await.expect("an end"), 137);
    assert_eq!(shim.wait("c1", "").await.expect("the same end"), 137);
    assert_eq!(shim.state("c1", "").await.expect("a state"), Status::STOPPED);
    assert_eq!(shim.kill("c1", "", 9).await, Code::NOT_FOUND);
    assert_eq!(shim.start("c1", "").await, Code::UNKNOWN);
    assert_eq!(shim.exec("c1", "e2", "true").await, Code::UNKNOWN);
    assert_eq!(shim.delete("c1", "").await.expect("deleted"), 137);
    assert_eq!(code(shim.delete("c1", "").await), Code::NOT_FOUND);
    shim.end(&workshop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_in_containerds_order() {
    let Some(workshop) = Workshop::open() else { return };
    let mut shim = shim(&workshop, Behaviour::Boots).await;
    shim.task.create(within(), &shim.create_request(&workshop, "c1", "exit 2")).await.expect("created");
    assert_eq!(shim.start("c1", "").await, Code::OK);
    assert_eq!(shim.wait("c1", "").await.expect("an end"), 2);
    shim.delete("c1", "").await.expect("deleted");
    let mut told = Vec::new();
    while let Ok(event) = shim.events.try_recv() {
        told.push(match event {
            Event::Created { .. } => "create",
            Event::Started { .. } => "start",
            Event::Exited { exit, .. } if exit.code == 2 => "exit",
            Event::Deleted { .. } => "delete",
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(told, ["create", "start", "exit", "delete"]);
    shim.end(&workshop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_create_says_why_leaves_nothing_and_the_shim_still_ends() {
    let Some(workshop) = Workshop::open() else { return };
    let shim = shim(&workshop, Behaviour::Refuses).await;
    let request = shim.create_request(&workshop, "c1", "true");
    match shim.task.create(within(), &request).await {
        Err(ttrpc::Error::RpcStatus(status)) => {
            assert!(status.message.contains("boots nothing"), "{}", status.message)
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(workshop.remains(), Vec::<PathBuf>::new());
    shim.end(&workshop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_comes_while_the_last_sandbox_ends_has_all_the_time_it_needs() {
    let Some(workshop) = Workshop::open() else { return };
    let shim = shim(&workshop, Behaviour::Boots).await;
    let request = shim.create_request(&workshop, "c1", "exec sleep 1000");
    shim.task.create(within(), &request).await.expect("created");
    assert_eq!(shim.kill("c1", "", 9).await, Code::OK);
    shim.wait("c1", "").await.expect("ended");

    shim.hypervisor.stall("DestroySandbox");
    shim.delete("c1", "").await.expect("deleted");
    let create = tokio::spawn({
        let task = shim.task.clone();
        async move { task.create(within(), &request).await }
    });
    sleep(Duration::from_millis(200)).await;
    shim.hypervisor.go_on();
    shim.hypervisor.stall("CreateSandbox");
    // Longer than a shim stays after its last container.
    sleep(Duration::from_secs(6)).await;
    shim.hypervisor.go_on();
    create.await.expect("no panic").expect("created again");

    assert_eq!(shim.kill("c1", "", 9).await, Code::OK);
    shim.wait("c1", "").await.expect("ended");
    shim.delete("c1", "").await.expect("deleted");
    shim.end(&workshop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_is_not_ended_under_a_container_that_comes_into_it() {
    let Some(workshop) = Workshop::open() else { return };
    let shim = shim(&workshop, Behaviour::Boots).await;
    let (bundle, config) = (workshop.bundle("c1", "true"), workshop.config(""));
    let comes = shim.keeper.want();
    shim.keeper.sandbox_for(&sandbox_id("c1"), &bundle, Some(&config.path)).await.expect("a sandbox");
    // As after the delete of one that was there before.
    shim.keeper.release().await.expect("released");
    assert!(shim.keeper.sandbox().is_some() && !shim.keeper.close_unless_wanted());
    drop(comes);
    shim.keeper.release().await.expect("released");
    assert!(shim.keeper.sandbox().is_none() && shim.keeper.close_unless_wanted());
    shim.end(&workshop).await;
}

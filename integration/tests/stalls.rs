//! A guest that does not answer one call holds up nothing else: state, wait, kill and resize answer at once.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::BoxFuture;
use integration::{
    engine::{Engine, ended, exec, shell},
    workshop::Workshop,
};
use oci_spec::runtime::LinuxResources;
use runtime::{
    container::Container,
    error::Result,
    ids::ExecId,
    process::Status,
    sandbox::{CreateContainer, Sandbox},
    stdio::Stdio,
};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

/// What must not wait answers within this.
const AT_ONCE: Duration = Duration::from_millis(100);
/// For the call that hangs to get as far as the guest.
const ON_ITS_WAY: Duration = Duration::from_millis(50);
const SOON: Duration = Duration::from_secs(20);
/// Changes nothing.
const SIGCONT: u32 = 18;

type Hanging = fn(Stage) -> BoxFuture<'static, Result<()>>;

/// Who is there when a call hangs: a container that runs with a terminal and an exec, and one that is not started.
#[derive(Clone)]
struct Stage {
    sandbox: Arc<Sandbox>,
    running: Arc<Container>,
    created: Arc<Container>,
    next: Arc<Mutex<Option<CreateContainer>>>,
}

/// The agent's call that is not answered, and what of ours hangs by it.
const CALLS: &[(&str, Hanging)] = &[
    ("CreateContainer", |stage| {
        let next = stage.next.lock().expect("no panic").take().expect("once");
        Box::pin(async move { stage.sandbox.create_container(next).await.map(drop) })
    }),
    ("StartContainer", |stage| Box::pin(async move { stage.created.start().await })),
    ("ExecProcess", |stage| {
        Box::pin(async move {
            stage.running.exec(ExecId::new("late")?, shell("true"), Stdio::default()).await?;
            stage.running.start_exec("late").await
        })
    }),
    ("SignalProcess", |stage| Box::pin(async move { stage.created.process(None)?.kill(SIGCONT).await })),
    ("TtyWinResize", |stage| {
        Box::pin(async move { stage.running.process(Some("terminal"))?.resize(90, 30).await })
    }),
    ("PauseContainer", |stage| Box::pin(async move { stage.running.pause().await })),
    ("UpdateContainer", |stage| {
        Box::pin(async move { stage.sandbox.update_container("running", &LinuxResources::default()).await })
    }),
    ("StatsContainer", |stage| Box::pin(async move { stage.running.stats().await.map(drop) })),
    ("ListProcesses", |stage| Box::pin(async move { stage.running.pids().await.map(drop) })),
];

async fn at_once<T>(what: &str, call: &str, work: impl Future<Output = T>) -> T {
    timeout(AT_ONCE, work).await.unwrap_or_else(|_| panic!("{what} waits while {call} hangs"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_wait_answers_while_any_call_hangs() {
    let Some(workshop) = Workshop::open() else { return };
    for (call, hanging) in CALLS {
        let engine = Engine::start(&workshop).await;
        let running = engine.run(&workshop, "running", "sleep 1000", Stdio::default()).await;
        exec(&running, "terminal", "sleep 1000", Stdio { terminal: true, ..Stdio::default() }).await;
        let created = workshop.container("created", "sleep 1000", Stdio::default());
        let created = engine.sandbox.create_container(created).await.expect("a container");
        let next = Arc::new(Mutex::new(Some(workshop.container("next", "sleep 1000", Stdio::default()))));
        let stage = Stage { sandbox: engine.sandbox.clone(), running: running.clone(), created, next };

        engine.hypervisor.stall(call);
        let hangs: JoinHandle<Result<()>> = tokio::spawn(hanging(stage.clone()));
        sleep(ON_ITS_WAY).await;
        assert!(!hangs.is_finished(), "{call} was not called");
        for container in [&stage.running, &stage.created] {
            let init = container.process(None).expect("the init");
            assert_ne!(init.status(), Status::Stopped, "{call}");
            assert!(timeout(Duration::from_millis(10), init.wait()).await.is_err(), "{call}: it lives");
            if *call != "SignalProcess" {
                at_once("kill", call, init.kill(SIGCONT)).await.expect("a signal is sent");
            }
        }
        let terminal = running.process(Some("terminal")).expect("the exec");
        if *call != "TtyWinResize" {
            at_once("resize", call, terminal.resize(100, 40)).await.expect("the terminal is resized");
        }
        if !["SignalProcess", "TtyWinResize"].contains(call) {
            at_once("kill of an exec", call, terminal.kill(9)).await.expect("the exec is killed");
            assert_eq!(ended(&running, Some("terminal")).await.code, 137, "{call}");
            at_once("delete of an exec", call, running.delete_exec("terminal")).await.expect("it is deleted");
        }

        engine.hypervisor.go_on();
        timeout(SOON, hangs).await.expect("it goes on").expect("no panic").expect(call);
        engine.stop(&workshop).await;
    }
}

//! The engine over a fake VM: the real agent, real streams, real mounts; containers are plain children.

use std::time::{Duration, Instant};

use integration::{
    engine::{Engine, ended, exec, shell},
    fake_vm::Behaviour,
    workshop::{Workshop, sandbox_id},
};
use runtime::{
    cleanup::cleanup,
    error::{ErrorKind, Result},
    ids::ExecId,
    process::Status,
    stdio::Stdio,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    task::JoinHandle,
    time::timeout,
};

const SOON: Duration = Duration::from_secs(20);

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

/// Reads a pipe to its end, from now on.
fn read_all(path: String) -> JoinHandle<Vec<u8>> {
    tokio::spawn(async move {
        let mut pipe = pipe::OpenOptions::new().open_receiver(path).expect("open the pipe");
        let mut bytes = Vec::new();
        timeout(SOON, pipe.read_to_end(&mut bytes)).await.expect("the pipe ends").expect("read the pipe");
        bytes
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_is_told_in_order_and_leaves_nothing() {
    let Some(workshop) = Workshop::open() else { return };
    let mut engine = Engine::start(&workshop).await;
    let container =
        engine.sandbox.create_container(workshop.container("c1", "exit 7", Stdio::default())).await.unwrap();
    let init = container.process(None).unwrap();
    assert_eq!(init.status(), Status::Created);
    container.start().await.unwrap();
    assert_eq!(ended(&container, None).await.code, 7);
    assert_eq!(init.status(), Status::Stopped);
    assert_eq!(engine.sandbox.delete_container("c1").await.unwrap().code, 7);
    assert_eq!(engine.told(), ["created c1", "started c1", "exited c1 7", "deleted c1"]);
    assert!(engine.sandbox.is_empty());
    engine.stop(&workshop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_whole_apart_and_end_when_the_engine_says_so() {
    let Some(workshop) = Workshop::open() else { return };
    let engine = Engine::start(&workshop).await;
    let stdio = workshop.pipes("c1");
    let script = "cat; head -c 5000000 /dev/zero; echo errors >&2";
    let container =
        engine.sandbox.create_container(workshop.container("c1", script, stdio.clone())).await.unwrap();
    let (output, errors) = (read_all(stdio.stdout.clone()), read_all(stdio.stderr.clone()));
    container.start().await.unwrap();
    let init = container.process(None).unwrap();
    for part in ["hello ", "world"] {
        // One client after the other: none of them ends the input by leaving.
        let mut input = pipe::OpenOptions::new().open_sender(&stdio.stdin).expect("open the input");
        input.write_all(part.as_bytes()).await.unwrap();
    }
    assert!(timeout(Duration::from_millis(300), init.wait()).await.is_err(), "cat waits for more");
    init.close_stdin();
    assert_eq!(ended(&container, None).await.code, 0);
    engine.sandbox.delete_container("c1").await.unwrap();
    let output = output.await.unwrap();
    assert!(output.starts_with(b"hello world\0") && output.len() == 11 + 5_000_000, "{} bytes", output.len());
    assert_eq!(errors.await.unwrap(), b"errors\n");
    engine.stop(&workshop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn execs_have_lives_of_their_own_and_end_before_their_container() {
    let Some(workshop) = Workshop::open() else { return };
    let mut engine = Engine::start(&workshop).await;
    let container = engine
        .sandbox
        .create_container(workshop.container("c1", "sleep 1000", Stdio::default()))
        .await
        .unwrap();
    let id = |id: &str| ExecId::new(id).unwrap();
    assert_eq!(kind(container.start_exec("e0").await), Some(ErrorKind::NotFound));
    container.exec(id("e1"), shell("exit 3"), Stdio::default()).await.unwrap();
    container.start().await.unwrap();
    assert_eq!(
        kind(container.exec(id("e1"), shell("true"), Stdio::default()).await),
        Some(ErrorKind::AlreadyExists)
    );
    container.start_exec("e1").await.unwrap();
    assert_eq!(ended(&container, Some("e1")).await.code, 3);
    assert_eq!(container.delete_exec("e1").await.unwrap().code, 3);
    assert_eq!(kind(container.process(Some("e1"))), Some(ErrorKind::NotFound));

    exec(&container, "e2", "sleep 1000", Stdio::default()).await;
    assert_eq!(kind(container.delete_exec("e2").await), Some(ErrorKind::WrongState));
    container.process(None).unwrap().kill(9).await.unwrap();
    assert_eq!(ended(&container, None).await.code, 137);
    // Of two at once one finds it, and its end is told once.
    let delete = || engine.sandbox.delete_container("c1");
    let (one, other) = tokio::join!(delete(), delete());
    assert_eq!(one.unwrap().code, 137);
    assert_eq!(kind(other), Some(ErrorKind::NotFound));
    assert_eq!(
        engine.told(),
        [
            "created c1",
            "added e1",
            "started c1",
            "started e1",
            "exited e1 3",
            "added e2",
            "started e2",
            "exited e2 137",
            "exited c1 137",
            "deleted c1"
        ]
    );
    engine.stop(&workshop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_by_kind() {
    let Some(workshop) = Workshop::open() else { return };
    let engine = Engine::start(&workshop).await;
    let sandbox = &engine.sandbox;
    let container =
        sandbox.create_container(workshop.container("c1", "sleep 1000", Stdio::default())).await.unwrap();
    let again = workshop.container("c1", "true", Stdio::default());
    assert_eq!(kind(sandbox.create_container(again).await), Some(ErrorKind::AlreadyExists));
    assert_eq!(kind(sandbox.container("c9")), Some(ErrorKind::NotFound));
    assert_eq!(kind(sandbox.delete_container("c9").await), Some(ErrorKind::NotFound));
    container.start().await.unwrap();
    assert_eq!(kind(container.start().await), Some(ErrorKind::WrongState));
    assert_eq!(kind(sandbox.delete_container("c1").await), Some(ErrorKind::WrongState));
    let init = container.process(None).unwrap();
    init.kill(15).await.unwrap();
    assert_eq!(ended(&container, None).await.code, 143);
    assert_eq!(kind(init.kill(15).await), Some(ErrorKind::NotFound));
    sandbox.delete_container("c1").await.unwrap();

    let missing =
        workshop.container("c2", "true", Stdio { stdout: "/nonexistent/pipe".into(), ..Default::default() });
    let error = sandbox.create_container(missing).await.err().expect("refused").to_string();
    assert!(error.contains("stdout") && error.contains("/nonexistent/pipe"), "{error}");
    let mut odd = workshop.container("c3", "true", Stdio::default());
    odd.bundle.spec.set_mounts(Some(vec![
        serde_json::from_str(r#"{"destination":"/x","type":"bind","source":"/nonexistent"}"#).unwrap(),
    ]));
    let error = sandbox.create_container(odd).await.err().expect("refused").to_string();
    assert!(error.contains("mounts[0]") && error.contains("/nonexistent"), "{error}");
    assert!(sandbox.is_empty());
    engine.stop(&workshop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_can_be_killed_or_deleted_before_it_starts() {
    let Some(workshop) = Workshop::open() else { return };
    let engine = Engine::start(&workshop).await;
    let sandbox = &engine.sandbox;
    let container =
        sandbox.create_container(workshop.container("c1", "true", Stdio::default())).await.unwrap();
    let init = container.process(None).unwrap();
    init.kill(9).await.unwrap();
    assert_eq!(ended(&container, None).await.code, 137);
    assert_eq!(kind(container.start().await), Some(ErrorKind::WrongState));
    sandbox.delete_container("c1").await.unwrap();
    sandbox.create_container(workshop.container("c2", "true", Stdio::default())).await.unwrap();
    sandbox.delete_container("c2").await.unwrap();
    engine.stop(&workshop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_nobody_takes_does_not_hold_back_the_end() {
    let Some(workshop) = Workshop::open() else { return };
    let engine = Engine::start(&workshop).await;
    let script = "head -c 3000000 /dev/zero; sleep 1000";
    let container = engine.run(&workshop, "c1", script, workshop.pipes("c1")).await;
    let init = container.process(None).unwrap();
    init.kill(9).await.unwrap();
    assert_eq!(timeout(SOON, init.wait()).await.expect("in bounded time").unwrap().code, 137);
    timeout(SOON, engine.sandbox.delete_container("c1")).await.expect("in bounded time").unwrap();
    engine.stop(&workshop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_vm_dies_everything_in_it_has() {
    let Some(workshop) = Workshop::open() else { return };
    let mut engine = Engine::start(&workshop).await;
    let container = engine.run(&workshop, "c1", "sleep 1000", Stdio::default()).await;
    exec(&container, "e1", "sleep 1000", Stdio::default()).await;
    engine.hypervisor.vm().die("killed by the test");
    assert_eq!(ended(&container, None).await.code, 137);
    timeout(SOON, engine.sandbox.delete_container("c1")).await.expect("in bounded time").unwrap();
    let told = engine.told();
    assert!(told.contains(&"exited e1 137".into()) && told.contains(&"exited c1 137".into()), "{told:?}");
    engine.stop(&workshop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_cannot_start_says_why_and_leaves_nothing() {
    let Some(workshop) = Workshop::open() else { return };
    for (behaviour, expected, words) in [
        (Behaviour::Refuses, ErrorKind::Unavailable, "boots nothing"),
        (Behaviour::DiesAtBoot, ErrorKind::Unavailable, "kernel panicked"),
        (Behaviour::StaysSilent, ErrorKind::DeadlineExceeded, "did not answer"),
    ] {
        let began = Instant::now();
        let deadlines = "[agent.kata]\ndial_timeout = 1\nreconnect_timeout_ms = 1000\n";
        let error = Engine::try_start(&workshop, behaviour, deadlines).await.err().expect("no start");
        assert_eq!(error.kind(), expected, "{behaviour:?}: {error}");
        assert!(error.to_string().contains(words), "{behaviour:?}: {error}");
        assert!(began.elapsed() < SOON, "{behaviour:?} took {:?}", began.elapsed());
        assert_eq!(workshop.remains(), Vec::<std::path::PathBuf>::new(), "{behaviour:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_taken_while_its_sandbox_lives() {
    let Some(workshop) = Workshop::open() else { return };
    let engine = Engine::start(&workshop).await;
    assert_eq!(
        kind(Engine::try_start(&workshop, Behaviour::Boots, "").await),
        Some(ErrorKind::AlreadyExists)
    );
    engine.stop(&workshop).await;
    Engine::start(&workshop).await.stop(&workshop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_of_a_dead_owner_is_enough_to_clean_up() {
    let Some(workshop) = Workshop::open() else { return };
    let engine = Engine::start(&workshop).await;
    engine.sandbox.create_container(workshop.container("c1", "true", Stdio::default())).await.unwrap();
    // As if this process, the owner, had died and its pid been taken by another since.
    let record = workshop.paths().sandbox(&sandbox_id("s1")).join("persist.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    json["kata_rs"]["owner"]["start_time"] = 1.into();
    std::fs::write(&record, json.to_string()).unwrap();
    assert!(cleanup(&workshop.paths(), &sandbox_id("s1")).await.unwrap());
    assert_eq!(workshop.remains(), Vec::<std::path::PathBuf>::new());
    assert!(!cleanup(&workshop.paths(), &sandbox_id("s1")).await.unwrap(), "nothing is left to clean");
}

//! The standard streams of processes: every way to name them, and not a byte lost.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use agent::channel::echo::pattern;
use integration::{
    engine::{Engine, ended, exec},
    fake_vm::Behaviour,
    workshop::Workshop,
};
use runtime::{error::ErrorKind, stdio::Stdio};
use tokio::task::JoinSet;

/// Bytes through each stream of a large conversation.
const LARGE: u64 = 1 << 30;

fn script(workshop: &Workshop, name: &str, text: &str) -> String {
    let path = workshop.path().join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("write a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it executable");
    path.display().to_string()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Reads a pipe to its end, and compares.
fn expect_pattern(path: String, length: u64) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut pipe = File::open(&path).expect("open the pipe");
        let (mut block, mut expected) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        let mut at = 0;
        loop {
            let mut filled = 0;
            while filled < block.len() {
                match pipe.read(&mut block[filled..]).expect("read the pipe") {
                    0 => break,
                    more => filled += more,
                }
            }
            pattern(at, &mut expected);
            assert!(block[..filled] == expected[..filled], "{path}: other bytes in the block at {at}");
            at += filled as u64;
            if filled < block.len() {
                break;
            }
        }
        assert_eq!(at, length, "{path}");
    })
}

fn write_pattern(path: String, length: u64) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut pipe = fs::OpenOptions::new().write(true).open(&path).expect("open the pipe");
        let mut block = vec![0; 1 << 16];
        for at in (0..length).step_by(block.len()) {
            pattern(at, &mut block);
            pipe.write_all(&block).expect("write to the pipe");
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logger_gets_what_is_said_and_ends_with_it() {
    let Some(workshop) = Workshop::open() else { return };
    let engine = Engine::start(&workshop).await;
    let logger = script(
        &workshop,
        "logger one",
        "exec 5>&-; cat <&3 >$2.out & cat <&4 >$2.err & echo $CONTAINER_ID $CONTAINER_NAMESPACE $1 $# >$2.who; wait",
    );
    let log = workshop.path().join("log");
    let stdout = format!("binary://{}?tag={}", logger.replace(' ', "%20"), log.display());
    let stdio = Stdio { stdout: stdout.clone(), stderr: stdout, namespace: "ns".into(), ..Stdio::default() };
    let container = engine.run(&workshop, "c1", "seq 1 20000; echo bad >&2; exit 3", stdio.clone()).await;
    assert_eq!(ended(&container, None).await.code, 3);
    engine.sandbox.delete_container("c1").await.expect("the container is deleted");
    let said: String = (1..=20000).map(|number| format!("{number}\n")).collect();
    assert!(read(&log.with_extension("out")) == said);
    assert_eq!(read(&log.with_extension("err")), "bad\n");
    assert_eq!(read(&log.with_extension("who")), "c1 ns tag 2\n");

    // An exec's logger has the exec's name; a terminal has one stream.
    let container = engine.run(&workshop, "c2", "sleep 1000", Stdio::default()).await;
    exec(&container, "e1", "tty >/dev/null && echo both >&2", Stdio { terminal: true, ..stdio }).await;
    assert_eq!(ended(&container, Some("e1")).await.code, 0);
    container.delete_exec("e1").await.expect("the exec is deleted");
    assert_eq!(read(&log.with_extension("out")), "both\r\n");
    assert_eq!(read(&log.with_extension("who")), "e1 ns tag 2\n");
    container.kill_all(9).await.expect("killed");
    ended(&container, None).await;
    engine.sandbox.delete_container("c2").await.expect("the container is deleted");
    engine.stop(&workshop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logger_that_cannot_be_is_an_error_and_leaves_nothing() {
    let Some(workshop) = Workshop::open() else { return };
    let engine = Engine::start(&workshop).await;
    for (uri, kind, words) in [
        ("binary:///no/such/logger", ErrorKind::NotFound, "no such program"),
        ("binary://logger", ErrorKind::InvalidArgument, "absolute path"),
        ("ftp://host/file", ErrorKind::Unimplemented, "use fifo, pipe, file or binary"),
    ] {
        let stdio = Stdio { stdout: uri.into(), ..Stdio::default() };
        let refused = engine.sandbox.create_container(workshop.container("c1", "true", stdio)).await;
        let error = refused.err().expect("it is refused");
        assert!(error.kind() == kind && error.to_string().contains(words), "{uri}: {error}");
    }
    // One that ends at once is heard of when there is something to say, and the container goes on.
    let stdio =
        Stdio { stdout: format!("binary://{}", script(&workshop, "gone", "exit 1")), ..Stdio::default() };
    let container = engine.run(&workshop, "c1", "echo lost; exit 4", stdio).await;
    assert_eq!(ended(&container, None).await.code, 4);
    engine.sandbox.delete_container("c1").await.expect("the container is deleted");
    engine.stop(&workshop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_takes_output_and_errors_and_is_appended_to() {
    let Some(workshop) = Workshop::open() else { return };
    let engine = Engine::start(&workshop).await;
    let file = workshop.path().join("new/folder/log");
    for id in ["c1", "c2"] {
        let stdout = format!("file://{}", file.display());
        let stdio = Stdio { stdout, ..Stdio::default() };
        let container = engine.run(&workshop, id, "echo out; sleep 0.05; echo err >&2", stdio).await;
        assert_eq!(ended(&container, None).await.code, 0);
        engine.sandbox.delete_container(id).await.expect("the container is deleted");
    }
    assert_eq!(read(&file), "out\nerr\nout\nerr\n");
    engine.stop(&workshop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_through_each_stream_arrives_whole() {
    large(Behaviour::Boots).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_by_calls_arrives_whole() {
    large(Behaviour::BootsWithoutStreams).await;
}

async fn large(behaviour: Behaviour) {
    let Some(workshop) = Workshop::open() else { return };
    let engine = Engine::start_with(&workshop, behaviour).await;
    let stdio = workshop.pipes("c1");
    let stdin = write_pattern(stdio.stdin.clone(), LARGE);
    let readers = [expect_pattern(stdio.stdout.clone(), LARGE), expect_pattern(stdio.stderr.clone(), LARGE)];
    let container = engine.run(&workshop, "c1", "tee /dev/stderr", stdio).await;
    tokio::task::spawn_blocking(|| stdin.join().expect("all is written")).await.expect("no panic");
    container.process(None).expect("the init").close_stdin();
    assert_eq!(ended(&container, None).await.code, 0);
    engine.sandbox.delete_container("c1").await.expect("the container is deleted");
    for reader in readers {
        reader.join().expect("all has arrived");
    }
    engine.stop(&workshop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_execs_at_once_keep_their_streams_apart() {
    let Some(workshop) = Workshop::open() else { return };
    let engine = Engine::start(&workshop).await;
    let container = engine.run(&workshop, "c1", "sleep 1000", Stdio::default()).await;
    let mut execs = JoinSet::new();
    for number in 0..200 {
        let (container, stdio) = (container.clone(), workshop.pipes(&format!("e{number}")));
        execs.spawn(one_of_many(container, number, stdio));
    }
    execs.join_all().await;
    container.kill_all(9).await.expect("killed");
    ended(&container, None).await;
    engine.sandbox.delete_container("c1").await.expect("the container is deleted");
    engine.stop(&workshop).await;
}

async fn one_of_many(container: Arc<runtime::container::Container>, number: usize, stdio: Stdio) {
    let id = format!("e{number}");
    let text = |path: String| thread::spawn(move || fs::read_to_string(path).expect("read the pipe"));
    let (input, output, errors) =
        (stdio.stdin.clone(), text(stdio.stdout.clone()), text(stdio.stderr.clone()));
    let script = format!("read line; echo out $line; echo err $line >&2; exit {}", number % 256);
    exec(&container, &id, &script, stdio).await;
    tokio::task::spawn_blocking(move || fs::write(input, format!("{number}\n")).expect("write the input"))
        .await
        .expect("no panic");
    assert_eq!(ended(&container, Some(&id)).await.code as usize, number % 256);
    container.delete_exec(&id).await.expect("the exec is deleted");
    assert_eq!(output.join().expect("no panic"), format!("out {number}\n"));
    assert_eq!(errors.join().expect("no panic"), format!("err {number}\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_slows_only_its_own_stream_and_loses_nothing() {
    let Some(workshop) = Workshop::open() else { return };
    let engine = Engine::start(&workshop).await;
    let stdio = workshop.pipes("c1");
    let (slow, fast) = (stdio.stdout.clone(), stdio.stderr.clone());
    let fast = thread::spawn(move || {
        let text = fs::read(fast).expect("read the pipe");
        (text.len(), Instant::now())
    });
    let slow = thread::spawn(move || {
        let mut pipe = File::open(slow).expect("open the pipe");
        let (mut block, mut length) = (vec![0; 64 << 10], 0);
        loop {
            match pipe.read(&mut block).expect("read the pipe") {
                0 => return (length, Instant::now()),
                more => length += more,
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
    let script = "head -c 4000000 /dev/zero 2>/dev/null & head -c 4000000 /dev/zero >&2; exec 2>&-; wait";
    let container = engine.run(&workshop, "c1", script, stdio).await;
    assert_eq!(ended(&container, None).await.code, 0);
    engine.sandbox.delete_container("c1").await.expect("the container is deleted");
    let ((slow, slow_end), (fast, fast_end)) =
        (slow.join().expect("no panic"), fast.join().expect("no panic"));
    assert_eq!((slow, fast), (4_000_000, 4_000_000));
    assert!(fast_end + Duration::from_millis(300) < slow_end, "the fast reader had to wait for the slow one");
    engine.stop(&workshop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_child_says_after_the_end_of_its_exec_is_taken_until_that_is_deleted() {
    let Some(workshop) = Workshop::open() else { return };
    let engine = Engine::start(&workshop).await;
    let container = engine.run(&workshop, "c1", "sleep 1000", Stdio::default()).await;
    let stdio = workshop.pipes("e1");
    let mut output = BufReader::new(read_end(&stdio.stdout));
    let mut lines = || {
        let mut line = String::new();
        output.read_line(&mut line).map(|_| line).expect("read the pipe")
    };
    let began = Instant::now();
    exec(&container, "e1", "echo first; (sleep 1.5; echo second; sleep 1000) & exit 5", stdio).await;
    assert_eq!(ended(&container, Some("e1")).await.code, 5);
    assert!(began.elapsed() < Duration::from_millis(1400), "its child was waited for");
    assert_eq!((lines(), lines()), ("first\n".into(), "second\n".into()));
    let began = Instant::now();
    container.delete_exec("e1").await.expect("the exec is deleted");
    assert!(began.elapsed() < Duration::from_secs(10), "its child was waited for");
    container.kill_all(9).await.expect("killed");
    ended(&container, None).await;
    engine.sandbox.delete_container("c1").await.expect("the container is deleted");
    engine.stop(&workshop).await;
}

/// A pipe's end for reading, open from now on whoever writes.
fn read_end(path: &str) -> File {
    fs::OpenOptions::new().read(true).write(true).open(path).expect("open the pipe")
}

//! Helper processes on the host, with real programs.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use runtime::{
    child::{Child, Launch},
    ledger::{Ledger, ProcessId, Resource},
    state::{Record, StateStore},
    vm::NetworkNamespace,
};

const SOON: Duration = Duration::from_secs(10);

fn ledger(root: &tempfile::TempDir) -> (Ledger, Arc<StateStore>) {
    let record = Record::new("s1", ProcessId::of(std::process::id()).unwrap());
    let store = Arc::new(StateStore::create(&root.path().join("s1"), record).unwrap());
    (Ledger::new(store.clone()), store)
}

fn shell(script: &str) -> Launch {
    let mut launch = Launch::new("sh");
    launch.args(["-c", script]);
    launch
}

#[tokio::test]
async fn a_child_is_claimed_while_it_lives_and_its_last_words_are_kept() {
    let root = tempfile::tempdir().unwrap();
    let (ledger, store) = ledger(&root);
    let child =
        Child::spawn("helper", shell("echo one; echo two >&2; read x; exit 3"), &ledger).await.unwrap();
    // Its input is /dev/null, so it ends by itself.
    assert_eq!(child.wait(SOON).await.unwrap().code(), Some(3));
    let epitaph = child.epitaph();
    assert!(epitaph.contains("one") && epitaph.contains("two") && epitaph.contains("3"), "{epitaph}");
    assert_eq!(store.record().own.ledger, [], "struck when it had ended");
}

#[tokio::test]
async fn ending_asks_first_and_then_insists() {
    let root = tempfile::tempdir().unwrap();
    let (ledger, store) = ledger(&root);
    let polite =
        Child::spawn("polite", shell("trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done"), &ledger);
    let polite = polite.await.unwrap();
    let claimed = store.record().own.ledger;
    assert!(matches!(&claimed[..], [Resource::Process { role, .. }] if role == "polite"), "{claimed:?}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    polite.end(SOON).await.unwrap();
    assert_eq!(polite.wait(SOON).await.unwrap().code(), Some(5));

    let stubborn =
        Child::spawn("stubborn", shell("trap '' TERM; while :; do sleep 0.05; done"), &ledger).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    stubborn.end(Duration::from_millis(200)).await.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&stubborn.wait(SOON).await.unwrap()), Some(9));
}

#[tokio::test]
async fn descriptors_keep_their_order_and_nothing_else_leaks() {
    let root = tempfile::tempdir().unwrap();
    let (ledger, _store) = ledger(&root);
    let files: Vec<_> = ["a", "b"]
        .map(|name| {
            let path = root.path().join(name);
            File::create(&path).unwrap().write_all(name.as_bytes()).unwrap();
            OwnedFd::from(File::open(path).unwrap())
        })
        .into_iter()
        .collect();
    // What this test inherited from its own parent, a job server perhaps, its children inherit too.
    let count = "ls /proc/self/fd | wc -l";
    let plain = std::process::Command::new("sh").args(["-c", count]).output().unwrap().stdout;
    let plain: usize = String::from_utf8(plain).unwrap().trim().parse().unwrap();
    let mut launch = shell(&format!("cat <&3; cat <&4; echo; {count}"));
    let numbers: Vec<_> = files.into_iter().map(|file| launch.pass_fd(file)).collect();
    assert_eq!(numbers, [3, 4]);
    let child = Child::spawn("reader", launch, &ledger).await.unwrap();
    child.wait(SOON).await.unwrap();
    assert!(child.epitaph().contains("ab | "), "{}", child.epitaph());
    let seen: usize = child.epitaph().rsplit(' ').next().unwrap().parse().unwrap();
    assert!((plain..=plain + 2).contains(&seen), "{seen} descriptors where a plain child has {plain}");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let root = tempfile::tempdir().unwrap();
    let (ledger, store) = ledger(&root);
    let error =
        Child::spawn("helper", Launch::new("/no/such/program"), &ledger).await.unwrap_err().to_string();
    assert!(error.contains("/no/such/program"), "{error}");
    assert_eq!(store.record().own.ledger, []);
}

#[tokio::test]
async fn a_new_network_namespace_is_not_ours() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let (ledger, _store) = ledger(&root);
    let mut launch = shell("readlink /proc/self/ns/net");
    launch.network(NetworkNamespace::New);
    let child = Child::spawn("lonely", launch, &ledger).await.unwrap();
    child.wait(SOON).await.unwrap();
    let ours = std::fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    let words = child.epitaph();
    assert!(words.contains("net:[") && !words.contains(&ours), "{words} {ours}");
}

#[test]
fn a_child_dies_with_the_process_that_started_it() {
    // This test runs itself as another process, which starts a helper, tells its pid and is killed.
    if std::env::var_os("KATA_TEST_OWNER").is_some() {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let root = tempfile::tempdir().unwrap();
            let (ledger, _store) = ledger(&root);
            let child = Child::spawn("orphan", shell("sleep 1000"), &ledger).await.unwrap();
            println!("pid {}", child.pid());
            std::future::pending::<()>().await;
        });
    }
    let mut owner = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["a_child_dies_with_the_process_that_started_it", "--exact", "--nocapture"])
        .env("KATA_TEST_OWNER", "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = owner.stdout.take().unwrap();
    let mut text = String::new();
    let pid: u32 = loop {
        let mut byte = [0];
        assert_eq!(out.read(&mut byte).unwrap(), 1, "{text}");
        text.push(byte[0] as char);
        if let Some(line) =
            text.lines().find(|_| text.ends_with('\n')).and_then(|_| text.split("pid ").nth(1))
        {
            break line.trim().parse().unwrap();
        }
    };
    let orphan = ProcessId::of(pid).unwrap();
    assert!(orphan.is_alive());
    owner.kill().unwrap();
    owner.wait().unwrap();
    let began = std::time::Instant::now();
    while orphan.is_alive() {
        assert!(began.elapsed() < SOON, "the helper outlives its owner");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test]
async fn a_child_that_somebody_kills_was_not_killed_for_want_of_memory() {
    let root = tempfile::tempdir().unwrap();
    let (ledger, _store) = ledger(&root);
    let child = Child::spawn("victim", shell("kill -KILL $$"), &ledger).await.unwrap();
    child.wait(SOON).await.unwrap();
    assert!(!child.wanted_memory() && child.epitaph().contains("SIGKILL"), "{}", child.epitaph());
}

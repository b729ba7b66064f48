use super::*;
use crate::state::{ProcessId, Record};

/// Nobody: the start time is another's.
const DEAD: ProcessId = ProcessId { pid: 1, start_time: 1 };

fn place() -> (tempfile::TempDir, Paths, SandboxId) {
    let root = tempfile::tempdir().unwrap();
    let paths = Paths::under(root.path());
    (root, paths, SandboxId::new("s1").unwrap())
}

/// Writes `text` as the record of a sandbox that has a socket and a shared file.
fn sandbox(paths: &Paths, id: &SandboxId, text: Option<&str>) {
    for dir in [paths.sandbox(id), paths.vm(id), paths.share(id).mounts()] {
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("some"), "").unwrap();
    }
    if let Some(text) = text {
        fs::write(paths.sandbox(id).join("persist.json"), text).unwrap();
    }
}

fn nothing_is_left(paths: &Paths, id: &SandboxId) {
    for path in [paths.sandbox(id), paths.vm(id), paths.share(id).root().to_path_buf()] {
        assert!(!path.exists(), "{}", path.display());
    }
}

#[tokio::test]
async fn what_lies_under_its_paths_goes_whatever_the_record_says() {
    let upstreams = r#"{"PersistVersion":2,"State":"running","SandboxContainer":"s1",
        "HypervisorState":{"Pid":1,"VirtiofsDaemonPid":1}}"#;
    let torn = r#"{"PersistVersion":2,"kata_rs":{"owner":{"pid":1,"#;
    for text in [None, Some(""), Some(torn), Some("42"), Some("\0\0\0\0"), Some(upstreams)] {
        let (_root, paths, id) = place();
        sandbox(&paths, &id, text);
        let found = ownerless(&paths).unwrap();
        assert_eq!(found.len(), 1, "{text:?}");
        assert!(cleanup(&paths, &id).await.unwrap(), "{text:?}");
        nothing_is_left(&paths, &id);
        assert!(!cleanup(&paths, &id).await.unwrap(), "{text:?}: twice");
        assert!(ownerless(&paths).unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_left_alone_while_its_paths_are_used() {
    let (_root, paths, id) = place();
    sandbox(&paths, &id, Some("{"));
    let argument = format!("{}/monitor.sock,server=on", paths.vm(&id).display());
    let script = "read line"; // So that the argument stays the shell's.
    let mut user = std::process::Command::new("sh")
        .args(["-c", script, argument.as_str()])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let error = cleanup(&paths, &id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    assert!(error.to_string().contains(&user.id().to_string()), "{error}");
    assert!(ownerless(&paths).unwrap().is_empty());
    // Another one whose name begins the same is not it.
    let other = SandboxId::new("s").unwrap();
    sandbox(&paths, &other, Some("{"));
    assert!(cleanup(&paths, &other).await.unwrap());
    drop(user.stdin.take());
    user.wait().unwrap();
    assert!(cleanup(&paths, &id).await.unwrap());
    nothing_is_left(&paths, &id);
}

#[tokio::test]
async fn a_record_of_an_earlier_boot_claims_no_process_of_this_one() {
    let (_root, paths, id) = place();
    let mut bystander = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let unlucky = ProcessId::of(bystander.id()).unwrap();
    let mut record = Record::new("s1", unlucky);
    record.own.boot = "another".into();
    let store = StateStore::create(&paths.sandbox(&id), record).unwrap();
    let ledger = Ledger::new(Arc::new(store));
    ledger.claim(Resource::Process { id: unlucky, role: "hypervisor".into() }).unwrap();
    assert!(cleanup(&paths, &id).await.unwrap());
    nothing_is_left(&paths, &id);
    assert!(bystander.try_wait().unwrap().is_none(), "it is nobody's business");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[tokio::test]
async fn a_dead_owners_sandbox_is_listed_with_what_it_holds_and_a_live_ones_is_not() {
    let (_root, paths, id) = place();
    let store = Arc::new(StateStore::create(&paths.sandbox(&id), Record::new("s1", DEAD)).unwrap());
    Ledger::new(store).claim(Resource::Tree { path: paths.vm(&id) }).unwrap();
    let found = ownerless(&paths).unwrap();
    assert_eq!(found[0].holds, [format!("directory {}", paths.vm(&id).display())]);
    let mut owner = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let live = SandboxId::new("s2").unwrap();
    let record = Record::new("s2", ProcessId::of(owner.id()).unwrap());
    StateStore::create(&paths.sandbox(&live), record).unwrap();
    assert_eq!(ownerless(&paths).unwrap().len(), 1);
    let error = cleanup(&paths, &live).await.unwrap_err();
    assert!(error.to_string().contains("is alive"), "{error}");
    owner.kill().unwrap();
    assert!(cleanup(&paths, &live).await.unwrap(), "one that is dying is waited for");
    owner.wait().unwrap();
    nothing_is_left(&paths, &live);
}

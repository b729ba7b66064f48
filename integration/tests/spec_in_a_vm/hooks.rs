//! Hooks on the host and in the guest.

use std::fs;

use serde_json::{Value, json};

use crate::bench::Bench;

#[test]
fn hooks_run_on_the_host_and_in_the_container() {
    let Some(bench) = Bench::open(&[]) else { return };
    let dir = bench.containerd.dir().display().to_string();
    let shell = |script: String| json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]});
    let to = |name: &str| shell(format!("cat > {dir}/{name}"));
    let facts = bench.facts("cat /tmp/state", |spec| {
        spec["hooks"] = json!({
            "prestart": [to("prestart")], "createRuntime": [to("createRuntime")],
            "createContainer": [to("createContainer")],
            "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "cat > /tmp/state"]}],
            "poststart": [shell("exit 1".into()), to("poststart")], "poststop": [to("poststop")],
        });
        spec["annotations"] = json!({"a": "b"});
    });
    let in_guest: Value = serde_json::from_str(&facts.join("")).unwrap();
    assert!(in_guest["id"].as_str().unwrap().starts_with("spec-"), "{in_guest}");
    for (name, status) in [
        ("prestart", "creating"),
        ("createRuntime", "creating"),
        ("createContainer", "creating"),
        ("poststart", "running"),
        ("poststop", "stopped"),
    ] {
        let state =
            fs::read(bench.containerd.dir().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let state: Value = serde_json::from_slice(&state).unwrap();
        assert_eq!((&state["status"], &state["annotations"]["a"]), (&json!(status), &json!("b")), "{name}");
        assert_eq!(state["pid"].as_u64().is_some_and(|pid| pid > 1), status != "stopped", "{name}: {state}");
    }

    let refused = bench.refusal(|spec| {
        spec["hooks"] = json!({"createRuntime": [shell("echo because >&2; exit 3".into())], "poststop": [to("after")]});
    });
    for words in ["error running createRuntime hook #0", "exit status: 3", "because"] {
        assert!(refused.contains(words), "{words}: {refused}");
    }
    assert!(bench.containerd.dir().join("after").exists(), "poststop did not run");
    let mut slow = shell("exec sleep 1000".into());
    slow["timeout"] = json!(1);
    let refused = bench.refusal(|spec| spec["hooks"] = json!({"prestart": [slow]}));
    assert!(refused.contains("prestart hook #0"), "{refused}");
}

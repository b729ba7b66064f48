//! Containers of `kata-runtime` that join another's namespaces by path, beside runc; and what is left once the last of a VM
//! has ended.

use std::{fs, path::Path};

use integration::oci_cli::{Cli, Whose, eventually};
use serde_json::{Value, json};

const WAITS: &str = "trap 'exit 5' TERM; echo up; while true; do sleep 0.1; done";

/// The change of a config that joins these namespaces of a process.
fn joining(pid: &Value, kinds: &'static [&'static str]) -> impl FnOnce(&mut Value) {
    let pid = pid.to_string();
    move |config| {
        for namespace in config["linux"]["namespaces"].as_array_mut().unwrap() {
            let kind = namespace["type"].as_str().unwrap().to_owned();
            if kinds.contains(&kind.as_str()) {
                let file = if kind == "network" { "net" } else { &kind };
                namespace["path"] = json!(format!("/proc/{pid}/ns/{file}"));
            }
        }
    }
}

fn start(cli: &Cli, name: &str, script: &str, change: impl FnOnce(&mut Value)) -> String {
    let id = cli.id(name);
    let bundle = cli.bundle(name, script, change).display().to_string();
    cli.leave(&["run", "--detach", "--bundle", &bundle, &id], name).good();
    assert!(
        eventually(|| cli.output(name).starts_with("up")),
        "{:?} {name}: {}",
        cli.whose,
        cli.output(name)
    );
    id
}

#[test]
fn those_that_join_others_are_in_their_vm() {
    for cli in Cli::both() {
        let first = start(&cli, "first", WAITS, |config| config["hostname"] = json!("shared"));
        let pid = cli.state(&first)["pid"].clone();
        let in_first = |command: &str| cli.run(&["exec", &first, "sh", "-c", command]).good();
        let boot = "cat /proc/sys/kernel/random/boot_id";

        let look =
            format!("echo up; {boot}; hostname; ps; readlink /proc/self/ns/net; readlink /proc/self/ns/ipc");
        let all: &[&str] = &["network", "ipc", "uts", "pid"];
        let guest = start(&cli, "guest", &look, joining(&pid, all));
        cli.reaches(&guest, "stopped");
        let seen = cli.output("guest");
        assert!(seen.contains(&in_first(boot)), "{:?}: {seen}", cli.whose);
        assert!(seen.contains("shared\n") && seen.contains("trap"), "{:?}: {seen}", cli.whose);
        let namespaces = in_first("readlink /proc/self/ns/net; readlink /proc/self/ns/ipc");
        assert!(seen.contains(&namespaces), "{:?}: {seen} {namespaces}", cli.whose);
        cli.run(&["delete", &guest]).good();
        assert_eq!(cli.status(&first), "running");

        // One that joins the network by a file stays when the first one goes.
        let file = cli.path().join("net");
        fs::write(&file, "").unwrap();
        let from = format!("/proc/{pid}/ns/net");
        let none: Option<&str> = None;
        nix::mount::mount(Some(from.as_str()), &file, none, nix::mount::MsFlags::MS_BIND, none).unwrap();
        let second = start(&cli, "second", WAITS, |config| {
            config["linux"]["namespaces"][1]["path"] = json!(file);
        });
        cli.run(&["delete", "--force", &first]).good();
        assert_eq!(cli.run(&["state", &first]).refusal().0, 1);
        assert_eq!(cli.run(&["exec", &second, "echo", "alive"]).good(), "alive\n");
        assert_eq!(cli.run(&["list", "--quiet"]).good().trim(), second);
        // Its name is free, though what was begun under it lives on.
        let bundle = cli.path().join("bundle-first").display().to_string();
        cli.leave(&["run", "--detach", "--bundle", &bundle, &first], "again").good();
        assert!(eventually(|| cli.output("again").starts_with("up")), "{:?}", cli.whose);
        let network = |id: &str| cli.run(&["exec", id, "readlink", "/proc/self/ns/net"]).good();
        assert!(cli.whose == Whose::Ours || network(&first) != network(&second));
        assert_eq!(cli.run(&["exec", &first, "hostname"]).good(), "shared\n");
        cli.run(&["delete", "--force", &first]).good();
        assert_eq!(cli.run(&["exec", &second, "echo", "alive"]).good(), "alive\n");
        cli.run(&["kill", &second]).good();
        cli.reaches(&second, "stopped");
        cli.run(&["delete", &second]).good();
        nix::mount::umount(&file).unwrap();
        cli.assert_clean();
    }
}

/// As an engine restarts a container of a pod. The mounts take longer to make than a guest by virtiofs trusts what it knew of
/// the former container's files.
#[test]
fn one_of_the_same_name_as_one_just_deleted_has_its_own_files() {
    const MOUNTS: usize = 1000;
    for cli in Cli::both() {
        let first = start(&cli, "first", WAITS, |_| ());
        let pid = cli.state(&first)["pid"].clone();
        let former = start(&cli, "former", "echo up", joining(&pid, &["network"]));
        cli.reaches(&former, "stopped");
        let bundle = cli.bundle("latter", WAITS, |config| {
            joining(&pid, &["network"])(config);
            let tmpfs = |n| json!({"type": "tmpfs", "source": "tmpfs", "destination": format!("/many/{n}")});
            config["mounts"].as_array_mut().unwrap().extend((0..MOUNTS).map(tmpfs));
        });
        cli.run(&["delete", &former]).good();
        let bundle = bundle.display().to_string();
        cli.leave(&["run", "--detach", "--bundle", &bundle, &former], "latter").good();
        assert!(eventually(|| cli.output("latter").starts_with("up")), "{}", cli.output("latter"));
        let mounted = cli.run(&["exec", &former, "grep", "-c", " /many/", "/proc/mounts"]).good();
        assert_eq!(mounted.trim(), MOUNTS.to_string(), "{:?}", cli.whose);
        for id in [&former, &first] {
            cli.run(&["delete", "--force", id]).good();
        }
        cli.assert_clean();
    }
}

#[test]
fn what_cannot_be_joined_is_refused_by_name() {
    let Some(cli) = Cli::ours() else { return };
    let (one, other) = (start(&cli, "one", WAITS, |_| ()), start(&cli, "other", WAITS, |_| ()));
    let (one_pid, other_pid) = (cli.state(&one)["pid"].clone(), cli.state(&other)["pid"].clone());
    let member = start(&cli, "member", WAITS, joining(&one_pid, &["network"]));
    let member_pid = cli.state(&member)["pid"].clone();

    let refused = |name: &str, change: &dyn Fn(&mut Value)| {
        let id = cli.id(name);
        let bundle = cli.bundle(name, WAITS, change).display().to_string();
        let (_, words) = cli.run(&["create", "--bundle", &bundle, &id]).refusal();
        assert_eq!(cli.run(&["state", &id]).refusal().0, 1);
        words
    };
    let words = refused("both", &|config| {
        joining(&one_pid, &["network"])(config);
        joining(&other_pid, &["ipc"])(config);
    });
    assert!(words.contains("in two VMs"), "{words}");
    let words = refused("pids", &|config| joining(&member_pid, &["pid"])(config));
    assert!(words.contains("is not the first container of its VM"), "{words}");
    let words = refused("mark", &|config| {
        config["annotations"] = json!({
            "io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": "nowhere",
        });
    });
    assert!(words.contains("no container of sandbox nowhere is here"), "{words}");

    for id in [one, other, member] {
        cli.run(&["delete", "--force", &id]).good();
    }
    cli.assert_clean();
}

#[test]
fn a_vm_ends_with_its_last_container_and_the_rest_is_done_by_delete() {
    for cli in Cli::both() {
        let trace = cli.path().join("trace");
        let hook = format!("echo gone >> {}", trace.display());
        let id = start(&cli, "brief", "echo up; exit 3", |config| {
            config["hooks"] = json!({"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", hook], "env": ["PATH=/usr/bin:/bin"]}]});
        });
        cli.reaches(&id, "stopped");
        if cli.whose == Whose::Ours {
            let sandbox = Path::new("/run/vc/sbs").join(&id);
            assert!(eventually(|| !sandbox.exists()), "the sandbox stays");
        }
        assert!(!trace.exists(), "{:?}: it is not deleted yet", cli.whose);
        assert_eq!(cli.status(&id), "stopped");
        cli.run(&["delete", &id]).good();
        assert_eq!(fs::read_to_string(&trace).unwrap(), "gone\n", "{:?}", cli.whose);
        cli.assert_clean();
    }
}

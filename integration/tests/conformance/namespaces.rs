//! Namespaces: new ones, none, others' by path; and what belongs to them.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use integration::oci_cli::eventually;
use serde_json::{Value, json};

use super::{
    Scenario,
    stage::{Stage, WAITS},
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "namespaces of its own", covers: &["linux_ns_nopath"], play: new },
    Scenario { name: "namespaces of the caller", covers: &["linux_ns_itype"], play: inherited },
    Scenario { name: "namespaces by path", covers: &["linux_ns_path"], play: by_path },
    Scenario { name: "namespaces that cannot be", covers: &["linux_ns_path_type"], play: impossible },
    Scenario { name: "user namespace", covers: &["linux_uid_mappings", "linux_gid_mappings"], play: mapped },
    Scenario { name: "sysctl", covers: &["linux_sysctl"], play: sysctls },
    Scenario { name: "host and domain name", covers: &["hostname"], play: names },
];

const KINDS: [(&str, &str); 5] =
    [("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("mount", "mnt")];

/// The namespace of a process of the host.
fn namespace(pid: &str, name: &str) -> String {
    let link = fs::read_link(format!("/proc/{pid}/ns/{name}"));
    link.map_or_else(|error| error.to_string(), |link| link.display().to_string())
}

/// Which namespaces of the caller a container has, as the host sees it.
fn tell_of_the_host(stage: &mut Stage<'_>, namespaces: &Value) {
    let id = stage.created("-host", WAITS, |config| config["linux"]["namespaces"] = namespaces.clone());
    let pid = stage.cli.state(&id)["pid"].to_string();
    for (_, name) in KINDS {
        let is_the_callers = namespace(&pid, name) == namespace("self", name);
        stage.tell(&format!("{name} is the caller's, on the host"), is_the_callers);
    }
    stage.remove("-host");
}

fn new(stage: &mut Stage<'_>) {
    let questions = [
        ("its number", "echo $$"),
        ("processes", "for one in /proc/[0-9]*/comm; do read name <$one; echo $name; done"),
        ("interfaces", "ls /sys/class/net; awk 'NR > 2 {print $1}' /proc/net/dev"),
        ("shared memory", "wc -l </proc/sysvipc/shm"),
        ("host name can be changed", "hostname other; hostname"),
        (
            "mounts can be made",
            "mount -t tmpfs tmpfs /tmp && echo mounted; mount --bind /proc /tmp && echo bound",
        ),
        ("a namespace of its own", "unshare -n true && echo unshared"),
    ];
    let namespaces = json!(KINDS.map(|(kind, _)| json!({"type": kind})));
    stage.ask("", &questions, |config| config["hostname"] = json!("own"));
    stage.ask("-able", &[("able to administer", "hostname other; hostname; mount -t tmpfs tmpfs /tmp && echo mounted; ip link set lo up && echo up; unshare -n true && echo unshared")], |config| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN", "CAP_NET_ADMIN"]);
        }
    });
    tell_of_the_host(stage, &namespaces);
}

fn inherited(stage: &mut Stage<'_>) {
    let only = json!([{"type": "mount"}]);
    tell_of_the_host(stage, &only);
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("the host has a name");
    let ran = stage.run("-uts", "hostname", |config| {
        config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "pid"}, {"type": "network"}]);
    });
    stage.tell("without uts its name is the host's", ran.good() == host);
    let ran = stage.run("-named", "hostname", |config| {
        config["linux"]["namespaces"] = json!([{"type": "mount"}]);
        config["hostname"] = json!("mine");
    });
    stage.tell_ran("a host name without uts", ran, "hostname");
    // Never without mount: runc makes all mounts of its caller's namespace private then, those of living sandboxes too.
}

/// Somebody in namespaces of its own, whom a test ends.
struct Other(Child);

impl Other {
    fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "--ipc", "--uts", "sh", "-c", "hostname other; exec sleep 1000"]);
        let child = command.stdin(Stdio::null()).spawn().expect("run unshare");
        let other = Self(child);
        let is_apart = || namespace(&other.pid(), "uts") != namespace("self", "uts");
        assert!(eventually(is_apart), "unshare does not do its work");
        other
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill(); // It has ended.
        let _ = self.0.wait(); // As above.
    }
}

fn by_path(stage: &mut Stage<'_>) {
    let other = Other::new();
    for (kind, name) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
        let path = format!("/proc/{}/ns/{name}", other.pid());
        let part = format!("-{name}");
        let bundle = stage.bundle(&part, WAITS, |config| {
            let all = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
            all.iter_mut().find(|one| one["type"] == kind).expect("it is among them")["path"] = json!(path);
        });
        let created = stage.create(&part, &bundle);
        if created.code == Some(0) {
            let pid = stage.cli.state(&stage.id(&part))["pid"].to_string();
            stage.tell(
                name,
                format!("the same on the host: {}", namespace(&pid, name) == namespace(&other.pid(), name)),
            );
        } else {
            stage.tell_ran(name, created, "namespace");
        }
        stage.cli.run(&["delete", "--force", &stage.id(&part)]).good();
    }
}

fn impossible(stage: &mut Stage<'_>) {
    let other = Other::new();
    let file = stage.path("file");
    fs::write(&file, "").expect("write a file");
    let paths = [
        ("of another kind", format!("/proc/{}/ns/ipc", other.pid())),
        ("that is missing", "/proc/self/ns/no".into()),
        ("to a plain file", file.display().to_string()),
    ];
    for (what, path) in paths {
        for kind in ["network", "uts"] {
            let part = format!("-{kind}-{}", what.replace(' ', "-"));
            let ran = stage.run(&part, "true", |config| {
                let all = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
                all.iter_mut().find(|one| one["type"] == kind).expect("it is among them")["path"] =
                    json!(path);
            });
            stage.tell_ran(&format!("{kind}: a path {what}"), ran, "namespace");
        }
    }
    for (fact, namespaces, naming) in [
        ("a kind that is unknown", json!([{"type": "mount"}, {"type": "odd"}]), "odd"),
        ("a kind twice", json!([{"type": "mount"}, {"type": "pid"}, {"type": "pid"}]), "pid"),
    ] {
        let ran =
            stage.run(&fact.replace(' ', "-"), "true", |config| config["linux"]["namespaces"] = namespaces);
        stage.tell_ran(fact, ran, naming);
    }
}

fn mapped(stage: &mut Stage<'_>) {
    let questions = [
        ("users", "tr -s ' ' </proc/self/uid_map"),
        ("groups", "tr -s ' ' </proc/self/gid_map"),
        ("who it is", "id -u; id -g"),
        ("who owns what is the host's", "stat -c '%u %g' /bin /etc/passwd"),
        ("mount", "mount -t tmpfs tmpfs /tmp"),
    ];
    let _ = fs::set_permissions(stage.cli.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)); // Told by what follows.
    stage.ask("", &questions, |config| {
        config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({"type": "user"}));
        config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 2000}]);
        config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 200_000, "size": 3000}]);
    });
    let ran = stage.run("-none", "true", |config| {
        config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 2000}]);
    });
    stage.tell_ran("mappings without the namespace", ran, "ser namespace");
}

fn sysctls(stage: &mut Stage<'_>) {
    let questions = [
        ("net", "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/lo/rp_filter"),
        ("ipc", "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max"),
        ("uts", "cat /proc/sys/kernel/domainname"),
    ];
    stage.ask("", &questions, |config| {
        config["linux"]["sysctl"] = json!({
            "net.ipv4.ip_forward": "1", "net/ipv4/conf/lo/rp_filter": "2", "kernel.shm_rmid_forced": "1",
            "fs.mqueue.msg_max": "11", "kernel.domainname": "example.org",
        });
    });
    for (fact, key) in [("one of the host's", "vm.swappiness"), ("one that is missing", "net.no_such_file")] {
        let ran = stage
            .run(&fact.replace(' ', "-"), "true", |config| config["linux"]["sysctl"] = json!({key: "1"}));
        stage.tell_ran(fact, ran, key.rsplit('.').next().expect("a name"));
    }
    assert!(Path::new("/proc/sys/vm").exists());
}

fn names(stage: &mut Stage<'_>) {
    stage.ask(
        "",
        &[("host name", "hostname; uname -n"), ("domain name", "cat /proc/sys/kernel/domainname")],
        |config| {
            config["hostname"] = json!("a-host");
        },
    );
    let long = "h".repeat(65);
    let ran = stage.run("-long", "true", |config| config["hostname"] = json!(long));
    stage.tell_ran("one that is too long", ran, "hostname");
}

//! The OCI spec in a real VM: each field of the runtime spec, seen from within the container. docs/oci-spec.md names these
//! tests field by field.

use std::{
    cell::Cell,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
    process::Command,
};

use integration::{
    compare::spec::{container, mount},
    containerd::{Containerd, Finished, IMAGE, Runtime, finish},
    environment::Environment,
};
use serde_json::{Value, json};

/// A containerd, and a root file system to make containers from.
struct Bench {
    containerd: Containerd,
    kata: PathBuf,
    rootfs: PathBuf,
    made: Cell<u32>,
    /// Whether this containerd passes on fields of runtime-spec 1.2.
    has_newer_fields: bool,
}

impl Bench {
    /// `changes` are made to the configuration.
    fn open(changes: &[(&str, String)]) -> Option<Self> {
        Self::open_with(changes, None)
    }

    fn open_with(changes: &[(&str, String)], release: Option<&str>) -> Option<Self> {
        let env = Environment::find()?;
        let programs = release.and_then(|release| env.containerd(release));
        let has_newer_fields = programs.is_some();
        let containerd = Containerd::start(&env, programs);
        let (mounted, rootfs) = (containerd.dir().join("mounted"), containerd.dir().join("rootfs"));
        fs::create_dir(&mounted).unwrap();
        let image = containerd.ctr(["images", "mount", IMAGE, &mounted.display().to_string()]);
        assert_eq!(image.code, 0, "{}", image.stderr);
        let copied = Command::new("cp").arg("-a").arg(&mounted).arg(&rootfs).status().unwrap();
        assert!(copied.success());
        assert_eq!(containerd.ctr(["images", "unmount", &mounted.display().to_string()]).code, 0);
        for dir in ["etc", "home/u", "private", "tmp", "work"] {
            fs::create_dir_all(rootfs.join(dir)).unwrap();
        }
        fs::set_permissions(rootfs.join("private"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(rootfs.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::write(rootfs.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\n")
            .unwrap();
        let _ = fs::remove_file(rootfs.join("link")); // Another test's image may have it.
        symlink("/home", rootfs.join("link")).unwrap();
        fs::write(rootfs.join("bin/text"), "no program").unwrap();
        fs::set_permissions(rootfs.join("bin/text"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(rootfs.join("bin/data"), "no program").unwrap();
        let kata = env.configuration_with(containerd.dir(), "spec", changes);
        Some(Self { containerd, kata, rootfs, made: Cell::new(0), has_newer_fields })
    }

    /// The arguments of `ctr run` for a container `id` of a spec.
    fn args(&self, id: &str, spec: &Value, options: &[&str]) -> Vec<String> {
        let file = self.containerd.dir().join(format!("{id}.json"));
        fs::write(&file, spec.to_string()).unwrap();
        let mut args = self.containerd.run_args(&Runtime::Kata(self.kata.clone()), options, id);
        args.retain(|arg| arg != IMAGE);
        let at = args.len() - 1;
        args.splice(at..at, ["--config".to_owned(), file.display().to_string()]);
        args
    }

    fn spec(&self, script: &str, edit: impl FnOnce(&mut Value)) -> (String, Value) {
        self.made.set(self.made.get() + 1);
        let id = format!("spec-{}-{}", std::process::id(), self.made.get());
        let mut spec = container(script, false, &format!("/{}/{id}", self.containerd.namespace()));
        spec["root"]["path"] = json!(self.rootfs);
        edit(&mut spec);
        (id, spec)
    }

    /// Runs `script` in a container of its own, whose spec is changed first.
    fn run(&self, script: &str, edit: impl FnOnce(&mut Value)) -> Finished {
        let (id, spec) = self.spec(script, edit);
        finish(self.containerd.command(self.args(&id, &spec, &["--rm"])), b"")
    }

    /// What a container that must work says.
    fn facts(&self, script: &str, edit: impl FnOnce(&mut Value)) -> Vec<String> {
        let done = self.run(script, edit);
        assert_eq!(done.code, 0, "{}\n{}\n{}", done.text(), done.stderr, self.containerd.log());
        done.text().lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    /// Why a container that cannot be is refused.
    fn refusal(&self, edit: impl FnOnce(&mut Value)) -> String {
        let done = self.run("echo it ran", edit);
        assert_ne!(done.code, 0, "{}", done.text());
        assert!(!done.text().contains("it ran"), "{}", done.stderr);
        done.stderr
    }
}

#[track_caller]
fn assert_facts(facts: &[String], expected: &[&str]) {
    for line in expected {
        assert!(facts.iter().any(|fact| fact == line), "{line:?} is not in\n{}", facts.join("\n"));
    }
}

fn push(list: &mut Value, item: Value) {
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut().unwrap().push(item);
}

#[test]
fn limits_are_in_the_cgroups_files_before_the_program_runs() {
    let Some(bench) = Bench::open(&[]) else { return };
    let facts = bench.facts(
        "cd /sys/fs/cgroup; for f in memory.max memory.low memory.swap.max memory.high cpu.max cpu.weight pids.max \
         cpuset.cpus; do echo $f $(cat $f); done; cat /proc/self/cgroup; echo 1 > pids.max || echo read-only",
        |spec| {
            push(&mut spec["mounts"], mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "nodev"]));
            spec["linux"]["resources"] = json!({
                "memory": {"limit": 64 << 20, "reservation": 32 << 20, "swap": 96 << 20},
                "cpu": {"quota": 50000, "period": 100000, "shares": 512, "cpus": "0-63"},
                "pids": {"limit": 77}, "unified": {"memory.high": (48 << 20).to_string()},
            });
        },
    );
    assert_facts(
        &facts,
        &[
            "memory.max 67108864",
            "memory.low 33554432",
            "memory.swap.max 33554432",
            "memory.high 50331648",
            "cpu.max 50000 100000",
            "cpu.weight 20",
            "pids.max 77",
            "0::/",
            "read-only",
        ],
    );
    let cpus = facts.iter().find_map(|fact| fact.strip_prefix("cpuset.cpus ")).unwrap();
    assert!(cpus.starts_with("0") && !cpus.contains("63"), "cut to the guest's: {cpus}");

    let killed = bench.refusal(|spec| spec["linux"]["resources"]["memory"] = json!({"limit": 4096}));
    assert!(killed.contains("OOM-killed (memory limit too low?)"), "{killed}");
    let disk = bench.refusal(|spec| {
        spec["linux"]["resources"]["blockIO"] =
            json!({"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}]});
    });
    assert!(disk.contains("8:0"), "{disk}");
}

#[test]
fn devices_are_the_guests_and_rules_are_enforced() {
    let Some(bench) = Bench::open(&[]) else { return };
    let script = "ls -ln /dev/kmsg /dev/pp | cut -c1-10; ls -ln /dev/kmsg | awk '{print $3,$4,$5,$6}'; \
        head -c 3 /dev/zero | wc -c; head -c 1 /dev/kmsg > /dev/null && echo kmsg; mknod /tmp/mem c 1 1 && echo made; \
        head -c 1 /tmp/mem || echo no mem; mknod /tmp/disk b 8 0; head -c 1 /tmp/disk || echo no disk; \
        rm /tmp/mem /tmp/disk; ls -l /dev/ptmx /dev/fd | grep -c -- '->'; true";
    let facts = bench.facts(script, |spec| {
        spec["linux"]["devices"] = json!([
            {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o640, "uid": 5, "gid": 6},
            {"path": "/dev/pp", "type": "p", "fileMode": 0o600},
        ]);
        spec["linux"]["resources"] = json!({"devices": [
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"},
        ]});
        for set in ["bounding", "effective", "permitted"] {
            push(&mut spec["process"]["capabilities"][set], json!("CAP_SYSLOG"));
        }
    });
    assert_facts(
        &facts,
        &["crw-r-----", "prw-------", "5 6 1, 11", "3", "kmsg", "made", "no mem", "no disk", "2"],
    );

    let facts = bench.facts("ls /dev; head -c 1 /dev/kmsg > /dev/null && echo readable", |spec| {
        spec["linux"]["devices"] = json!([
            {"path": "/dev/sdz", "type": "b", "major": 8, "minor": 400},
            {"path": "/dev/odd", "type": "c", "major": 240, "minor": 4},
            {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11},
        ]);
        spec["linux"]["resources"] = json!({"devices": [{"allow": true, "access": "rwm"}]});
        for set in ["bounding", "effective", "permitted"] {
            push(&mut spec["process"]["capabilities"][set], json!("CAP_SYSLOG"));
        }
    });
    assert_facts(&facts, &["readable", "null", "ptmx"]);
    assert!(!facts.iter().any(|name| name == "sdz" || name == "odd"), "{facts:?}");

    for (device, name) in [
        (json!({"path": "/dev/odd", "type": "c", "major": 240, "minor": 4}), "/dev/odd"),
        (json!({"path": "/dev/snd/seq", "type": "c", "major": 116, "minor": 1}), "/dev/snd/seq"),
    ] {
        let refused = bench.refusal(|spec| spec["linux"]["devices"] = json!([device]));
        assert!(refused.contains(name), "{refused}");
    }
}

#[test]
fn a_user_has_its_groups_capabilities_umask_home_and_streams() {
    let Some(bench) = Bench::open(&[]) else { return };
    let script = "id; umask; pwd; grep -E 'Cap|NoNew' /proc/self/status; echo to-stdout > /dev/stdout; \
        echo to-stderr > /proc/self/fd/2";
    let done = bench.run(script, |spec| {
        spec["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o27});
        let set = json!(["CAP_NET_BIND_SERVICE", "CAP_KILL", "CAP_OF_THE_FUTURE"]);
        spec["process"]["capabilities"] =
            json!({"bounding": set, "effective": set, "permitted": set, "inheritable": set, "ambient": set});
        spec["process"]["cwd"] = json!("/work/made/for it");
        spec["process"]["commandLine"] = json!("ignored");
    });
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(done.stderr, "to-stderr\n");
    let text = done.text();
    for fact in [
        "uid=1000(u) gid=1001 groups=5,6",
        "0027",
        "/work/made/for it",
        "CapInh:\t0000000000000420",
        "CapPrm:\t0000000000000420",
        "CapEff:\t0000000000000420",
        "CapBnd:\t0000000000000420",
        "CapAmb:\t0000000000000420",
        "NoNewPrivs:\t1",
        "to-stdout",
    ] {
        assert!(text.lines().any(|line| line == fact), "{fact:?} is not in\n{text}");
    }
    let env = bench.run("", |spec| {
        spec["process"]["args"] = json!(["env"]);
        spec["process"]["user"] = json!({"uid": 1000, "gid": 1001});
        spec["process"]["env"] = json!(["PATH=/bin", "Z=1", "A= x ", "Z=2", "HOME="]);
    });
    assert_eq!(env.text(), "PATH=/bin\nZ=2\nA= x \nHOME=/home/u\n");
    let refused = bench.refusal(|spec| spec["process"]["user"] = json!({"uid": u32::MAX, "gid": 0}));
    assert!(refused.contains("uids and gids must be in range 0-2147483647"), "{refused}");
}

#[test]
fn names_sysctls_limits_and_priorities_are_set() {
    let Some(bench) = Bench::open_with(&[], Some("2")) else { return };
    let script = "ulimit -n; ulimit -Hn; ulimit -c; echo oom $(cat /proc/self/oom_score_adj); \
        cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced /proc/sys/net/core/somaxconn; hostname; \
        cat /proc/sys/kernel/domainname; uname -m; echo policy $(awk '{print $41}' /proc/$$/stat) \
        nice $(awk '{print $19}' /proc/$$/stat); ionice; df -k /dev/shm | awk 'END{print \"shm\", $2}'";
    let facts = bench.facts(script, |spec| {
        let process = &mut spec["process"];
        process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "hard": 333, "soft": 222},
                                    {"type": "RLIMIT_CORE", "hard": 0, "soft": 0}]);
        process["oomScoreAdj"] = json!(321);
        process["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
        process["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
        spec["linux"]["sysctl"] =
            json!({"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1", "net.core.somaxconn": "77"});
        spec["linux"]["personality"] = json!({"domain": "LINUX32"});
        spec["hostname"] = json!("a-host");
        spec["domainname"] = json!("a-domain");
        spec["mounts"][3]["options"] = json!(["mode=1777", "size=1024k"]);
    });
    assert_facts(&facts, &["222", "333", "0", "oom 321", "77", "a-host", "a-domain", "i686", "shm 1024"]);
    assert_eq!(facts.iter().filter(|fact| *fact == "1").count(), 2, "{facts:?}");
    if bench.has_newer_fields {
        assert_facts(&facts, &["policy 3 nice 5", "best-effort: prio 6"]);
    } else {
        eprintln!("skipped: scheduler and I/O priority need a containerd that knows them");
    }
    let refused = bench.refusal(|spec| spec["linux"]["sysctl"] = json!({"kernel.panic": "1"}));
    assert!(refused.contains("sysctl \"kernel.panic\" is not in a separate kernel namespace"), "{refused}");
}

#[test]
fn mounts_of_each_kind_are_made_and_paths_are_closed() {
    let Some(bench) = Bench::open(&[]) else { return };
    let volume = bench.containerd.dir().join("volume");
    fs::create_dir_all(volume.join("below")).unwrap();
    fs::write(volume.join("file"), "content").unwrap();
    let (volume, file, below) =
        (volume.display().to_string(), volume.join("file").display().to_string(), volume.join("below"));
    let script = "ls -ld /t | cut -c1-10; df -k /t | awk 'END{print $2}'; touch /ro/x || echo ro; touch /rro/x || echo rro; \
        cat /new/file; echo; ls -d /home/x; cat /plain/file; echo; touch /x || echo root ro; touch /work/x || echo work ro; \
        touch /etc/new && cut -d: -f1 /etc/passwd; pwd; ls /home/u | wc -l; touch /plain/below/y && echo writable; \
        awk '$5 ~ /^\\/(t|ro|etc|proc|proc.sys|dev.pts|dev.mqueue)$/ {print $5, $6}' /proc/self/mountinfo";
    let facts = bench.facts(script, |spec| {
        let mounts = &mut spec["mounts"];
        push(mounts, mount("/t", "tmpfs", "tmpfs", &["size=4m", "mode=1711", "noexec", "nosuid"]));
        push(mounts, mount("/ro", "bind", &volume, &["rbind", "ro", "nosuid"]));
        push(mounts, mount("/rro", "bind", &volume, &["rbind", "rro"]));
        push(mounts, mount("/new/file", "bind", &file, &["bind", "rprivate"]));
        push(mounts, mount("/link/x", "bind", &below.display().to_string(), &["rbind", "rslave"]));
        push(mounts, mount("/etc", "tmpfs", "tmpfs", &["size=1m", "tmpcopyup", "nosuid"]));
        push(mounts, mount("/plain", "none", &volume, &["bind", "rshared"]));
        spec["root"]["readonly"] = json!(true);
        spec["linux"]["rootfsPropagation"] = json!("rslave");
        push(&mut spec["linux"]["maskedPaths"], json!("/private"));
        spec["process"]["cwd"] = json!("/plain/made/here");
        push(&mut spec["linux"]["maskedPaths"], json!("/home/u"));
        push(&mut spec["linux"]["maskedPaths"], json!("/not/there"));
        push(&mut spec["linux"]["readonlyPaths"], json!("/work"));
        push(&mut spec["linux"]["readonlyPaths"], json!("/proc/sys"));
    });
    assert_facts(
        &facts,
        &[
            "drwx--x--t",
            "4096",
            "ro",
            "rro",
            "content",
            "/home/x",
            "root ro",
            "work ro",
            "root",
            "/plain/made/here",
            "0",
            "writable",
            "/t rw,nosuid,noexec,relatime",
            "/ro ro,nosuid,relatime",
            "/etc rw,nosuid,relatime",
            "/proc rw,nosuid,nodev,noexec,relatime",
            "/proc/sys ro,nosuid,nodev,noexec,relatime",
            "/dev/pts rw,nosuid,noexec,relatime",
            "/dev/mqueue rw,nosuid,nodev,noexec,relatime",
        ],
    );
    for (bad, words) in [
        (mount("/x", "bind", &volume, &["rbind", "idmap"]), "idmap: mounts with mapped ids"),
        (mount("/x", "tmpfs", "tmpfs", &["bogus=1"]), "bogus=1"),
        (mount("/x", "bind", "/no/such/source", &["bind"]), "/no/such/source on /x"),
        (mount("/dev", "bind", "/dev", &["rbind"]), "name the devices"),
    ] {
        let refused = bench.refusal(|spec| push(&mut spec["mounts"], bad));
        assert!(refused.contains(words), "{words}: {refused}");
    }
}

#[test]
fn a_user_namespace_maps_ids_and_execs_join_it() {
    let Some(bench) = Bench::open(&[]) else { return };
    let chown =
        Command::new("chown").args(["-R", "-h", "100000:100000"]).arg(&bench.rootfs).status().unwrap();
    assert!(chown.success());
    let (id, spec) = bench.spec("sleep 1000", |spec| {
        push(&mut spec["linux"]["namespaces"], json!({"type": "user"}));
        let mapping = json!([{"containerID": 0, "hostID": 100000, "size": 65536}]);
        spec["linux"]["uidMappings"] = mapping.clone();
        spec["linux"]["gidMappings"] = mapping;
        spec["hostname"] = json!("mapped");
    });
    let started = finish(bench.containerd.command(bench.args(&id, &spec, &["-d", "--null-io"])), b"");
    assert_eq!(started.code, 0, "{}\n{}", started.stderr, bench.containerd.log());
    let script = "id -u; tr -s ' ' < /proc/self/uid_map; hostname; touch /tmp/new; ls -ln /tmp/new | awk '{print $3}'; \
        test $(readlink /proc/self/ns/user) = $(readlink /proc/1/ns/user) && echo joined; ls /sys | wc -l; echo > /dev/null; \
        mount -t tmpfs t /tmp || echo no mount; ls -ldn /proc | awk '{print $3}'";
    let exec =
        finish(bench.containerd.command(bench.containerd.exec_args(&id, "e1", &["sh", "-c", script])), b"");
    let facts: Vec<String> = exec.text().lines().map(|line| line.trim().to_owned()).collect();
    bench.containerd.remove(&id);
    assert_facts(&facts, &["0", "0 100000 65536", "mapped", "joined", "no mount"]);
    let made = fs::metadata(bench.rootfs.join("tmp/new")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 100_000, "seen from the host");
}

#[test]
fn filters_hold_for_the_init_and_for_execs() {
    let Some(bench) = Bench::open(&[("disable_guest_seccomp", "disable_guest_seccomp = false".to_owned())])
    else {
        return;
    };
    let seccomp = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {"names": ["chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO"},
        ],
    });
    let script = "mkdir /tmp/q; chmod 7 /tmp; grep -E 'Seccomp:|NoNew' /proc/self/status >&2";
    for (no_new_privileges, shown) in [(false, "NoNewPrivs:\t0"), (true, "NoNewPrivs:\t1")] {
        let (id, spec) = bench.spec("sleep 1000", |spec| {
            spec["linux"]["seccomp"] = seccomp.clone();
            spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        });
        let started = finish(bench.containerd.command(bench.args(&id, &spec, &["-d", "--null-io"])), b"");
        assert_eq!(started.code, 0, "{}\n{}", started.stderr, bench.containerd.log());
        let exec = finish(
            bench.containerd.command(bench.containerd.exec_args(&id, "e1", &["sh", "-c", script])),
            b"",
        );
        bench.containerd.remove(&id);
        let said = exec.stderr;
        for words in ["Function not implemented", "Operation not permitted", "Seccomp:\t2", shown] {
            assert!(said.contains(words), "exec, {words}: {said}");
        }
    }
    let init = bench.run(script, |spec| {
        spec["linux"]["seccomp"] = seccomp.clone();
        spec["process"]["noNewPrivileges"] = json!(false);
    });
    for words in ["Function not implemented", "Operation not permitted", "Seccomp:\t2"] {
        assert!(init.stderr.contains(words), "init, {words}: {}", init.stderr);
    }
    let refused = bench.refusal(|spec| {
        spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_NOTIFY"}]});
    });
    assert!(refused.contains("SCMP_ACT_NOTIFY"), "{refused}");
}

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

#[test]
fn what_cannot_run_is_told_in_runcs_words() {
    let Some(bench) = Bench::open(&[]) else { return };
    let (id, spec) = bench.spec("sleep 1000", |_| {});
    let started = finish(bench.containerd.command(bench.args(&id, &spec, &["-d", "--null-io"])), b"");
    assert_eq!(started.code, 0, "{}\n{}", started.stderr, bench.containerd.log());
    let exec = |name: &str, options: &[&str], command: &str| {
        let mut args = bench.containerd.exec_args(&id, name, &[command]);
        args.splice(2..2, options.iter().map(|option| option.to_string()));
        finish(bench.containerd.command(args), b"")
    };
    let lead = "ctr: OCI runtime exec failed: exec failed: unable to start container process: ";
    for (index, (options, command, words)) in [
        (&[][..], "nope", "exec: \"nope\": executable file not found in $PATH: unknown\n"),
        (&[], "data", "exec: \"data\": executable file not found in $PATH: unknown\n"),
        (&[], "/no/such", "exec: \"/no/such\": stat /no/such: no such file or directory: unknown\n"),
        (&[], "/bin", "exec: \"/bin\": is a directory: unknown\n"),
        (&[], "/bin/data", "exec: \"/bin/data\": permission denied: unknown\n"),
        (
            &["--cwd", "/nope"],
            "pwd",
            "chdir to cwd (\"/nope\") set in config.json failed: no such file or directory: unknown\n",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let said = exec(&format!("bad{index}"), options, command);
        assert_eq!((said.code, said.stderr.as_str()), (1, format!("{lead}{words}").as_str()), "{command}");
    }
    let text = exec("text", &[], "text");
    assert_eq!((text.code, text.stderr.as_str()), (1, "exec /bin/text: exec format error\n"));
    let inside = exec("inside", &["--cwd", "/private", "--user", "1000:1000"], "pwd");
    assert_eq!((inside.code, inside.text().as_str()), (0, "/private\n"), "{}", inside.stderr);
    bench.containerd.remove(&id);

    for (program, words) in [
        ("nope", "unable to start container process: exec: \"nope\": executable file not found in $PATH"),
        ("/bin", "unable to start container process: exec: \"/bin\": is a directory"),
    ] {
        let refused = bench.refusal(|spec| spec["process"]["args"] = json!([program]));
        assert!(refused.contains("OCI runtime create failed: ") && refused.contains(words), "{refused}");
    }
    let text = bench.run("", |spec| spec["process"]["args"] = json!(["text"]));
    assert_eq!((text.code, text.stderr.as_str()), (1, "exec /bin/text: exec format error\n"));
}

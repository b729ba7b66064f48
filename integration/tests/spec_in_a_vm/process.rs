//! The process: who it is, what it may, and why it cannot be.

use integration::containerd::finish;
use serde_json::json;

use crate::bench::{Bench, assert_facts};

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
        spec["process"]["cwd"] = json!("/made/for it");
        spec["process"]["commandLine"] = json!("ignored");
    });
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(done.stderr, "to-stderr\n");
    let text = done.text();
    for fact in [
        "uid=1000(u) gid=1001 groups=5,6",
        "0027",
        "/made/for it",
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

//! User namespaces and system call filters.

use std::{fs, process::Command};

use integration::containerd::finish;
use serde_json::json;

use crate::bench::{Bench, assert_facts, push};

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

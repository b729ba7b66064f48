//! Limits, and devices with their rules.

use integration::compare::spec::mount;
use serde_json::json;

use crate::bench::{Bench, assert_facts, push};

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

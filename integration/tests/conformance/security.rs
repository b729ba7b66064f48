//! Capabilities, filters, labels.

use std::fs;

use integration::oci_cli::Whose;
use serde_json::{Value, json};

use super::{Scenario, stage::Stage};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "capabilities", covers: &["process_capabilities"], play: capabilities },
    Scenario { name: "capabilities that are unknown", covers: &["process_capabilities_fail"], play: unknown },
    Scenario { name: "filter", covers: &["linux_seccomp"], play: filter },
    Scenario {
        name: "labels",
        covers: &["linux_process_apparmor_profile", "linux_mount_label"],
        play: labels,
    },
];

const SETS: &str = "grep Cap /proc/1/status";

fn capabilities(stage: &mut Stage<'_>) {
    let own = |sets: Value| move |config: &mut Value| config["process"]["capabilities"] = sets;
    let few = json!(["CAP_KILL", "CAP_AUDIT_WRITE"]);
    stage.ask("-none", &[("none", SETS)], own(json!({})));
    stage.ask("-five", &[("five sets", SETS)], own(json!({
        "bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_AUDIT_WRITE"], "permitted": few, "effective": ["CAP_KILL"],
        "inheritable": few, "ambient": ["CAP_KILL"],
    })));
    stage.ask("-user", &[("another's five sets", SETS)], |config| {
        config["process"]["user"] = json!({"uid": 7, "gid": 8});
        config["process"]["capabilities"] = json!({
            "bounding": few, "permitted": few, "effective": few, "inheritable": few, "ambient": few,
        });
    });
    stage.ask(
        "-odd",
        &[("ambient, but not inheritable", SETS)],
        own(json!({
            "bounding": few, "permitted": few, "effective": few, "ambient": few,
        })),
    );
    let uses = "chown 5 /tmp/x; chown 5:5 /tmp/x; kill -0 1 && echo killed; date -s 2030-01-01 >/dev/null; hostname x";
    let script = format!("touch /tmp/x; {uses}; stat -c '%u %g' /tmp/x; rm /tmp/x");
    stage.ask(
        "-use",
        &[("what may be done", &script)],
        own(json!({
            "bounding": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"],
        })),
    );
}

fn unknown(stage: &mut Stage<'_>) {
    stage.ask("", &[("with three that nobody knows", SETS)], |config| {
        config["process"]["capabilities"] = json!({
            "bounding": ["CAP_TEST", "KILL", "cap_kill", "CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"],
        });
    });
}

fn filter(stage: &mut Stage<'_>) {
    if stage.cli.whose == Whose::Ours {
        let path = stage.cli.path().join("configuration.toml");
        let text = fs::read_to_string(&path).expect("read the configuration");
        let other = text.replace("disable_guest_seccomp = true", "disable_guest_seccomp = false");
        assert_ne!(text, other, "filters are on already");
        fs::write(&path, other).expect("write the configuration");
    }
    let questions = [
        ("an error", "mkdir /tmp/x"),
        ("another error", "sync"),
        ("by an argument", "kill -USR1 1; kill -0 1 && echo fine"),
        ("a killed one", "(hostname x); echo $?"),
        ("the mode", "grep Seccomp: /proc/1/status"),
    ];
    stage.ask("", &questions, |config| {
        config["process"]["noNewPrivileges"] = json!(true);
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [
                {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
                {"names": ["sync"], "action": "SCMP_ACT_ERRNO"},
                {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]},
                {"names": ["sethostname"], "action": "SCMP_ACT_KILL_PROCESS"},
                {"names": ["no_such_call"], "action": "SCMP_ACT_ERRNO"},
            ],
        });
    });
    for (fact, filter, naming) in [
        ("an action that is unknown", json!({"defaultAction": "SCMP_ACT_ODD"}), "SCMP_ACT_ODD"),
        (
            "an architecture that is unknown",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_ODD"]}),
            "SCMP_ARCH_ODD",
        ),
    ] {
        let ran = stage.run(&fact.replace(' ', "-"), "true", |config| config["linux"]["seccomp"] = filter);
        stage.tell_ran(fact, ran, naming);
    }
}

fn labels(stage: &mut Stage<'_>) {
    for (fact, place, key, naming) in [
        ("AppArmor profile", "process", "apparmorProfile", "pparmor"),
        ("SELinux label", "process", "selinuxLabel", "selinux"),
        ("mount label", "linux", "mountLabel", "context"),
    ] {
        let ran = stage.run(&fact.replace(' ', "-"), "true", |config| {
            config[place][key] = json!("system_u:object_r:container_file_t:s0");
        });
        stage.tell_ran(fact, ran, naming);
    }
}

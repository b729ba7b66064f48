//! Devices: those that are made, and those that may be used.

use serde_json::{Value, json};

use super::{Scenario, stage::Stage};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "devices", covers: &["linux_devices"], play: devices },
    Scenario {
        name: "rules for devices",
        covers: &["linux_cgroups_devices", "linux_cgroups_relative_devices"],
        play: rules,
    },
    Scenario { name: "devices that cannot be", covers: &["linux_devices"], play: impossible },
];

fn device(path: &str, kind: &str, major: i64, minor: i64) -> Value {
    json!({"path": path, "type": kind, "major": major, "minor": minor, "fileMode": 0o464, "uid": 3, "gid": 4})
}

fn devices(stage: &mut Stage<'_>) {
    let seen = |path: &str| format!("stat -c '%F %a %u:%g %t:%T' {path}");
    let [character, plain, deep, fifo] = ["/dev/mine", "/dev/bare", "/dev/deep/below", "/dev/pipe"].map(seen);
    let questions = [
        ("character device", character.as_str()),
        ("it is read", "head -c 4 /dev/mine | od -An -tx1"),
        ("without a mode", &plain),
        ("in a folder", &deep),
        ("fifo", &fifo),
    ];
    stage.ask("", &questions, |config| {
        config["linux"]["devices"] = json!([
            device("/dev/mine", "c", 1, 5), {"path": "/dev/bare", "type": "u", "major": 1, "minor": 3},
            device("/dev/deep/below", "c", 1, 7), device("/dev/pipe", "p", 0, 0),
        ]);
    });
    let ran = stage.run("-block", "stat -c '%F %a %u:%g' /dev/block", |config| {
        config["linux"]["devices"] = json!([device("/dev/block", "b", 7, 0)]);
    });
    let told = if ran.code == Some(0) { ran.stdout } else { ran.stderr };
    stage.tell("block device", told);
}

fn rules(stage: &mut Stage<'_>) {
    let questions = [
        ("make one of the default's", "mknod /tmp/zero c 1 5 && head -c 2 /tmp/zero | od -An -tx1"),
        ("make one that a rule names", "mknod /tmp/mem c 10 229; ls /tmp/mem"),
        ("read it", "true </tmp/mem && echo opened"),
        ("write to it", "true >>/tmp/mem && echo opened"),
        ("make one that no rule names", "mknod /tmp/none c 1 1"),
        ("make another that no rule names", "mknod /tmp/none b 7 7"),
        ("make a fifo", "mkfifo /tmp/fifo && ls /tmp/fifo"),
        ("what is always there", "echo x > /dev/null && head -c 1 /dev/urandom | wc -c"),
        ("leave nothing", "rm -f /tmp/zero /tmp/mem /tmp/none /tmp/fifo"),
    ];
    let only = |config: &mut Value| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set].as_array_mut().expect("a set").push(json!("CAP_MKNOD"));
        }
        config["linux"]["resources"] = json!({"devices": [
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rm"},
        ]});
    };
    stage.ask("", &questions, only);
}

fn impossible(stage: &mut Stage<'_>) {
    let cases = [
        ("of a kind that is unknown", device("/dev/x", "z", 1, 3), "z"),
        ("without a path", json!({"type": "c", "major": 1, "minor": 3}), ""),
        ("without a number", json!({"path": "/dev/x", "type": "c"}), ""),
        ("that nobody has", device("/dev/x", "c", 4000, 4000), ""),
    ];
    for (fact, wrong, naming) in cases {
        let ran =
            stage.run(&fact.replace(' ', "-"), "true", |config| config["linux"]["devices"] = json!([wrong]));
        stage.tell_ran(fact, ran, naming);
    }
}

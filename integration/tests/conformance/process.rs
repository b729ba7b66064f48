//! The process: its words, place, user, limits.

use serde_json::{Value, json};

use super::{Scenario, stage::Stage};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "process",
        covers: &[
            "process",
            "process_user",
            "process_oom_score_adj",
            "process_rlimits",
            "hostname",
            "default",
        ],
        play: process,
    },
    Scenario { name: "process of defaults", covers: &["process", "default"], play: defaults },
    Scenario {
        name: "process that cannot be",
        covers: &["process", "process_rlimits_fail"],
        play: impossible,
    },
];

fn process(stage: &mut Stage<'_>) {
    let questions = [
        ("words", "tr '\\0' '\\n' </proc/1/cmdline | tail -n 2"),
        ("environment", "tr '\\0' '\\n' </proc/1/environ"),
        ("folder", "pwd; ls -ld . | awk '{print $1}'"),
        ("ids", "grep -E '^(Uid|Gid|Groups|Umask):' /proc/1/status"),
        ("new file", "touch /tmp/new && stat -c '%a %u %g' /tmp/new; rm /tmp/new"),
        ("oom_score_adj", "cat /proc/1/oom_score_adj"),
        (
            "rlimits",
            "grep -E '^Max (cpu|file size|core|address|open|locked|stack|nice|real)' /proc/1/limits | sed 's/  */ /g'",
        ),
        ("no_new_privs", "grep NoNewPrivs /proc/1/status"),
        ("terminal", "[ -t 0 ] && echo yes || echo no"),
        ("its number", "echo $$"),
        ("host name", "hostname; cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname"),
        ("session", "awk '{print $1, $5, $6, $7}' /proc/1/stat"),
        ("signals", "grep SigBlk /proc/1/status"),
        ("nice and scheduler", "awk '{print $18, $19, $40, $41}' /proc/1/stat"),
        ("open files", "ls /proc/1/fd | tr '\\n' ' '"),
    ];
    stage.ask("", &questions, |config| {
        let process = &mut config["process"];
        process["args"].as_array_mut().expect("words").extend([json!("zero"), json!("a word")]);
        process["env"] = json!(["PATH=/usr/bin:/bin", "A=1", "EMPTY=", "B=two words", "A=2", "LINES=a\nb"]);
        process["cwd"] = json!("/tmp/made/here");
        process["user"] = json!({"uid": 0, "gid": 5, "additionalGids": [10, 7], "umask": 0o027});
        process["oomScoreAdj"] = json!(123);
        process["noNewPrivileges"] = json!(true);
        process["consoleSize"] = json!({"height": 10, "width": 20});
        process["rlimits"] = json!([
            {"type": "RLIMIT_CORE", "soft": 1, "hard": 2}, {"type": "RLIMIT_NOFILE", "soft": 1000, "hard": 1024},
            {"type": "RLIMIT_FSIZE", "soft": 1_000_000, "hard": 18_446_744_073_709_551_615_u64},
            {"type": "RLIMIT_STACK", "soft": 1_048_576, "hard": 2_097_152},
        ]);
        config["hostname"] = json!("conformance");
    });
    stage.ask(
        "-user",
        &[
            ("another's ids", "grep -E '^(Uid|Gid|Groups|Umask):' /proc/1/status"),
            ("another's home", "echo $HOME"),
            ("another's folder", "cat /root/x; cd /; touch x; pwd"),
            ("another's standard output", "echo written > /dev/stdout"),
            ("another's powers", "grep Cap /proc/1/status"),
        ],
        |config| {
            config["process"]["user"] = json!({"uid": 65534, "gid": 65534, "umask": 0o077});
            config["process"]["capabilities"] = json!({});
        },
    );
}

fn defaults(stage: &mut Stage<'_>) {
    let questions = [
        ("environment", "tr '\\0' '\\n' </proc/1/environ"),
        ("ids", "grep -E '^(Uid|Gid|Groups|Umask):' /proc/1/status"),
        ("powers", "grep Cap /proc/1/status"),
        ("no_new_privs", "grep NoNewPrivs /proc/1/status"),
        ("filter", "grep Seccomp: /proc/1/status"),
        ("limit of files", "grep 'Max open files' /proc/1/limits | sed 's/  */ /g'"),
    ];
    stage.ask("", &questions, |config| {
        let mut words = config["process"]["args"].clone();
        words[0] = json!("/bin/sh");
        config["process"] = json!({"args": words, "cwd": "/", "user": {"uid": 0, "gid": 0}});
    });
}

fn impossible(stage: &mut Stage<'_>) {
    let limit = |kind: &str| json!({"type": kind, "soft": 100, "hard": 100});
    let cases: [(&str, &str, Value, &str); 13] = [
        ("no words", "args", json!([]), "args"),
        ("a program that is missing", "args", json!(["/no/such/program"]), "/no/such/program"),
        ("a program that is not in the path", "args", json!(["no-such-program"]), "no-such-program"),
        ("a folder for a program", "args", json!(["/tmp"]), "/tmp"),
        ("a file that is no program", "args", json!(["/etc/passwd"]), "permission denied"),
        ("a folder from somewhere", "cwd", json!("tmp"), "absolute"),
        ("no folder", "cwd", json!(""), "cwd"),
        ("a file for a folder", "cwd", json!("/etc/passwd"), "not a directory"),
        ("an unknown limit", "rlimits", json!([limit("RLIMIT_TEST")]), "RLIMIT_TEST"),
        ("a limit twice", "rlimits", json!([limit("RLIMIT_CORE"), limit("RLIMIT_CORE")]), "RLIMIT_CORE"),
        (
            "a limit above its bound",
            "rlimits",
            json!([{"type": "RLIMIT_CORE", "soft": 9, "hard": 8}]),
            "rlimit",
        ),
        ("an absurd oom_score_adj", "oomScoreAdj", json!(5000), "oom"),
        ("environment without a name", "env", json!(["PATH=/bin", "NOVALUE", "=x"]), "env"),
    ];
    for (fact, key, value, naming) in cases {
        let ran = stage.run(&fact.replace(' ', "-"), "echo it ran", |config| config["process"][key] = value);
        stage.tell_ran(fact, ran, naming);
    }
}

//! The root file system, what is in it by default, and the paths that are hidden or kept from writers.

use std::fs;

use serde_json::{Value, json};

use super::{Scenario, stage::Stage};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "root", covers: &["default"], play: writable },
    Scenario { name: "root, read-only", covers: &["root_readonly_true"], play: readonly },
    Scenario { name: "root that cannot be", covers: &["default"], play: impossible },
    Scenario {
        name: "masked and read-only paths",
        covers: &["linux_masked_paths", "linux_readonly_paths"],
        play: paths,
    },
    Scenario { name: "root's propagation", covers: &["linux_rootfs_propagation"], play: propagation },
];

/// Devices and links that every container has.
const DEVICES: &str = "for d in null zero full random urandom tty ptmx console; do \
    printf \"$d \"; stat -c '%F %a %u:%g %t:%T' /dev/$d; done; \
    for l in fd stdin stdout stderr ptmx; do echo $l $(readlink /dev/$l); done";

fn writable(stage: &mut Stage<'_>) {
    let questions = [
        ("write", "echo x > /written && cat /written && rm /written"),
        ("what is in it", "ls / | tr '\\n' ' '"),
        ("devices", DEVICES),
        // One of them depends on how the kernel was built.
        ("what else is in /dev", "ls /dev | grep -vE '^(pts|shm|mqueue|kcore)$' | tr '\\n' ' '"),
        ("types of mounts", "awk '$2 != \"/\" {print $2, $3}' /proc/mounts | sort | grep -vE '^/sys/'"),
        (
            "flags of mounts",
            "awk '$2 ~ /^\\/(proc|dev|dev\\/pts|sys)$/ {print $2, $4}' /proc/mounts | sed -E 's/,(size|inode64|nr_inodes)[^,]*//g; s/,inode64//' | sort",
        ),
        ("size of /dev", "df -k /dev | awk 'END {print $2}'"),
    ];
    stage.ask("", &questions, |_| ());
}

fn readonly(stage: &mut Stage<'_>) {
    let questions = [
        ("write", "echo x > /written"),
        ("make a folder", "mkdir /folder"),
        ("take away", "rm /etc/passwd"),
        ("write to a mount", "echo x > /dev/x && cat /dev/x"),
        ("remount", "mount -o remount,rw /"),
        ("flag", "awk '$5 == \"/\" {print $6}' /proc/self/mountinfo | tr , '\\n' | grep -x ro"),
    ];
    stage.ask("", &questions, |config| config["root"]["readonly"] = json!(true));
}

fn impossible(stage: &mut Stage<'_>) {
    let nowhere = stage.path("nowhere").display().to_string();
    let cases = [
        ("missing", json!({"path": nowhere}), "nowhere"),
        ("a file", json!({"path": "/etc/passwd"}), ""),
        ("without a path", json!({}), ""),
        ("none", Value::Null, "oot"),
    ];
    for (fact, root, naming) in cases {
        let ran = stage.run(&fact.replace(' ', "-"), "true", |config| config["root"] = root);
        stage.tell_ran(fact, ran, naming);
    }
    stage.ask("-relative", &[("by a path from the bundle", "echo runs")], |config| {
        config["root"]["path"] = json!("../rootfs");
    });
}

fn paths(stage: &mut Stage<'_>) {
    let tree = stage.cli.path().join("rootfs/tmp/tree");
    for dir in ["hidden", "kept/below", "kept/hidden"] {
        fs::create_dir_all(tree.join(dir)).expect("make a folder");
        fs::write(tree.join(dir).join("file"), "text\n").expect("write a file");
    }
    fs::write(tree.join("secret"), "secret\n").expect("write a file");
    fs::write(tree.join("fixed"), "fixed\n").expect("write a file");
    std::os::unix::fs::symlink("secret", tree.join("link")).expect("make a link");
    let questions = [
        ("masked folder", "ls /tmp/tree/hidden; touch /tmp/tree/hidden/x"),
        ("masked file", "cat /tmp/tree/secret; echo x > /tmp/tree/secret; wc -c </tmp/tree/secret"),
        ("link to a masked file", "cat /tmp/tree/link"),
        ("masked below a read-only one", "ls /tmp/tree/kept/hidden"),
        (
            "read-only folder",
            "cat /tmp/tree/kept/below/file; echo x > /tmp/tree/kept/below/file; touch /tmp/tree/kept/y",
        ),
        ("read-only file", "cat /tmp/tree/fixed; echo x > /tmp/tree/fixed"),
        ("masked in /proc", "cat /proc/cpuinfo | wc -c; ls /proc/irq"),
        ("read-only in /proc", "echo 1 > /proc/sys/kernel/pid_max"),
        ("what was missing", "ls /tmp/tree | grep missing"),
    ];
    stage.ask("", &questions, |config| {
        config["linux"]["maskedPaths"] = json!([
            "/tmp/tree/hidden",
            "/tmp/tree/secret",
            "/tmp/tree/missing",
            "/tmp/tree/kept/hidden",
            "/proc/cpuinfo",
            "/proc/irq",
        ]);
        config["linux"]["readonlyPaths"] =
            json!(["/tmp/tree/kept", "/tmp/tree/fixed", "/tmp/tree/missing2", "/proc/sys"]);
    });
    fs::remove_dir_all(tree).expect("take the tree away");
}

fn propagation(stage: &mut Stage<'_>) {
    let words = ["shared", "slave", "private", "unbindable"];
    let asked = "awk '$5 == \"/\" {for (i = 7; $i != \"-\"; i++) print $i}' /proc/self/mountinfo | sed 's/:.*//' | sort | tr '\\n' ' '";
    for word in words {
        let ran = stage.run(word, asked, |config| config["linux"]["rootfsPropagation"] = json!(word));
        let told = if ran.code == Some(0) { ran.stdout } else { ran.stderr };
        stage.tell(word, told);
    }
    let ran = stage.run("wrong", "true", |config| config["linux"]["rootfsPropagation"] = json!("wrong"));
    stage.tell_ran("a word that means nothing", ran, "wrong");
}

//! Mounts: their order, kinds, options, and what is below them.

use std::fs;

use integration::compare::spec::mount;
use nix::mount::{MntFlags, MsFlags, umount2};
use serde_json::{Value, json};

use super::{Scenario, stage::Stage};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "mounts", covers: &["mounts"], play: mounts },
    Scenario { name: "mounts below a mount", covers: &["mounts_recursive"], play: below },
    Scenario { name: "mounts that cannot be", covers: &["mounts"], play: impossible },
];

/// The flags of the mount that `$1` is in, but for those about access times, which the file systems below decide.
const FLAGS: &str = "flags() { awk -v at=\"$1\" 'index(at \"/\", $5 \"/\") == 1 || $5 == \"/\" { \
    if (length($5) >= most) { most = length($5); found = $6 } } END { print found }' /proc/self/mountinfo | tr , '\\n' | \
    grep -E '^(ro|rw|nosuid|nodev|noexec|noatime|nodiratime)$' | sort | tr '\\n' ' '; }; ";

fn add(config: &mut Value, mounts: impl IntoIterator<Item = Value>) {
    config["mounts"].as_array_mut().expect("mounts").extend(mounts);
}

fn mounts(stage: &mut Stage<'_>) {
    let dir = stage.path("source");
    fs::create_dir_all(dir.join("sub")).expect("make a folder");
    fs::write(dir.join("file"), "from the host\n").expect("write a file");
    let source = dir.display().to_string();
    let file = dir.join("file").display().to_string();
    let binds: [(&str, &[&str]); 6] = [
        ("/tmp/rw", &["bind"]),
        ("/tmp/ro", &["bind", "ro"]),
        ("/tmp/all", &["rbind", "ro", "nosuid", "nodev", "noexec", "noatime"]),
        ("/tmp/last", &["bind", "ro", "rw", "nosuid", "suid"]),
        ("/tmp/new/deep/folder", &["rbind"]),
        ("/tmp/dot/../dotted", &["rbind"]),
    ];
    let flags = binds.map(|(at, _)| format!("flags {at}; echo {at}")).join("; ");
    let flags = format!("{FLAGS}{flags}");
    let tmpfs = format!(
        "{FLAGS}flags /tmp/fs; stat -c %a /tmp/fs; df -k /tmp/fs | awk 'END {{print $2}}'; flags /tmp/plain; stat -c %a /tmp/plain"
    );
    let questions = [
        ("flags of binds", flags.as_str()),
        ("read", "cat /tmp/rw/file /tmp/ro/file /tmp/a-file /tmp/new/deep/folder/file /tmp/dotted/file"),
        (
            "write",
            "echo x > /tmp/rw/written; echo x > /tmp/ro/written; cat /tmp/ro/written; rm /tmp/rw/written",
        ),
        (
            "run where nothing may",
            "cp /bin/busybox /tmp/rw/sub/; /tmp/all/sub/busybox true; /tmp/rw/sub/busybox echo runs; rm /tmp/rw/sub/busybox",
        ),
        ("a file on a file", "cat /tmp/a-file; echo x > /tmp/a-file"),
        ("tmpfs", &tmpfs),
        ("the later one is on top", "ls /tmp/twice"),
        ("the later one is inside", "ls /tmp/outer; cat /tmp/outer/inner/file"),
        ("behind a link", "cat /tmp/real/file"),
        ("order", "awk '{print $5}' /proc/self/mountinfo | grep ^/tmp/"),
        ("proc of its own", "ls /tmp/proc/1/status; cat /tmp/proc/1/comm"),
        ("message queues", "awk '$5 == \"/dev/mqueue\" {print $9}' /proc/self/mountinfo"),
        (
            "shared memory",
            "stat -c %a /dev/shm; df -k /dev/shm | awk 'END {print $2}'; echo x > /dev/shm/x && cat /dev/shm/x",
        ),
    ];
    let rootfs = stage.cli.path().join("rootfs/tmp");
    fs::create_dir_all(rootfs.join("real")).expect("make a folder");
    std::os::unix::fs::symlink("real", rootfs.join("link")).expect("make a link");
    stage.ask("", &questions, |config| {
        add(config, binds.map(|(at, options)| mount(at, "bind", &source, options)));
        add(
            config,
            [
                mount("/tmp/a-file", "bind", &file, &["bind", "ro"]),
                mount("/tmp/fs", "tmpfs", "tmpfs", &["nosuid", "nodev", "noexec", "mode=1770", "size=64k"]),
                json!({"destination": "/tmp/plain", "type": "tmpfs", "source": "tmpfs"}),
                mount("/tmp/twice", "bind", &source, &["bind"]),
                mount("/tmp/twice", "tmpfs", "tmpfs", &[]),
                mount("/tmp/outer", "tmpfs", "tmpfs", &[]),
                mount("/tmp/outer/inner", "bind", &source, &["bind"]),
                mount("/tmp/link", "bind", &source, &["bind"]),
                mount("/tmp/proc", "proc", "proc", &[]),
                mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
                mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=1024k"]),
            ],
        );
    });
}

/// A mount on the host, for the time of a scenario.
struct Below(std::path::PathBuf);

impl Below {
    fn new(at: std::path::PathBuf) -> Self {
        let none = None::<&str>;
        nix::mount::mount(Some("below"), &at, Some("tmpfs"), MsFlags::empty(), none).expect("mount a tmpfs");
        fs::write(at.join("file"), "below\n").expect("write a file");
        Self(at)
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).expect("unmount");
    }
}

fn below(stage: &mut Stage<'_>) {
    let dir = stage.path("source");
    fs::create_dir_all(dir.join("sub")).expect("make a folder");
    let _below = Below::new(dir.join("sub"));
    let source = dir.display().to_string();
    let cases: [(&str, &[&str]); 8] = [
        ("bind", &["bind"]),
        ("rbind", &["rbind"]),
        ("ro", &["rbind", "ro"]),
        ("rro", &["rbind", "rro"]),
        ("rnosuid", &["rbind", "rnosuid"]),
        ("rnodev", &["rbind", "rnodev"]),
        ("rnoexec", &["rbind", "rnoexec"]),
        ("rnoatime", &["rbind", "rnoatime"]),
    ];
    let commands = cases.map(|(name, _)| {
        format!("{FLAGS}flags /tmp/{name}; echo; flags /tmp/{name}/sub; echo; cat /tmp/{name}/sub/file; echo x > /tmp/{name}/sub/new && rm /tmp/{name}/sub/new")
    });
    let questions: Vec<_> =
        cases.iter().zip(&commands).map(|((name, _), command)| (*name, command.as_str())).collect();
    stage.ask("", &questions, |config| {
        add(config, cases.map(|(name, options)| mount(&format!("/tmp/{name}"), "bind", &source, options)));
    });
}

fn impossible(stage: &mut Stage<'_>) {
    let nowhere = stage.path("nowhere").display().to_string();
    let cases = [
        ("a source that is missing", mount("/tmp/x", "bind", &nowhere, &["bind"]), "nowhere"),
        ("a kind that is unknown", mount("/tmp/x", "nosuchfs", "x", &[]), "/tmp/x"),
        ("an option that is unknown", mount("/tmp/x", "tmpfs", "x", &["nosuchoption"]), "/tmp/x"),
        ("a folder on a file", mount("/etc/passwd", "tmpfs", "x", &[]), "passwd"),
        ("without a destination", json!({"type": "tmpfs", "source": "x"}), ""),
    ];
    for (fact, wrong, naming) in cases {
        let ran = stage.run(&fact.replace(' ', "-"), "true", |config| add(config, [wrong]));
        stage.tell_ran(fact, ran, naming);
    }
    // Which runc warns of, and takes for one from the root.
    let source = stage.path("here");
    fs::create_dir_all(source.join("there")).expect("make a folder");
    stage.ask("-relative", &[("a destination from somewhere", "ls /tmp/x")], |config| {
        add(config, [mount("tmp/x", "bind", &source.display().to_string(), &["bind"])]);
    });
}

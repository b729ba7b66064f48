//! What a container is given: files, limits, rights, settings.

use integration::{docker::IMAGE, podman::Podman};

use crate::REST;

/// What is copied goes into the container, not to the host.
pub fn files(podman: &Podman) {
    let shared = podman.path().join("shared");
    std::fs::create_dir(&shared).expect("make a folder");
    std::fs::write(shared.join("file"), "of the host").expect("write a file");
    let options =
        format!("--network none --read-only --tmpfs /scratch:size=1m -v {}:/data", shared.display());
    let id = podman.start_container("fixed", &options, REST);
    assert_eq!(
        podman.inside("fixed", "touch /x 2>/dev/null || touch /data/x /tmp/x /scratch/x && echo fixed"),
        "fixed"
    );
    let refused = podman.podman(&["exec", "fixed", "touch", "/x"]);
    assert!(refused.stderr.contains("Read-only file system"), "{}", refused.stderr);
    podman.ok(&["rm", "--force", "--time", "0", "fixed"]);
    podman.assert_gone(&id);

    let options = format!("--network none -v {}:/data", shared.display());
    let id = podman.start_container("files", &options, REST);
    assert_eq!(podman.inside("files", "cat /data/file; echo back >/data/new"), "of the host");
    assert_eq!(std::fs::read_to_string(shared.join("new")).expect("read a file"), "back\n");

    let name = format!("/tmp/copied-{id}");
    let from = shared.join("file").display().to_string();
    podman.ok(&["cp", &from, &format!("files:{name}")]);
    let is_on_the_host = podman.outside(&format!("ls {name}")).code == 0;
    assert!(!is_on_the_host, "{name}");
    assert_eq!(podman.inside("files", &format!("cat {name}; echo made >/made")), "of the host");
    let to = shared.join("made");
    podman.ok(&["cp", "files:/made", &to.display().to_string()]);
    assert_eq!(std::fs::read_to_string(to).expect("read a file"), "made\n");
    podman.ok(&["rm", "--force", "--time", "0", "files"]);
    podman.assert_gone(&id);
}

pub fn limits_and_rights(podman: &Podman) {
    let options =
        "--network none --memory 256m --cpus 1 --pids-limit 50 --cap-drop all --cap-add NET_BIND_SERVICE";
    let id = podman.start_container("limits", options, REST);
    let seen = podman.ok(&[
        "exec",
        "--user",
        "1000:7",
        "limits",
        "sh",
        "-c",
        "id -u; id -g; grep CapBnd /proc/1/status",
    ]);
    assert_eq!(seen, "1000\n7\nCapBnd:\t0000000000000400");
    let limits = "cd /sys/fs/cgroup && cat memory.max cpu.max pids.max";
    assert_eq!(podman.inside("limits", limits), "268435456\n100000 100000\n50");
    podman.ok(&["update", "--memory", "300m", "limits"]);
    assert_eq!(podman.inside("limits", "cat /sys/fs/cgroup/memory.max"), "314572800");
    podman.ok(&["rm", "--force", "--time", "0", "limits"]);
    podman.assert_gone(&id);
}

/// A volume's files are the same in the container, by `podman cp` and on the host; what the guest alone has is not written under.
pub fn volumes(podman: &Podman) {
    let shared = podman.path().join("volume");
    std::fs::create_dir(&shared).expect("make a folder");
    let file = shared.join("file").display().to_string();
    std::fs::write(&file, "of the host").expect("write a file");
    podman.ok(&["volume", "create", "kept"]);
    let wrote = podman.run("--network none -v kept:/v", "echo kept >/v/name");
    assert_eq!(wrote.code, 0, "{}", wrote.stderr);
    let options = format!(
        "--network none -v kept:/v -v {}:/fixed/below:ro -v {file}:/one --tmpfs /t",
        shared.display()
    );
    let id = podman.start_container("holder", &options, REST);
    assert_eq!(podman.inside("holder", "cat /v/name"), "kept");
    let copy = |from: &str, to: &str| podman.podman(&["cp", from, to]);
    let out = shared.join("out").display().to_string();
    for (from, to) in [(&*file, "holder:/v/copied"), ("holder:/v/name", &*out), ("holder:/one", &*out)] {
        let copied = copy(from, to);
        assert_eq!(copied.code, 0, "{from} {to}: {}", copied.stderr);
    }
    assert_eq!(podman.inside("holder", "cat /v/copied"), "of the host");
    assert_eq!(std::fs::read_to_string(&out).expect("read a file"), "of the host");
    for to in ["holder:/fixed/below/x", "holder:/t/x"] {
        let refused = copy(&file, to);
        assert!(
            refused.code != 0 && refused.stderr.contains("read-only file system"),
            "{to}: {}",
            refused.stderr
        );
    }
    podman.ok(&["restart", "--time", "0", "holder"]);
    assert_eq!(copy("holder:/v/copied", &out).code, 0);
    podman.ok(&["rm", "--force", "--time", "0", "holder"]);
    podman.assert_gone(&id);
    podman.ok(&["volume", "rm", "kept"]);

    // Over the host's files, which stay as they are; and an image's.
    let options = format!(
        "--network none -v {}:/over:O --mount type=image,source={IMAGE},destination=/image",
        shared.display()
    );
    let ran = podman.run(&options, "echo new >/over/file && cat /over/file && ls /image/bin/sh");
    assert_eq!(ran.text(), "new\n/image/bin/sh\n", "{}", ran.stderr);
    assert_eq!(std::fs::read_to_string(&file).expect("read a file"), "of the host");
}

pub fn settings(podman: &Podman) {
    let dir = podman.path().join("settings");
    std::fs::create_dir(&dir).expect("make a folder");
    let file = |name: &str, text: &str| {
        let path = dir.join(name).display().to_string();
        std::fs::write(&path, text).expect("write a file");
        path
    };
    podman.ok(&["secret", "create", "hidden", &file("secret", "word")]);
    let (environment, filter) =
        (file("environment", "A=b c\n"), file("filter", r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#));
    let options = format!(
        "--network none --env-file {environment} --secret hidden --secret hidden,type=env,target=HIDDEN --user 1000:7 \
         --ulimit nofile=77:99 --sysctl kernel.msgmax=9000 --shm-size 8m --security-opt seccomp={filter} \
         --security-opt no-new-privileges --device /dev/null:/dev/other --cgroups no-conmon"
    );
    let script = "echo $A; cat /run/secrets/hidden; echo; echo $HIDDEN; id -u; id -g; ulimit -n; cat /proc/sys/kernel/msgmax; \
                  df -m /dev/shm | tail -n 1 | awk '{print $2}'; grep NoNewPrivs /proc/self/status; \
                  [ -c /dev/other ] && echo a device";
    let ran = podman.run(&options, script);
    assert_eq!(
        ran.text(),
        "b c\nword\nword\n1000\n7\n77\n9000\n8\nNoNewPrivs:\t1\na device\n",
        "{}",
        ran.stderr
    );
    podman.ok(&["secret", "rm", "hidden"]);
}

/// As far as the configuration lets those who run containers choose.
pub fn choices(podman: &Podman) {
    let denial = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    let filter = podman.path().join("denial");
    std::fs::write(&filter, denial).expect("write a file");
    let seccomp = format!("seccomp={}", filter.display());
    let annotation = "io.katacontainers.config.hypervisor.default_vcpus=2";
    let run =
        ["run", "--rm", "--network", "none", "--annotation", annotation, "--security-opt", &seccomp, IMAGE];
    let script = ["sh", "-c", "nproc; mkdir /made 2>&1"];
    let refused = podman.podman(&[&run[..], &script].concat());
    assert!(refused.code != 0 && refused.stderr.contains("enable_annotations"), "{}", refused.stderr);
    let generous = podman.runtime_with(
        "generous",
        &[
            ("enable_annotations", "enable_annotations = [\"default_vcpus\"]".into()),
            ("disable_guest_seccomp", "disable_guest_seccomp = false".into()),
        ],
    );
    let ran = podman.podman(&[&["--runtime", &generous][..], &run, &script].concat());
    assert_eq!(
        ran.text(),
        "2\nmkdir: can't create directory '/made': Operation not permitted\n",
        "{}",
        ran.stderr
    );
}

/// All of the guest's, and none of the host's.
pub fn privileged(podman: &Podman) {
    let ran = podman.run(
        "--network none --privileged",
        "grep CapEff /proc/1/status; ls /dev/kmsg; mount -t tmpfs x /tmp && echo mounted",
    );
    assert_eq!(ran.text(), "CapEff:\t000001fffeffffff\n/dev/kmsg\nmounted\n", "{}", ran.stderr);
}

pub fn numbers_of_users(podman: &Podman) {
    let ran = podman
        .run("--network none --uidmap 0:100000:65536", "cat /proc/self/uid_map; touch /mine && ls -n /mine");
    assert!(
        ran.text().contains("100000      65536\n-rw-r--r--    1 0        0 "),
        "{}{}",
        ran.text(),
        ran.stderr
    );
    // Podman itself has none to give out.
    let refused = podman.run("--userns auto", "true");
    assert!(refused.stderr.contains("IDs"), "{}", refused.stderr);
}

/// It has a group of its own to write in, and places of its own in memory.
pub fn systemd(podman: &Podman) {
    let ran = podman.run(
        "--network none --systemd always",
        "mkdir /sys/fs/cgroup/made && mount | grep -c '^tmpfs on /\\(run\\|run/lock\\|tmp\\|var/log/journal\\) '",
    );
    assert_eq!(ran.text(), "4\n", "{}", ran.stderr);
}

/// The host's namespaces are the guest's, or refused.
pub fn what_is_the_hosts(podman: &Podman) {
    let ran = podman.run(
        "--network host --pid host --ipc host --uts host",
        "ps | grep -c '[c]onmon'; ip -o addr | grep -vc ': lo '",
    );
    assert_eq!(ran.text(), "0\n0\n", "{}", ran.stderr);
    let refused = podman.podman(&["run", "--rm", "--cgroups", "disabled", IMAGE, "true"]);
    assert!(refused.stderr.contains("not compatible with NoCgroups"), "{}", refused.stderr);
}

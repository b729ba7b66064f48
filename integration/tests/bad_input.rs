//! What is wrong is said clearly through `ctr`, and leaves nothing behind.

use std::{
    fs,
    path::{Path, PathBuf},
};

use integration::{
    containerd::{Containerd, Runtime},
    environment::Environment,
};

/// A program that answers as `script` says.
fn program(dir: &Path, name: &str, script: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write the program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it a program");
    path
}

#[test]
fn a_faulty_configuration_is_named_and_nothing_is_left() {
    let Some(env) = Environment::find() else { return };
    let containerd = Containerd::start(&env, None);
    let dir = containerd.dir().to_path_buf();
    let line = |key: &str, value: &str| (key.to_owned(), format!("{key} = {value}"));
    let dying = program(&dir, "dying-qemu", "echo 'it hurts here' >&2; exit 3");
    let dying_daemon = program(
        &dir,
        "virtiofsd",
        "case $* in *--help*) echo --shared-dir;; *) echo no luck >&2; exit 4;; esac",
    );
    for (name, (key, changed_line), words) in [
        (
            "no-kernel",
            line("kernel", "\"/nonexistent/vmlinux\""),
            &["hypervisor.qemu.kernel", "/nonexistent/vmlinux"][..],
        ),
        ("no-qemu", line("path", "\"/nonexistent/qemu\""), &["hypervisor.qemu.path", "/nonexistent/qemu"]),
        ("qemu-dies", line("path", &format!("\"{}\"", dying.display())), &["qemu", "it hurts here"]),
        (
            "daemon-dies",
            line("virtio_fs_daemon", &format!("\"{}\"", dying_daemon.display())),
            &["virtiofsd", "no luck"],
        ),
        ("wrong-type", line("default_memory", "\"lots\""), &[".toml:", "default_memory", "invalid type"]),
        ("impossible", line("default_memory", "1"), &["hypervisor.qemu.default_memory", "too little"]),
        ("syntax", line("default_vcpus", "[1"), &[".toml:"]),
        ("no-memory", line("default_memory", "1000000000"), &["emory"]),
    ] {
        let config = env.configuration_with(&dir, name, &[(key.as_str(), changed_line)]);
        let finished = containerd.run(&Runtime::Kata(config), &[], name, &["true"], b"");
        assert_ne!(finished.code, 0, "{name}");
        for word in words {
            assert!(
                finished.stderr.contains(word),
                "{name}: {word:?} is not in: {}\n{}",
                finished.stderr,
                containerd.log()
            );
        }
        containerd.assert_gone(name);
        // The name is free again at once.
        assert_eq!(containerd.ctr(["container", "ls", "-q"]).text(), "", "{name}");
    }
}

#[test]
fn an_unknown_key_is_reported_and_the_container_runs() {
    let Some(env) = Environment::find() else { return };
    let containerd = Containerd::start(&env, None);
    let typo = ("default_vcpus", "default_vcpus = 1\ndefault_vcpu = 2".to_owned());
    let config = env.configuration_with(containerd.dir(), "typo", &[typo]);
    let finished = containerd.run(&Runtime::Kata(config), &[], "typo", &["echo", "runs"], b"");
    assert_eq!((finished.code, finished.text().as_str()), (0, "runs\n"), "{}", finished.stderr);
    let log = containerd.log_of_all();
    assert!(log.contains("unknown key hypervisor.qemu.default_vcpu"), "{log}");
    containerd.assert_gone("typo");
}

#[test]
fn a_guest_that_never_answers_is_given_up_in_bounded_time() {
    let Some(env) = Environment::find() else { return };
    let containerd = Containerd::start(&env, None);
    let changes = [
        // A kernel that is told to run something else than the agent.
        ("kernel_params", "kernel_params = \"rdinit=/no/such/init init=/no/such/init panic=0\"".to_owned()),
        ("dial_timeout", "dial_timeout = 8".to_owned()),
    ];
    let config = env.configuration_with(containerd.dir(), "silent", &changes);
    let began = std::time::Instant::now();
    let finished = containerd.run(&Runtime::Kata(config), &[], "silent", &["true"], b"");
    assert_ne!(finished.code, 0);
    assert!(began.elapsed().as_secs() < 40, "took {:?}", began.elapsed());
    assert!(finished.stderr.contains("agent"), "{}", finished.stderr);
    containerd.assert_gone("silent");
}

#[test]
fn an_unknown_command_is_named() {
    let Some(env) = Environment::find() else { return };
    let containerd = Containerd::start(&env, None);
    for runtime in [Runtime::Runc, Runtime::Kata(env.configuration())] {
        let finished = containerd.run(&runtime, &[], "nocmd", &["/no/such/command"], b"");
        assert_ne!(finished.code, 0, "{runtime:?}");
        assert!(finished.stderr.contains("/no/such/command"), "{runtime:?}: {}", finished.stderr);
        containerd.assert_gone("nocmd");
    }
}

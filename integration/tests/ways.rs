//! The other ways to share files and to reach the agent do what the usual ones do.

use integration::{
    containerd::{Containerd, Runtime, finish},
    environment::Environment,
};

/// Runs the same small life with a configuration that differs in one line.
fn lives_with(name: &str, changes: &[(&str, String)]) {
    let Some(env) = Environment::find() else { return };
    let containerd = Containerd::start(&env, None);
    let kata = Runtime::Kata(env.configuration_with(containerd.dir(), name, changes));
    let id = format!("way-{name}");

    let script = "head -c 1000000 | md5sum; echo x > /written; cat /written; echo errors >&2; exit 9";
    let input = vec![b'z'; 1_000_000];
    let finished = containerd.run(&kata, &[], &id, &["sh", "-c", script], &input);
    let expected = finish(std::process::Command::new("md5sum"), &input).text();
    assert_eq!((finished.code, finished.text()), (9, format!("{expected}x\n")), "{}", finished.stderr);
    assert!(finished.stderr.contains("errors"), "{}", finished.stderr);
    containerd.assert_gone(&id);

    // Much output, for blocks larger than what any transport takes at once.
    let script = "i=0; while [ $i -lt 20 ]; do head -c 1048576 /dev/zero | tr '\\0' y; i=$((i+1)); done";
    let finished = containerd.run(&kata, &[], &id, &["sh", "-c", script], b"");
    assert_eq!(finished.stdout.len(), 20 << 20, "{}", finished.stderr);
    assert!(finished.stdout.iter().all(|byte| *byte == b'y'));

    let volume = containerd.dir().join("volume");
    std::fs::create_dir(&volume).expect("make the volume");
    std::fs::write(volume.join("file"), "from the host").expect("write");
    let mount = format!("type=bind,src={},dst=/v,options=rbind:rw", volume.display());
    let script = "cat /v/file; echo back > /v/new; ls /v | wc -l";
    let finished = containerd.run(&kata, &["--mount", &mount], &id, &["sh", "-c", script], b"");
    assert_eq!(finished.text(), "from the host2\n", "{}", finished.stderr);
    assert_eq!(std::fs::read_to_string(volume.join("new")).expect("written by the guest"), "back\n");
    containerd.assert_gone(&id);
}

#[test]
fn files_over_9p() {
    lives_with("9p", &[("shared_fs", "shared_fs = \"virtio-9p\"".into())]);
}

#[test]
fn the_agent_over_vhost_user_vsock() {
    lives_with("vsock", &[("agent_channel", "agent_channel = \"vhost-user-vsock\"".into())]);
}

#[test]
fn the_agent_over_vhost_user_vsock_with_files_over_9p() {
    let channel = ("agent_channel", "agent_channel = \"vhost-user-vsock\"".into());
    lives_with("vsock-9p", &[channel, ("shared_fs", "shared_fs = \"virtio-9p\"".into())]);
}

#[test]
fn cpus_and_memory_are_what_was_asked_for() {
    let Some(env) = Environment::find() else { return };
    let containerd = Containerd::start(&env, None);
    let kata = Runtime::Kata(env.configuration());
    let options = ["--cpus", "0.5", "--memory-limit", "134217728"];
    let script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max; nproc; awk '/MemTotal/ {print $2}' /proc/meminfo";
    let mount = "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro";
    let options: Vec<_> = options.into_iter().chain(["--mount", mount]).collect();
    let finished = containerd.run(&kata, &options, "sizes", &["sh", "-c", script], b"");
    let text = finished.text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..2], ["134217728", "50000 100000"], "{text} {}", finished.stderr);
    let memory: u64 = lines[3].parse().expect("a number");
    // 2048 MiB of the configuration and 128 of the container, less what the guest's kernel keeps for itself.
    assert!((2_000_000..2_230_000).contains(&memory), "{memory} kB");
    containerd.assert_gone("sizes");
}

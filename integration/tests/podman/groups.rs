//! Containers' groups on the host, in which Podman reads what they use, and what they were killed for.

use integration::{containerd::processes, docker::IMAGE, podman::Podman};

use crate::REST;

/// The VM is in the group of its first container, whether or not the configuration wants that of the shim.
pub fn group_of_the_vm(podman: &Podman) {
    let change = ("sandbox_cgroup_only", "sandbox_cgroup_only = true".to_owned());
    let runtimes = [vec![], vec!["--runtime".into(), podman.runtime_with("grouping", &[change])]];
    for runtime in runtimes {
        let mut run: Vec<&str> = runtime.iter().map(String::as_str).collect();
        run.extend(["run", "-d", "--name", "grouped", "--network", "none", "--memory", "64m", IMAGE]);
        let id = podman.ok(&[&run[..], &["sleep", "1000"]].concat());
        let group = format!("cat $(find /sys/fs/cgroup -path '*/libpod-{id}/cgroup.procs')");
        let members = podman.outside(&group).text();
        let is_vm = |line: &str| line.contains("qemu-system") && line.contains(&id);
        let (vm, _) = processes().into_iter().find(|(_, line)| is_vm(line)).expect("the VM");
        assert!(members.lines().any(|member| member == vm.to_string()), "{vm} {members}");
        let format = "{{.PIDs}} {{.MemUsageBytes}}";
        let stats = podman.ok(&["stats", "--no-stream", "--format", format, "grouped"]);
        let processes: u32 = stats.split(' ').next().and_then(|word| word.parse().ok()).expect("a number");
        assert!((5..100).contains(&processes) && stats.contains("MiB / "), "{stats}");
        podman.ok(&["rm", "--force", "--time", "0", "grouped"]);
        podman.assert_gone(&id);
        assert_eq!(podman.outside(&format!("find /sys/fs/cgroup -name 'libpod-{id}'")).text(), "");
    }
}

/// What the guest's kernel has killed Podman knows for that, alone or beside others. Not so 4.3, whose conmon is not told where
/// to say it.
pub fn killed_for_want_of_memory(podman: &Podman) {
    podman.ok(&["pod", "create", "--name", "pod"]);
    let lives = podman.start_container("lives", "--pod pod", REST);
    for options in ["--network none", "--pod pod"] {
        let id = podman.start_container("greedy", &format!("{options} --memory 64m"), "exec tail /dev/zero");
        assert_eq!(podman.ok(&["wait", "greedy"]), "137", "{options}");
        let told = || podman.ok(&["inspect", "--format", "{{.State.OOMKilled}}", "greedy"]);
        podman.wait_for("its reason", || told() == "true");
        podman.ok(&["rm", "greedy"]);
        podman.assert_gone(&id);
    }
    assert_eq!(podman.inside("lives", "echo lives"), "lives");
    podman.ok(&["pod", "rm", "--force", "--time", "0", "pod"]);
    podman.assert_gone(&lives);
}

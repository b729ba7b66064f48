//! What a pod's containers may use and do use, by CRI: the VM's size, limits that change, figures; and containers that
//! fail.

use std::{collections::HashMap, fs, thread, time::Instant};

use integration::{
    cgroups::Parent,
    containerd::processes,
    kubelet::{KATA, KATA_SANDBOX, Kubelet},
};
use k8s_cri::v1::{
    ContainerConfig, ContainerState, ContainerStats, ContainerStatsFilter, ContainerStatsRequest,
    ContainerStatsResponse, LinuxContainerResources, ListContainerStatsRequest, ListContainerStatsResponse,
    ListPodSandboxStatsRequest, ListPodSandboxStatsResponse, PodSandboxState, PodSandboxStatsFilter,
    PodSandboxStatsRequest, PodSandboxStatsResponse, UpdateContainerResourcesRequest,
    UpdateContainerResourcesResponse,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const MIB: i64 = 1 << 20;

/// A limit for CPUs, in hundredths, and memory, in MiB; 0 is none.
fn limits(cpus: i64, memory: i64) -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_period: if cpus > 0 { 100_000 } else { 0 },
        cpu_quota: cpus * 1000,
        memory_limit_in_bytes: memory * MIB,
        ..Default::default()
    }
}

fn limited(mut config: ContainerConfig, cpus: i64, memory: i64) -> ContainerConfig {
    config.linux.as_mut().unwrap().resources = Some(limits(cpus, memory));
    config
}

fn update(kubelet: &Kubelet, id: &str, cpus: i64, memory: i64) {
    let question = UpdateContainerResourcesRequest {
        container_id: id.into(),
        linux: Some(limits(cpus, memory)),
        annotations: HashMap::new(),
        windows: None,
    };
    kubelet
        .runtime::<_, UpdateContainerResourcesResponse>("UpdateContainerResources", question)
        .expect("updated");
}

/// The guest's CPUs, and its memory in MiB.
fn size(kubelet: &Kubelet, id: &str) -> (u32, i64) {
    let said = kubelet.inside(id, "nproc; awk '/MemTotal/ {print $2}' /proc/meminfo");
    let numbers: Vec<i64> = said.lines().map(|line| line.parse().expect("a number")).collect();
    (numbers[0] as u32, numbers[1] / 1024)
}

/// What the guest's kernel keeps of memory that is plugged in, at most, in MiB, beside a fiftieth.
const KEPT: i64 = 16;

fn assert_grown(from: i64, to: i64, by: i64) {
    let kept = if by == 0 { 0 } else { KEPT + by / 50 };
    assert!((by - kept..=by).contains(&(to - from)), "{from} MiB became {to} MiB, not by {by}");
}

fn usage(stats: &ContainerStats) -> (u64, u64) {
    let cpu = stats.cpu.as_ref().and_then(|cpu| cpu.usage_core_nano_seconds.as_ref());
    let memory = stats.memory.as_ref().and_then(|memory| memory.working_set_bytes.as_ref());
    (cpu.map_or(0, |value| value.value), memory.map_or(0, |value| value.value))
}

#[test]
fn a_pods_vm_grows_with_its_containers_and_their_limits_change() {
    let changes = [("memory_slots", "memory_slots = 6".to_owned())];
    let Some(kubelet) = Kubelet::start_with("", &changes) else { return };
    let pod_config = kubelet.pod("grows");
    let pod = kubelet.run_pod(KATA, &pod_config).unwrap();
    let first = kubelet.run(&pod, &kubelet.script("first", "exec sleep 1000"), &pod_config).unwrap();
    let (cpus, memory) = size(&kubelet, &first);
    assert_eq!(cpus, 1);

    let config = limited(kubelet.script("second", "exec sleep 1000"), 50, 256);
    let second = kubelet.run(&pod, &config, &pod_config).unwrap();
    let (cpus, grown) = size(&kubelet, &first);
    assert_eq!(cpus, 2);
    assert_grown(memory, grown, 256);
    let own = |file: &str| kubelet.inside(&second, &format!("cat /sys/fs/cgroup/{file}")).trim().to_owned();
    assert_eq!((own("cpu.max"), own("memory.max")), ("50000 100000".into(), (256 * MIB).to_string()));

    // More, and less: what the VM has got it keeps.
    update(&kubelet, &second, 150, 512);
    let (cpus, larger) = size(&kubelet, &first);
    assert_eq!(cpus, 2, "the host has no more for it");
    assert_grown(grown, larger, 256);
    assert_eq!((own("cpu.max"), own("memory.max")), ("150000 100000".into(), (512 * MIB).to_string()));
    update(&kubelet, &second, 20, 128);
    assert_eq!(size(&kubelet, &first), (2, larger));
    assert_eq!((own("cpu.max"), own("memory.max")), ("20000 100000".into(), (128 * MIB).to_string()));

    // There is room already; and what has ended needs none.
    for name in ["third", "fourth"] {
        let config = limited(kubelet.script(name, "true"), 20, 384);
        let container = kubelet.run(&pod, &config, &pod_config).unwrap();
        kubelet.ended(&container);
        assert_eq!(size(&kubelet, &first), (2, larger), "{name}");
    }

    // Each time takes a slot, of which four are left: the last three take as much again as was plugged before.
    for (limit, by) in [(640, 128), (768, 640), (1280, 0), (1408, 1280), (2560, 0), (2688, 2560), (5120, 0)] {
        let (_, before) = size(&kubelet, &first);
        update(&kubelet, &second, 50, limit);
        assert_eq!(own("memory.max"), (limit * MIB).to_string());
        assert_grown(before, size(&kubelet, &first).1, by);
    }
    // When there is none left, a limit is no more than that.
    let (_, largest) = size(&kubelet, &first);
    update(&kubelet, &second, 50, 6000);
    assert_eq!((size(&kubelet, &first).1, own("memory.max")), (largest, (6000 * MIB).to_string()));
    assert!(kubelet.containerd.log_of_all().contains("no slot is left"));

    // Figures.
    let stats = |id: &str| {
        let question = ContainerStatsRequest { container_id: id.into() };
        let answer: ContainerStatsResponse = kubelet.runtime("ContainerStats", question).expect("figures");
        answer.stats.expect("figures")
    };
    let usages = || (usage(&stats(&first)), usage(&stats(&second)));
    let before = usages();
    kubelet.inside(
        &second,
        "head -c 20000000 /dev/zero >/dev/shm/x; i=0; while [ $i -lt 4000 ]; do i=$((i+1)); done",
    );
    let (quiet, busy) = usages();
    let (little, much) = (quiet.0 - before.0.0, busy.0 - before.1.0);
    assert!(before.0.0 > 0 && much > little, "{before:?} {quiet:?} {busy:?}");
    assert!((20_000_000..60_000_000).contains(&busy.1) && quiet.1 < 20_000_000, "{quiet:?} {busy:?}");
    let filter = ContainerStatsFilter { pod_sandbox_id: pod.clone(), ..Default::default() };
    let question = ListContainerStatsRequest { filter: Some(filter) };
    let listed: ListContainerStatsResponse = kubelet.runtime("ListContainerStats", question).unwrap();
    let found = |id: &str| {
        let with_id = |stats: &&ContainerStats| stats.attributes.as_ref().is_some_and(|about| about.id == id);
        usage(listed.stats.iter().find(with_id).expect("it is listed"))
    };
    assert!(found(&first).1 > 0 && found(&second).1 > 20_000_000);
    kubelet.remove_pod(&pod).unwrap();
    kubelet.containerd.assert_gone(&pod);
}

/// A pod of which the engine has told what its containers will ask for, as the kubelet does.
fn grows_at_once(changes: &[(&str, String)]) {
    let Some(kubelet) = Kubelet::start_with("", changes) else { return };
    let mut pod_config = kubelet.pod("told");
    pod_config.linux.as_mut().unwrap().resources = Some(limits(40, 12 * 40 + 100));
    let pod = kubelet.run_pod(KATA, &pod_config).unwrap();
    let first = kubelet.run(&pod, &kubelet.script("free", "exec sleep 1000"), &pod_config).unwrap();
    let (cpus, begun) = size(&kubelet, &first);
    assert_eq!(cpus, 1);
    let mut containers = Vec::new();
    // More than there are slots. All is there with the first that asks for something; the rest find it.
    for number in 0..12 {
        let config = limited(kubelet.script(&format!("c{number}"), "exec sleep 1000"), 3, 40);
        containers.push(kubelet.run(&pod, &config, &pod_config).unwrap());
        let (cpus, grown) = size(&kubelet, &first);
        assert_eq!(cpus, 2);
        assert_grown(begun, grown, 640);
    }
    // Beyond what was told it grows as it is asked to.
    update(&kubelet, &containers[0], 3, 40 + 250);
    assert_grown(begun, size(&kubelet, &first).1, 640 + 128);
    assert!(!kubelet.containerd.log_of_all().contains("the VM keeps its size"));
    kubelet.remove_pod(&pod).unwrap();
    kubelet.containerd.assert_gone(&pod);
}

#[test]
fn a_pods_vm_grows_at_once_to_what_its_engine_has_told() {
    grows_at_once(&[]);
}

#[test]
fn a_pods_vm_that_was_booted_grows_as_well() {
    grows_at_once(&[("enable_template", "enable_template = false".to_owned())]);
}

#[test]
fn a_pods_vm_keeps_its_size_if_the_configuration_says_so() {
    let changes = [("static_sandbox_resource_mgmt", "static_sandbox_resource_mgmt = true".to_owned())];
    let Some(kubelet) = Kubelet::start_with("", &changes) else { return };
    let mut memory = Vec::new();
    for total in [LinuxContainerResources::default(), limits(100, 384)] {
        let mut pod_config = kubelet.pod("keeps");
        pod_config.linux.as_mut().unwrap().resources = Some(total);
        let pod = kubelet.run_pod(KATA, &pod_config).unwrap();
        let first = kubelet.run(&pod, &kubelet.script("first", "exec sleep 1000"), &pod_config).unwrap();
        let begun = size(&kubelet, &first);
        let config = limited(kubelet.script("second", "exec sleep 1000"), 100, 384);
        let second = kubelet.run(&pod, &config, &pod_config).unwrap();
        update(&kubelet, &second, 100, 1024);
        assert_eq!(size(&kubelet, &second), begun);
        assert_eq!(begun.0, memory.len() as u32 + 1);
        memory.push(begun.1);
        kubelet.remove_pod(&pod).unwrap();
        kubelet.containerd.assert_gone(&pod);
    }
    assert_grown(memory[0], memory[1], 384);
}

#[test]
fn containers_fail_one_after_the_other_and_the_pod_lives() {
    let Some(kubelet) = Kubelet::start("") else { return };
    let pod_config = kubelet.pod("fails");
    let pod = kubelet.run_pod(KATA, &pod_config).unwrap();

    // Those that prepare, one after the other.
    for (name, script) in [("init-1", "hostname >/dev/null"), ("init-2", "true")] {
        let container = kubelet.run(&pod, &kubelet.script(name, script), &pod_config).unwrap();
        let status = kubelet.ended(&container);
        assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"), "{name}");
        assert!(status.started_at > 0 && status.finished_at >= status.started_at, "{status:?}");
    }
    let main = kubelet.run(&pod, &kubelet.script("main", "exec sleep 1000"), &pod_config).unwrap();

    // Too little memory: for its first process, and for one beside it.
    let config = limited(kubelet.script("greedy", "exec tail /dev/zero"), 0, 32);
    let greedy = kubelet.run(&pod, &config, &pod_config).unwrap();
    let status = kubelet.ended(&greedy);
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    let config = limited(kubelet.script("beside", "tail /dev/zero; exit 3"), 0, 32);
    let beside = kubelet.run(&pod, &config, &pod_config).unwrap();
    let status = kubelet.ended(&beside);
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "OOMKilled"));
    assert_eq!(kubelet.inside(&main, "echo there"), "there\n");

    // One that fails again and again; the kubelet keeps its last.
    let mut last: Option<String> = None;
    for attempt in 0..10 {
        let mut config = kubelet.script("loop", &format!("echo attempt {attempt}; exit {}", 20 + attempt));
        config.metadata.as_mut().unwrap().attempt = attempt;
        config.log_path = format!("loop.{attempt}.log");
        let container = kubelet.run(&pod, &config, &pod_config).unwrap();
        let status = kubelet.ended(&container);
        assert_eq!((status.exit_code, status.reason.as_str()), (20 + attempt as i32, "Error"));
        assert_eq!(status.metadata.unwrap().attempt, attempt);
        assert_eq!(kubelet.log(&config), format!("attempt {attempt}\n"));
        if let Some(before) = last.replace(container) {
            kubelet.remove_container(&before).unwrap();
        }
    }
    assert_eq!(kubelet.pod_status(&pod).unwrap().state, PodSandboxState::SandboxReady as i32);
    assert_eq!(kubelet.inside(&main, "echo there"), "there\n");
    kubelet.remove_pod(&pod).unwrap();
    kubelet.containerd.assert_gone(&pod);
}

fn is_grouped_by(release: &str, handler: &str) {
    let changes = [("sandbox_cgroup_only", "sandbox_cgroup_only = true".to_owned())];
    let Some(kubelet) = Kubelet::start_with(release, &changes) else { return };
    let parent = Parent::make();
    let mut pod_config = kubelet.pod("grouped");
    pod_config.linux.as_mut().unwrap().cgroup_parent = format!("/{}", parent.name);
    for killed in [false, true] {
        let pod = kubelet.run_pod(handler, &pod_config).unwrap();
        let container = kubelet.run(&pod, &kubelet.script("main", "exec sleep 1000"), &pod_config).unwrap();
        let mut ours = vec![kubelet.shim_of(&pod), kubelet.vm_of(&pod)];
        let daemons = processes()
            .into_iter()
            .filter(|(_, line)| line.contains("virtiofsd") && line.contains(&format!("sandboxes/{pod}/")));
        ours.extend(daemons.map(|(pid, _)| pid as i32));
        ours.sort_unstable();
        let members = parent.members(&pod);
        assert!(ours.len() >= 3, "{ours:?}");
        assert!(ours.iter().all(|pid| members.contains(pid)), "{ours:?} in {members:?}");

        let question = PodSandboxStatsRequest { pod_sandbox_id: pod.clone() };
        let answer: PodSandboxStatsResponse = kubelet.runtime("PodSandboxStats", question).unwrap();
        let linux = answer.stats.and_then(|stats| stats.linux).expect("figures");
        let memory = linux.memory.and_then(|memory| memory.usage_bytes).expect("memory").value;
        assert!(memory > 20_000_000, "QEMU's is counted: {memory}");
        assert!(linux.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).expect("CPU").value > 0);
        assert_eq!(linux.containers.len(), 1);

        if killed {
            kill(Pid::from_raw(kubelet.shim_of(&pod)), Signal::SIGKILL).unwrap();
            assert_eq!(kubelet.ended(&container).state, ContainerState::ContainerExited as i32);
        }
        kubelet.remove_pod(&pod).unwrap();
        kubelet.containerd.assert_gone(&pod);
        kubelet.containerd.wait_for("the end of the group", || !parent.has(&pod));
        assert_eq!(parent.members(""), [0; 0]);
    }
}

#[test]
fn all_that_serves_a_pod_is_in_its_cgroup_under_the_installed_containerd() {
    is_grouped_by("", KATA);
}

#[test]
fn all_that_serves_a_pod_is_in_its_cgroup_under_containerd_2() {
    is_grouped_by("2", KATA);
}

#[test]
fn all_that_serves_a_pod_without_a_container_of_its_own_is_in_its_cgroup() {
    is_grouped_by("2", KATA_SANDBOX);
}

/// A host that is short of memory kills what it would without VMs: the VM is worth what the most precious container is.
#[test]
fn a_vm_is_spared_as_its_containers_are() {
    let Some(kubelet) = Kubelet::start("") else { return };
    let pod_config = kubelet.pod("spared");
    let pod = kubelet.run_pod(KATA, &pod_config).unwrap();
    let score = |pid: i32| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("it runs");
    let (vm, shim) = (kubelet.vm_of(&pod), kubelet.shim_of(&pod));
    let before = score(shim);
    for (name, wanted, got) in
        [("worth-little", 700, 700), ("worth-more", 300, 300), ("worth-least", 999, 300)]
    {
        let mut config = kubelet.script(name, "exec sleep 1000");
        let resources = LinuxContainerResources { oom_score_adj: wanted, ..Default::default() };
        config.linux.as_mut().unwrap().resources = Some(resources);
        let container = kubelet.run(&pod, &config, &pod_config).unwrap();
        assert_eq!(score(vm).trim(), got.to_string(), "{name}");
        assert_eq!(kubelet.inside(&container, "cat /proc/1/oom_score_adj").trim(), wanted.to_string());
    }
    assert_eq!(score(shim), before);
    kubelet.remove_pod(&pod).unwrap();
    kubelet.containerd.assert_gone(&pod);
}

/// What a kubelet that asks for whole pods is told, as everything is configured by default: containerd takes the pod's
/// figures from the pod's cgroup, in which nothing of ours is then, and the containers' from us.
fn tells_of_pods(release: &str, handler: &str) {
    let Some(kubelet) = Kubelet::start(release) else { return };
    let parent = Parent::make();
    let mut pod_config = kubelet.pod("told-of");
    pod_config.linux.as_mut().unwrap().cgroup_parent = format!("/{}", parent.name);
    let pod = kubelet.run_pod(handler, &pod_config).unwrap();
    let container = kubelet.run(&pod, &kubelet.script("main", "exec sleep 1000"), &pod_config).unwrap();
    kubelet.inside(&container, "head -c 20000000 /dev/zero >/dev/shm/x");
    let question = PodSandboxStatsRequest { pod_sandbox_id: pod.clone() };
    let answer: PodSandboxStatsResponse = kubelet.runtime("PodSandboxStats", question).unwrap();
    let filter = PodSandboxStatsFilter { id: pod.clone(), ..Default::default() };
    let question = ListPodSandboxStatsRequest { filter: Some(filter) };
    let mut listed: ListPodSandboxStatsResponse = kubelet.runtime("ListPodSandboxStats", question).unwrap();
    assert_eq!(listed.stats.len(), 1);
    for stats in [answer.stats, listed.stats.pop()] {
        let stats = stats.expect("figures");
        assert_eq!(stats.attributes.expect("about a pod").id, pod);
        let linux = stats.linux.expect("figures");
        let [of_container] = &linux.containers[..] else { panic!("{:?}", linux.containers) };
        let (cpu, memory) = usage(of_container);
        assert!(cpu > 0 && (20_000_000..60_000_000).contains(&memory), "{cpu} {memory}");
        let pods_memory = linux.memory.and_then(|memory| memory.usage_bytes).expect("memory").value;
        assert!(pods_memory < 1_000_000, "{pods_memory}");
        let link = linux.network.and_then(|network| network.default_interface).expect("an interface");
        assert_eq!(link.name, "eth0");
    }
    kubelet.remove_pod(&pod).unwrap();
    kubelet.containerd.assert_gone(&pod);
}

#[test]
fn containerd_tells_of_pods_and_their_containers() {
    for (release, handler) in [("1.7", KATA), ("2", KATA), ("2", KATA_SANDBOX)] {
        tells_of_pods(release, handler);
    }
}

/// How many files a process has open, and its memory in KiB.
fn held(pid: i32) -> (usize, u64) {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let memory =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB")?.trim().parse().ok());
    (files, memory.expect("a number"))
}

/// Probes that are under way together.
const AT_A_TIME: usize = 4;
const ROUNDS: usize = 5;

#[test]
fn probes_leave_nothing_behind() {
    let Some(kubelet) = Kubelet::start("") else { return };
    let pod_config = kubelet.pod("probes");
    let pod = kubelet.run_pod(KATA, &pod_config).unwrap();
    let container = kubelet.run(&pod, &kubelet.script("main", "exec sleep 1000"), &pod_config).unwrap();
    let shim = kubelet.shim_of(&pod);
    // Several at a time, as of a pod with as many containers.
    let probe = |count: usize| {
        let some = || {
            for _ in 0..count / AT_A_TIME {
                assert_eq!(kubelet.exec(&container, "echo fine", 30).unwrap(), (0, "fine\n".into()));
            }
        };
        thread::scope(|scope| (0..AT_A_TIME).for_each(|_| drop(scope.spawn(some))));
    };
    let available =
        || kubelet.inside(&container, "awk '/^MemAvailable/ {print $2}' /proc/meminfo").trim().parse::<i64>();
    probe(40);
    let (before, guest) = (held(shim), available().expect("a number"));
    let began = Instant::now();
    let mut memory = vec![before.1];
    for _ in 0..ROUNDS {
        probe(80);
        memory.push(held(shim).1);
    }
    println!("{} probes: {:?}, the shim's KiB {memory:?}", 80 * ROUNDS, began.elapsed());
    // A connection may close a moment later.
    kubelet.containerd.wait_for("no more open files than before", || held(shim).0 <= before.0);
    // What is lost is lost each time; the allocator takes more only now and then.
    let steps = memory.windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
    let least = steps.min().expect("rounds");
    assert!(least < 256, "at least {least} KiB in each round: {memory:?}");
    let lost = guest - available().expect("a number");
    assert!(lost < 4096, "the guest lost {lost} KiB");
    kubelet.remove_pod(&pod).unwrap();
    kubelet.containerd.assert_gone(&pod);
}

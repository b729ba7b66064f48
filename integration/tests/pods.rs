//! Pods as the kubelet makes them, by CRI, on each release of containerd.

use integration::kubelet::{KATA, KATA_SANDBOX, Kubelet, namespaces};
use k8s_cri::v1::{ContainerConfig, ContainerState, NamespaceMode, PodSandboxConfig, PodSandboxState};

fn lives(release: &str, handler: &str) {
    let Some(kubelet) = Kubelet::start(release) else { return };
    let mut pod_config = kubelet.pod("life");
    let linux = pod_config.linux.as_mut().unwrap();
    linux.sysctls.insert("net.ipv4.ip_local_port_range".into(), "2000 3000".into());
    linux.sysctls.insert("kernel.shmmni".into(), "77".into());
    let pod = kubelet.run_pod(handler, &pod_config).unwrap();
    let status = kubelet.pod_status(&pod).unwrap();
    assert_eq!(status.state, PodSandboxState::SandboxReady as i32);
    assert!(!status.network.unwrap().ip.is_empty());

    let config = kubelet.script("first", "echo hello; trap 'exit 7' TERM; sleep 1000 & wait");
    let container = kubelet.create(&pod, &config, &pod_config).unwrap();
    let state = |id: &str| kubelet.container_status(id).unwrap().state;
    assert_eq!(state(&container), ContainerState::ContainerCreated as i32);
    kubelet.start_container(&container).unwrap();
    assert_eq!(state(&container), ContainerState::ContainerRunning as i32);
    assert_eq!(kubelet.exec(&container, "hostname; exit 3", 10).unwrap(), (3, "pod-host\n".into()));

    let set = "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shmmni";
    assert_eq!(kubelet.exec(&container, set, 10).unwrap().1, "2000\t3000\n77\n");

    kubelet.stop_container(&container, 10).unwrap();
    let status = kubelet.container_status(&container).unwrap();
    assert_eq!((status.state, status.exit_code), (ContainerState::ContainerExited as i32, 7));
    assert_eq!(kubelet.log(&config), "hello\n");
    kubelet.stop_container(&container, 10).unwrap();
    kubelet.remove_container(&container).unwrap();
    kubelet.remove_container(&container).unwrap();

    kubelet.stop_pod(&pod).unwrap();
    kubelet.stop_pod(&pod).unwrap();
    assert_eq!(kubelet.pod_status(&pod).unwrap().state, PodSandboxState::SandboxNotready as i32);
    kubelet.remove_pod(&pod).unwrap();
    kubelet.remove_pod(&pod).unwrap();
    kubelet.containerd.assert_gone(&pod);
}

#[test]
fn a_pod_lives_and_dies_under_the_installed_containerd() {
    lives("", KATA);
}

#[test]
fn a_pod_lives_and_dies_under_containerd_1_7() {
    lives("1.7", KATA);
}

#[test]
fn a_pod_lives_and_dies_under_containerd_2() {
    lives("2", KATA);
}

#[test]
fn a_pod_lives_and_dies_without_a_container_of_its_own() {
    lives("2", KATA_SANDBOX);
}

fn share(mode: NamespaceMode, pod: &mut PodSandboxConfig, containers: &mut [ContainerConfig]) {
    let options = Some(namespaces(mode));
    let context = pod.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).unwrap();
    context.namespace_options = options.clone();
    for container in containers {
        let context = container.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).unwrap();
        context.namespace_options = options.clone();
    }
}

#[test]
fn containers_of_a_pod_see_each_others_processes_if_it_says_so() {
    let Some(kubelet) = Kubelet::start("") else { return };
    for (mode, seen) in [(NamespaceMode::Pod, "pause\n"), (NamespaceMode::Container, "sleep\n")] {
        let mut pod_config = kubelet.pod("pids");
        let mut configs = ["first", "second"].map(|name| kubelet.script(name, "exec sleep 4242"));
        share(mode, &mut pod_config, &mut configs);
        let pod = kubelet.run_pod(KATA, &pod_config).unwrap();
        let [first, second] = configs.map(|config| {
            let container = kubelet.create(&pod, &config, &pod_config).unwrap();
            kubelet.start_container(&container).unwrap();
            container
        });
        let exec = |script: &str| kubelet.exec(&second, script, 10).unwrap().1;
        // A start has returned when the program is about to run.
        kubelet.containerd.wait_for("the programs to run", || exec("cat /proc/1/comm") == seen);
        let sleepers = if mode == NamespaceMode::Pod { "2\n" } else { "1\n" };
        let count = "grep -lsz '^4242$' /proc/[0-9]*/cmdline | wc -l";
        kubelet.containerd.wait_for("all that are seen", || exec(count) == sleepers);

        // The others live on without it.
        kubelet.stop_container(&first, 0).unwrap();
        assert_eq!(kubelet.container_status(&first).unwrap().exit_code, 137);
        assert_eq!(exec("echo there"), "there\n");
        assert_eq!(exec(count), "1\n");
        kubelet.remove_pod(&pod).unwrap();
        kubelet.containerd.assert_gone(&pod);
    }
}

#[test]
fn a_pod_is_removed_in_any_order_and_whatever_has_died() {
    is_removed("", KATA);
}

#[test]
fn a_pod_without_a_container_of_its_own_is_removed_in_any_order_and_whatever_has_died() {
    is_removed("2", KATA_SANDBOX);
}

fn is_removed(release: &str, handler: &str) {
    let Some(kubelet) = Kubelet::start(release) else { return };
    let pod_config = kubelet.pod("order");
    let pod = kubelet.run_pod(handler, &pod_config).unwrap();
    let config = kubelet.script("runs", "exec sleep 1000");
    let container = kubelet.create(&pod, &config, &pod_config).unwrap();
    kubelet.start_container(&container).unwrap();
    let unstarted = kubelet.create(&pod, &kubelet.script("created", "true"), &pod_config).unwrap();
    let again = kubelet.create(&pod, &config, &pod_config);
    assert!(again.is_err(), "the name is taken");

    // The VM dies: so have all that ran in it, soon.
    let vm = kubelet.vm_of(&pod);
    let began = std::time::Instant::now();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(vm), nix::sys::signal::Signal::SIGKILL).unwrap();
    let status = kubelet.ended(&container);
    assert_eq!(status.exit_code, 137);
    assert!(began.elapsed().as_secs() < 3, "{:?}", began.elapsed());
    let is_ready = || kubelet.pod_status(&pod).unwrap().state == PodSandboxState::SandboxReady as i32;
    kubelet.containerd.wait_for("the pod to be known for dead", || !is_ready());
    let late = kubelet.run(&pod, &kubelet.script("late", "true"), &pod_config);
    assert!(late.is_err(), "its sandbox has died");
    kubelet.remove_pod(&pod).unwrap();
    assert!(kubelet.container_status(&unstarted).is_err(), "it went with its pod");
    kubelet.containerd.assert_gone(&pod);

    // The same name, at once; and a running pod is removed as well.
    let pod = kubelet.run_pod(handler, &pod_config).unwrap();
    let container = kubelet.create(&pod, &config, &pod_config).unwrap();
    kubelet.start_container(&container).unwrap();
    kubelet.remove_container(&container).unwrap();
    let container = kubelet.create(&pod, &config, &pod_config).unwrap();
    kubelet.start_container(&container).unwrap();
    kubelet.remove_pod(&pod).unwrap();
    kubelet.containerd.assert_gone(&pod);
}

#[test]
fn a_pod_has_fifty_containers() {
    let Some(kubelet) = Kubelet::start("") else { return };
    let pod_config = kubelet.pod("many");
    let pod = kubelet.run_pod(KATA, &pod_config).unwrap();
    let mut times = Vec::new();
    let containers: Vec<String> = (0..50)
        .map(|number| {
            let config = kubelet.script(&format!("c{number}"), "exec sleep 1000");
            let began = std::time::Instant::now();
            let container = kubelet.run(&pod, &config, &pod_config).unwrap();
            times.push(began.elapsed());
            container
        })
        .collect();
    eprintln!("the 2nd {:?}, the 50th {:?}", times[1], times[49]);
    for container in [&containers[0], &containers[49]] {
        assert_eq!(kubelet.inside(container, "echo here"), "here\n");
    }
    kubelet.remove_pod(&pod).unwrap();
    kubelet.containerd.assert_gone(&pod);
}

#[test]
fn ten_pods_live_at_once() {
    let Some(kubelet) = Kubelet::start("") else { return };
    let pods: Vec<_> = std::thread::scope(|scope| {
        let run = |number: usize| {
            let kubelet = &kubelet;
            scope.spawn(move || {
                let pod_config = kubelet.pod(&format!("ten{number}-"));
                let pod = kubelet.run_pod(KATA, &pod_config).unwrap();
                let config = kubelet.script("only", "exec sleep 1000");
                let container = kubelet.run(&pod, &config, &pod_config).unwrap();
                (pod, container)
            })
        };
        let running: Vec<_> = (0..10).map(run).collect();
        running.into_iter().map(|pod| pod.join().unwrap()).collect()
    });
    for (pod, container) in &pods {
        assert_eq!(kubelet.inside(container, "hostname"), "pod-host\n");
        kubelet.remove_pod(pod).unwrap();
        kubelet.containerd.assert_gone(pod);
    }
}

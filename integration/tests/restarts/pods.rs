//! Pods that were begun under one release of containerd and go on under another.

use std::{thread, time::Duration};

use integration::kubelet::{KATA, Kubelet};
use k8s_cri::v1::{ContainerState, PodSandboxState};

use super::programs;

/// A pod of one release of containerd, which is killed and comes back as each of `then`.
fn outlives(release: &str, then: &[Option<&str>]) {
    let Some(mut kubelet) = Kubelet::start(release) else { return };
    let found: Option<Vec<_>> =
        then.iter().map(|release| programs(kubelet.containerd.environment(), *release)).collect();
    let Some(found) = found else { return };
    let pod_config = kubelet.pod("outlives");
    let pod = kubelet.run_pod(KATA, &pod_config).unwrap();
    let config = kubelet.script("ticks", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done");
    let ticking = kubelet.run(&pod, &config, &pod_config).unwrap();
    let over = kubelet.run(&pod, &kubelet.script("over", "exit 7"), &pod_config).unwrap();
    assert_eq!(kubelet.ended(&over).exit_code, 7);
    let unstarted = kubelet.create(&pod, &kubelet.script("created", "exit 5"), &pod_config).unwrap();

    for (number, programs) in found.into_iter().enumerate() {
        let script = format!("while [ ! -e /dev/shm/end{number} ]; do sleep 0.1; done; exit 9");
        let ending = kubelet.script(&format!("ends{number}"), &script);
        let ending = kubelet.run(&pod, &ending, &pod_config).unwrap();
        kubelet.inside(&ending, &format!("(sleep 1; touch /dev/shm/end{number}) >/dev/null 2>&1 &"));
        kubelet.containerd.kill();
        thread::sleep(Duration::from_millis(1500));
        kubelet.containerd.becomes(programs);
        kubelet.containerd.start_again("");
        kubelet.containerd.wait_for("CRI to answer again", || kubelet.pod_status(&pod).is_ok());

        assert_eq!(kubelet.pod_status(&pod).unwrap().state, PodSandboxState::SandboxReady as i32);
        let state = |id: &str| kubelet.container_status(id).unwrap().state;
        assert_eq!(state(&ticking), ContainerState::ContainerRunning as i32);
        assert_eq!(state(&unstarted), ContainerState::ContainerCreated as i32);
        // With runc, containerd 2 forgets those that have ended and says 255.
        assert_eq!(kubelet.ended(&over).exit_code, 7);
        assert_eq!(kubelet.ended(&ending).exit_code, 9);
        assert_eq!(kubelet.exec(&ticking, "hostname; exit 3", 20).unwrap(), (3, "pod-host\n".into()));
        let length = kubelet.log(&config).len();
        kubelet.containerd.wait_for("more of the log", || kubelet.log(&config).len() > length);
        let new = kubelet.run(&pod, &kubelet.script(&format!("new{number}"), "exit 6"), &pod_config).unwrap();
        assert_eq!(kubelet.ended(&new).exit_code, 6);
    }

    // What was begun before goes on.
    kubelet.start_container(&unstarted).unwrap();
    assert_eq!(kubelet.ended(&unstarted).exit_code, 5);
    kubelet.stop_container(&ticking, 0).unwrap();
    assert_eq!(kubelet.container_status(&ticking).unwrap().exit_code, 137);
    kubelet.stop_pod(&pod).unwrap();
    kubelet.remove_pod(&pod).unwrap();
    kubelet.containerd.assert_gone(&pod);
}

#[test]
fn a_pod_outlives_the_installed_containerd_and_an_upgrade_by_way_of_1_7_to_2() {
    outlives("", &[None, Some("1.7"), Some("2")]);
}

#[test]
fn a_pod_outlives_containerd_2() {
    outlives("2", &[Some("2")]);
}

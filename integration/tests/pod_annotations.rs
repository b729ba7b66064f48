//! What annotations change of a sandbox's VM, and those that are refused: by CRI, by the sandbox API, and by hand.

use integration::{
    containerd::processes,
    factory::{Factory, phases},
    kubelet::{KATA, KATA_SANDBOX, Kubelet},
};
use k8s_cri::v1::{ListPodSandboxRequest, ListPodSandboxResponse, PodSandboxConfig};

const PREFIX: &str = "io.katacontainers.config.";
/// What the guest's kernel keeps of so much more memory, at most, and by how much less one that was booted differs from a
/// clone, in MiB.
const KEPT: u64 = 32;
const DIFFERENT: u64 = 8;

fn annotated(mut config: PodSandboxConfig, annotations: &[(&str, &str)]) -> PodSandboxConfig {
    let named = annotations.iter().map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned()));
    config.annotations.extend(named);
    config
}

/// CPUs, and memory in MiB.
fn size(text: &str) -> (u64, u64) {
    let numbers: Vec<u64> = text.lines().map(|line| line.parse().expect("a number")).collect();
    (numbers[0], numbers[1] / 1024)
}

const SIZE: &str = "nproc; awk '/MemTotal/ {print $2}' /proc/meminfo";

fn changes() -> [(&'static str, String); 1] {
    [("enable_annotations", "enable_annotations = [\"default_vcpus\", \"default_memory\"]".to_owned())]
}

fn shapes_its_vm(release: &str, handler: &str) {
    let Some(kubelet) = Kubelet::start_with(release, &changes()) else { return };
    let mut sizes = Vec::new();
    for annotations in [&[][..], &[("hypervisor.default_vcpus", "2"), ("hypervisor.default_memory", "2304")]]
    {
        let pod_config = annotated(kubelet.pod("annotated"), annotations);
        let pod = kubelet.run_pod(handler, &pod_config).unwrap();
        let container = kubelet.run(&pod, &kubelet.script("first", "exec sleep 1000"), &pod_config).unwrap();
        sizes.push(size(&kubelet.inside(&container, SIZE)));
        kubelet.remove_pod(&pod).unwrap();
        kubelet.containerd.assert_gone(&pod);
    }
    let [(cpus, memory), (more_cpus, more_memory)] = sizes[..] else { unreachable!("two pods") };
    assert_eq!((cpus, more_cpus), (1, 2));
    assert!(
        (256 - KEPT..=256 + DIFFERENT).contains(&more_memory.saturating_sub(memory)),
        "{memory} MiB became {more_memory} MiB"
    );
}

#[test]
fn a_pods_annotations_shape_its_vm() {
    shapes_its_vm("", KATA);
}

#[test]
fn a_pods_annotations_shape_its_vm_by_the_sandbox_api() {
    shapes_its_vm("2", KATA_SANDBOX);
}

#[test]
fn a_pod_whose_annotations_are_refused_leaves_nothing() {
    let Some(kubelet) = Kubelet::start_with("", &changes()) else { return };
    let dir = kubelet.containerd.dir().display().to_string();
    for (name, value, words) in [
        ("hypervisor.kernel_params", "quiet", ["not enabled", "enable_annotations", "default.toml"]),
        ("hypervisor.default_vcpus", "999", ["999", "a number of CPUs", "at most"]),
        ("hypervisor.default_memory", "12", ["12", "MiB from 64", "GiB"]),
        ("runtime.sandbox_cgroup_only", "perhaps", ["perhaps", "true", "false"]),
    ] {
        let pod_config = annotated(kubelet.pod("refused"), &[(name, value)]);
        let refused = kubelet.run_pod(KATA, &pod_config).unwrap_err();
        let name = format!("{PREFIX}{name}");
        let all = words.iter().chain([&name.as_str()]).all(|word| refused.message().contains(word));
        assert!(all, "{name}: {refused}");
        let ours =
            |line: &str| ["containerd-shim-kata", "qemu-system"].iter().any(|name| line.contains(name));
        kubelet.containerd.wait_for("the shim to end", || {
            !processes().iter().any(|(_, line)| line.contains(&dir) && ours(line))
        });
        let question = ListPodSandboxRequest { filter: None };
        let listed: ListPodSandboxResponse = kubelet.runtime("ListPodSandbox", question).unwrap();
        assert_eq!(listed.items, []);
    }
    let pod = kubelet.run_pod(KATA, &kubelet.pod("allowed")).unwrap();
    kubelet.remove_pod(&pod).unwrap();
    kubelet.containerd.assert_gone(&pod);
}

#[test]
fn sizes_by_annotation_are_of_clones_and_what_needs_another_template_is_booted() {
    let Some(factory) = Factory::open() else { return };
    let kata = factory.runtime("annotated", &[("enable_annotations", "[\"default_\", \"kernel_params\"]")]);
    factory.good_start(&kata, "first");
    let template = factory.template();
    let script = format!("{SIZE}; grep -c kata_test /proc/cmdline");
    for (annotation, cpus, words, cloned) in [
        ("hypervisor.default_vcpus=2", 2, 0, 1),
        ("hypervisor.default_memory=2200", 1, 0, 1),
        ("hypervisor.default_memory=512", 1, 0, 0),
        ("hypervisor.kernel_params=kata_test=1", 1, 1, 0),
        ("runtime.disable_guest_seccomp=false", 1, 0, 1),
    ] {
        let id = factory.id("annotated");
        let annotation = format!("{PREFIX}{annotation}");
        let options = ["--annotation", annotation.as_str()];
        let finished = factory.containerd.run(&kata, &options, &id, &["sh", "-c", &script], b"");
        factory.containerd.assert_gone(&id);
        let (text, log) = (finished.text(), factory.log(&id));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines.len(), lines[0], lines[2]), (3, &*cpus.to_string(), &*words.to_string()), "{log}");
        assert_eq!(phases(&log, "vm-restore"), cloned, "{annotation}\n{log}");
        assert_eq!(factory.template(), template);
    }
}

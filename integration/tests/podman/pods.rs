//! Containers that share a VM.

use integration::{docker::IMAGE, podman::Podman};

use crate::{FETCH, REST, SERVE};

/// One container in the namespaces of another, which is in its VM.
pub fn shared_namespaces(podman: &Podman) {
    let boot = "cat /proc/sys/kernel/random/boot_id";
    let first = podman.start_container("host", "-p 8081:80", SERVE);
    let (address, host) = (podman.inside("host", "hostname -i"), podman.inside("host", boot));
    let joins = "--network container:host --pid container:host --ipc container:host";
    let second = podman.start_container("guest", joins, REST);
    assert_eq!(podman.inside("guest", boot), host);
    assert_eq!(podman.inside("guest", &FETCH.replace("ADDRESS", "127.0.0.1 80")), "served");
    assert!(podman.inside("guest", "hostname -i; ps").contains(&address));
    assert!(podman.inside("guest", "ps").contains("httpd"));
    podman.ok(&["rm", "--force", "--time", "0", "guest"]);
    assert_eq!(podman.inside("host", boot), host);
    podman.ok(&["rm", "--force", "--time", "0", "host"]);
    podman.assert_gone(&first);
    podman.assert_gone(&second);
}

pub fn pods(podman: &Podman) {
    podman.ok(&["pod", "create", "--name", "pod", "--share", "net,ipc,uts,pid", "-p", "8082:80"]);
    let first = podman.start_container("one", "--pod pod", SERVE);
    let second = podman.start_container("two", "--pod pod", REST);
    assert_eq!(podman.inside("two", &FETCH.replace("ADDRESS", "127.0.0.1 80")), "served");
    assert!(podman.inside("two", "ps").contains("httpd"));
    assert_eq!(podman.inside("one", "hostname"), "pod");
    let fetch = FETCH.replace("ADDRESS", "127.0.0.1 8082");
    podman.wait_for("the pod's port", || podman.outside(&fetch).text() == "served\n");
    podman.ok(&["pod", "restart", "pod"]);
    podman.wait_for("the port of the pod that was started again", || {
        podman.outside(&fetch).text() == "served\n"
    });
    podman.ok(&["pod", "stop", "--time", "5", "pod"]);
    podman.ok(&["pod", "rm", "pod"]);
    podman.assert_gone(&first);
    podman.assert_gone(&second);
}

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: web
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: server
    image: localhost/IMAGE:latest
    imagePullPolicy: Never
    command: ["sh", "-c", "SERVE"]
    ports: [{containerPort: 80, hostPort: 8083}]
    resources: {limits: {memory: 100Mi}}
    volumeMounts: [{name: data, mountPath: /data}]
  - name: client
    image: localhost/IMAGE:latest
    imagePullPolicy: Never
    command: ["sh", "-c", "REST"]
    env: [{name: A, value: b}]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes:
  - name: data
    emptyDir: {}
"#;

/// A pod from Kubernetes' words, and back to them.
pub fn kube(podman: &Podman) {
    let file = podman.path().join("pod.yaml");
    let words = PODS.replace("IMAGE", IMAGE).replace("SERVE", SERVE).replace("REST", REST);
    std::fs::write(&file, words).expect("write a file");
    let file = file.display().to_string();
    podman.ok(&["kube", "play", &file]);
    let id = podman.ok(&["inspect", "--format", "{{.Id}}", "web-server"]);
    let fetch = |at: &str| FETCH.replace("ADDRESS", at);
    podman.wait_for("the server", || podman.inside("web-client", &fetch("127.0.0.1 80")) == "served");
    assert_eq!(podman.inside("web-client", "echo $A; hostname; echo shared >/data/file"), "b\nweb");
    assert_eq!(podman.inside("web-server", "cat /data/file /sys/fs/cgroup/memory.max"), "shared\n104857600");
    podman.wait_for("the port", || podman.outside(&fetch("127.0.0.1 8083")).text() == "served\n");
    assert!(podman.ok(&["generate", "kube", "web"]).contains("hostPort: 8083"));
    assert!(podman.ok(&["generate", "systemd", "web"]).contains("ExecStart="));
    podman.ok(&["pod", "pause", "web"]);
    podman.ok(&["pod", "unpause", "web"]);
    podman.ok(&["kube", "down", &file]);
    podman.assert_gone(&id);
    assert_eq!(podman.ok(&["pod", "ps", "--quiet"]), "");
    podman.ok(&["volume", "prune", "--force"]);
}

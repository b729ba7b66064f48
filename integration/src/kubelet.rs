//! CRI as the kubelet uses it: a private containerd with its CRI plugin, the distribution's CNI plugins, and a client.
//!
//! Everything happens in a network namespace that plays the host.

use std::{fs, path::Path};

use k8s_cri::v1 as cri;
use prost::Message;
use tokio::runtime::Runtime as Executor;
use tonic::Status;

use crate::{
    cni::{self, Host},
    compare::Client,
    containerd::{Containerd, DEFAULT_CONFIGURATION, IMAGE, processes},
    environment::Environment,
    place::unique,
};

const PAUSE_IMAGE: &str = "docker.io/library/kata-pause:latest";

/// The handlers of the runtimes that pods may ask for.
pub const KATA: &str = "kata";
pub const RUNC: &str = "runc";
/// Ours, with pods by the sandbox API; containerd 2 has it. Without options, for it takes all for runc's when a container
/// joins such a pod (containerd #12986).
pub const KATA_SANDBOX: &str = "kata-sandbox";
/// Ours, for whose privileged containers containerd names all devices of the host.
pub const KATA_WITH_DEVICES: &str = "kata-devices";

/// A node with one containerd.
pub struct Kubelet {
    // In the order of their ends.
    client: Client,
    executor: Executor,
    pub containerd: Containerd,
    pub host: Host,
}

impl Kubelet {
    /// `None`, with a word, where what it needs is missing. `release` is a containerd of [`Environment::containerd`],
    /// or "" for the one that is installed.
    pub fn start(release: &str) -> Option<Self> {
        Self::start_with(release, &[])
    }

    /// The same with lines of our configuration replaced, as by [`Environment::configuration_with`].
    pub fn start_with(release: &str, changes: &[(&str, String)]) -> Option<Self> {
        Self::start_as(release, |env, dir| {
            our_handlers(&env.configuration_with(dir, DEFAULT_CONFIGURATION, changes))
        })
    }

    /// The same with a containerd that knows runc alone.
    pub fn start_without_us(release: &str) -> Option<Self> {
        Self::start_as(release, |_, _| String::new())
    }

    /// With more of containerd's configuration.
    fn start_as(release: &str, more: impl FnOnce(&Environment, &Path) -> String) -> Option<Self> {
        let env = Environment::find()?;
        let programs = match release {
            "" => None,
            release => Some(env.containerd(release)?),
        };
        let host = Host::new()?;
        let network = Some(host.name.clone());
        let containerd =
            Containerd::start_with(&env, programs, network, |dir| cri_tables(dir) + &more(&env, dir));
        let executor = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let executor = executor.expect("start an executor");
        let client = executor.block_on(Client::connect(&containerd.socket(), "k8s.io"));
        let kubelet = Self { client, executor, containerd, host };
        // Imported images reach CRI by an event.
        kubelet.containerd.wait_for("CRI to know its images", || {
            [IMAGE, PAUSE_IMAGE].iter().all(|image| kubelet.has_image(image))
        });
        kubelet.containerd.wait_for("CRI's network to be ready", || kubelet.is_ready());
        Some(kubelet)
    }

    /// Ends containerd and starts it again.
    pub fn restart_containerd(&mut self) {
        self.containerd.stop();
        self.containerd.start_again("");
        self.containerd.wait_for("CRI to be ready again", || self.is_ready());
    }

    /// One call of the runtime service and its answer.
    pub fn runtime<Q: Message + 'static, A: Message + Default + 'static>(
        &self,
        call: &str,
        question: Q,
    ) -> Result<A, Status> {
        let method = format!("runtime.v1.RuntimeService/{call}");
        self.executor.block_on(self.client.call(&method, question))
    }

    /// One call of the image service and its answer.
    pub fn images<Q: Message + 'static, A: Message + Default + 'static>(
        &self,
        call: &str,
        question: Q,
    ) -> Result<A, Status> {
        let method = format!("runtime.v1.ImageService/{call}");
        self.executor.block_on(self.client.call(&method, question))
    }

    /// A pod's configuration, with a name that no other has.
    pub fn pod(&self, name: &str) -> cri::PodSandboxConfig {
        let name = format!("{name}{}", unique());
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                uid: format!("uid-{name}"),
                name,
                namespace: "tests".into(),
                attempt: 0,
            }),
            hostname: "pod-host".into(),
            log_directory: self.containerd.dir().join("logs").display().to_string(),
            linux: Some(cri::LinuxPodSandboxConfig {
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces(cri::NamespaceMode::Container)),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// A container's configuration that runs a script of the shell.
    pub fn script(&self, name: &str, script: &str) -> cri::ContainerConfig {
        cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
            image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
            command: ["sh", "-c", script].map(str::to_owned).into(),
            log_path: format!("{name}.log"),
            linux: Some(cri::LinuxContainerConfig {
                security_context: Some(cri::LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces(cri::NamespaceMode::Container)),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Runs a pod's sandbox; its id.
    pub fn run_pod(&self, handler: &str, config: &cri::PodSandboxConfig) -> Result<String, Status> {
        fs::create_dir_all(&config.log_directory).expect("make the folder of logs");
        let question =
            cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.into() };
        let answer: cri::RunPodSandboxResponse = self.runtime("RunPodSandbox", question)?;
        Ok(answer.pod_sandbox_id)
    }

    /// Makes a container in a pod; its id.
    pub fn create(
        &self,
        pod: &str,
        config: &cri::ContainerConfig,
        pod_config: &cri::PodSandboxConfig,
    ) -> Result<String, Status> {
        let question = cri::CreateContainerRequest {
            pod_sandbox_id: pod.into(),
            config: Some(config.clone()),
            sandbox_config: Some(pod_config.clone()),
        };
        let answer: cri::CreateContainerResponse = self.runtime("CreateContainer", question)?;
        Ok(answer.container_id)
    }

    pub fn start_container(&self, id: &str) -> Result<(), Status> {
        let question = cri::StartContainerRequest { container_id: id.into() };
        self.runtime::<_, cri::StartContainerResponse>("StartContainer", question).map(drop)
    }

    /// Within `timeout` seconds of grace.
    pub fn stop_container(&self, id: &str, timeout: i64) -> Result<(), Status> {
        let question = cri::StopContainerRequest { container_id: id.into(), timeout };
        self.runtime::<_, cri::StopContainerResponse>("StopContainer", question).map(drop)
    }

    pub fn remove_container(&self, id: &str) -> Result<(), Status> {
        let question = cri::RemoveContainerRequest { container_id: id.into() };
        self.runtime::<_, cri::RemoveContainerResponse>("RemoveContainer", question).map(drop)
    }

    pub fn stop_pod(&self, id: &str) -> Result<(), Status> {
        let question = cri::StopPodSandboxRequest { pod_sandbox_id: id.into() };
        self.runtime::<_, cri::StopPodSandboxResponse>("StopPodSandbox", question).map(drop)
    }

    pub fn remove_pod(&self, id: &str) -> Result<(), Status> {
        let question = cri::RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        self.runtime::<_, cri::RemovePodSandboxResponse>("RemovePodSandbox", question).map(drop)
    }

    pub fn container_status(&self, id: &str) -> Result<cri::ContainerStatus, Status> {
        let question = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
        let answer: cri::ContainerStatusResponse = self.runtime("ContainerStatus", question)?;
        Ok(answer.status.expect("a status has a status"))
    }

    pub fn pod_status(&self, id: &str) -> Result<cri::PodSandboxStatus, Status> {
        let question = cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        let answer: cri::PodSandboxStatusResponse = self.runtime("PodSandboxStatus", question)?;
        Ok(answer.status.expect("a status has a status"))
    }

    /// Runs a script of the shell in a container; its exit code and what it wrote to both outputs.
    pub fn exec(&self, id: &str, script: &str, timeout: i64) -> Result<(i32, String), Status> {
        let question = cri::ExecSyncRequest {
            container_id: id.into(),
            cmd: ["sh", "-c", script].map(str::to_owned).into(),
            timeout,
        };
        let answer: cri::ExecSyncResponse = self.runtime("ExecSync", question)?;
        let text = [answer.stdout, answer.stderr].concat();
        Ok((answer.exit_code, String::from_utf8_lossy(&text).into_owned()))
    }

    /// Makes a container in a pod and starts it; its id.
    pub fn run(
        &self,
        pod: &str,
        config: &cri::ContainerConfig,
        pod_config: &cri::PodSandboxConfig,
    ) -> Result<String, Status> {
        let container = self.create(pod, config, pod_config)?;
        self.start_container(&container).map(|()| container)
    }

    /// What a script in a container prints.
    pub fn inside(&self, id: &str, script: &str) -> String {
        let (code, text) = self.exec(id, script, 20).unwrap_or_else(|error| panic!("{script}: {error}"));
        assert_eq!(code, 0, "{script}: {text}");
        text
    }

    /// Waits until a container has ended; its status.
    pub fn ended(&self, id: &str) -> cri::ContainerStatus {
        let mut status = None;
        self.containerd.wait_for("a container to end", || {
            let found = self.container_status(id).expect("the container is known");
            let over = found.state == cri::ContainerState::ContainerExited as i32;
            status = Some(found);
            over
        });
        status.expect("seen at least once")
    }

    /// The lines of a container's log, without times and tags.
    pub fn log(&self, config: &cri::ContainerConfig) -> String {
        let path = self.containerd.dir().join("logs").join(&config.log_path);
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).map(|line| format!("{line}\n")).collect()
    }

    /// The shim of a pod.
    pub fn shim_of(&self, pod: &str) -> i32 {
        let found = processes()
            .into_iter()
            .find(|(_, line)| line.contains("containerd-shim-kata") && line.contains(pod));
        let (pid, _) = found.expect("the pod has a shim");
        i32::try_from(pid).expect("a pid is an i32")
    }

    /// The process of a pod's VM.
    pub fn vm_of(&self, pod: &str) -> i32 {
        let name = format!("sandbox-{pod}");
        let found =
            processes().into_iter().find(|(_, line)| line.contains("qemu-system") && line.contains(&name));
        let (pid, _) = found.expect("the pod has a VM");
        i32::try_from(pid).expect("a pid is an i32")
    }

    fn has_image(&self, name: &str) -> bool {
        let image = cri::ImageSpec { image: name.into(), ..Default::default() };
        let question = cri::ImageStatusRequest { image: Some(image), verbose: false };
        let answer: Result<cri::ImageStatusResponse, _> = self.images("ImageStatus", question);
        answer.is_ok_and(|answer| answer.image.is_some())
    }

    fn is_ready(&self) -> bool {
        let answer: Result<cri::StatusResponse, _> =
            self.runtime("Status", cri::StatusRequest { verbose: false });
        let conditions = answer.ok().and_then(|answer| answer.status).map(|status| status.conditions);
        conditions.is_some_and(|all| !all.is_empty() && all.iter().all(|condition| condition.status))
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        let listed = self.runtime("ListPodSandbox", cri::ListPodSandboxRequest { filter: None });
        let pods: Vec<cri::PodSandbox> =
            listed.map(|answer: cri::ListPodSandboxResponse| answer.items).unwrap_or_default();
        for pod in pods {
            // The test has said what is wrong.
            let _ = self.stop_pod(&pod.id);
            let _ = self.remove_pod(&pod.id);
        }
        // Where plugins' results were, if nobody else's are there.
        for dir in ["/var/lib/cni/results", "/var/lib/cni/cache", "/var/lib/cni"] {
            let _ = fs::remove_dir(dir);
        }
    }
}

/// All of the pod but its processes' namespace, which is as `pid` says.
pub fn namespaces(pid: cri::NamespaceMode) -> cri::NamespaceOption {
    cri::NamespaceOption { pid: pid as i32, ..Default::default() }
}

/// The tables of containerd's configuration for CRI; 2.x reads them as well.
fn cri_tables(dir: &Path) -> String {
    let (network, path) = (dir.join("net.d"), dir.display());
    fs::create_dir_all(&network).expect("make the folder of networks");
    let subnet = format!("10.{}.{}.0/24", 64 + unique() / 250 % 64, unique() % 250);
    let bridge = serde_json::json!({
        "cniVersion": "0.4.0", "name": "pods", "plugins": [
            {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
             "ipam": {"type": "host-local", "dataDir": format!("{path}/ipam"), "ranges": [[{"subnet": subnet}]],
                      "routes": [{"dst": "0.0.0.0/0"}]}},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    fs::write(network.join("10-pods.conflist"), bridge.to_string()).expect("write the network's list");
    let plugins = cni::plugins().unwrap_or_default();
    format!(
        "[plugins.\"io.containerd.grpc.v1.cri\"]\n\
         sandbox_image = \"{PAUSE_IMAGE}\"\ndisable_apparmor = true\nnetns_mounts_under_state_dir = true\n\
         restrict_oom_score_adj = true\n\
         stream_server_address = \"127.0.0.1\"\nstream_server_port = \"0\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
         bin_dir = \"{bin}\"\nconf_dir = \"{conf}\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{RUNC}]\n\
         runtime_type = \"io.containerd.runc.v2\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{RUNC}.options]\n\
         Root = \"{path}/runc\"\n",
        bin = plugins.display(),
        conf = network.display(),
    )
}

/// The tables of our handlers.
fn our_handlers(configuration: &Path) -> String {
    let configuration = configuration.display();
    format!(
        "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{KATA}]\n\
         runtime_type = \"io.containerd.kata.v2\"\nprivileged_without_host_devices = true\n\
         pod_annotations = [\"io.katacontainers.*\"]\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{KATA}.options]\n\
         ConfigPath = \"{configuration}\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{KATA_WITH_DEVICES}]\n\
         runtime_type = \"io.containerd.kata.v2\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{KATA_WITH_DEVICES}.options]\n\
         ConfigPath = \"{configuration}\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{KATA_SANDBOX}]\n\
         runtime_type = \"io.containerd.kata.v2\"\nsandboxer = \"shim\"\n"
    )
}

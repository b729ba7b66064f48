//! A sandbox that is started before anybody wants it, and given away later.
//!
//! Its VM has run a container already, so that all that a start needs has been touched once, and then stands still. Its
//! mounts and sockets keep the name under which they were made; the record gets the name under which it is known.

use std::sync::atomic::Ordering;

use protocols::{agent as wire, guest};

use super::{Identity, Running, Sandbox, boot, grouping, lock};
use crate::{
    agent::{GuestProcess, Output},
    bundle::Bundle,
    container::sizing::{Workload, grown, growth, template_size, vm_size},
    error::{Context, Error, Result},
    ids::SandboxId,
    vm::NetworkNamespace,
};

/// The name of the container that warms up a guest, and its directory there.
const WARM_UP: &str = "warm-up";

impl Sandbox {
    /// Makes a started sandbox wait: warm, and without using the processor.
    pub async fn rest(&self) -> Result<()> {
        let running = self.running()?;
        warm_up(running).await.context("warm up the guest")?;
        running.vm.pause().await?;
        self.resting.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Makes a resting sandbox that of `bundle`, under the name `id`. On an error it is still resting, or is not to be
    /// used for anything but to be stopped.
    pub async fn adopt(&self, id: &SandboxId, bundle: &Bundle) -> Result<()> {
        let config = &self.setup.config;
        if boot::network_namespace(config, bundle) != NetworkNamespace::New {
            return Err(Error::precondition("a VM that runs already is in a network namespace of its own"));
        }
        let host = boot::Host::look();
        let workload = Workload::of_sandbox(bundle, config.runtime.static_sandbox_resource_mgmt);
        let wanted = vm_size(&config.hypervisor, workload, host.cpus);
        let size = template_size(&config.hypervisor, host.cpus, host.memory);
        let (vcpus, memory) = growth(size, wanted)
            .ok_or_else(|| Error::precondition("a VM that runs already cannot grow to that size"))?;
        let running = self.running()?;
        self.store.rename(&self.setup.paths.sandbox(id))?;
        grouping::group(config, bundle, self.processes(), &self.ledger).await?;
        *lock(&self.identity) = Identity::of(id, bundle);
        self.store.update(|record| record.sandbox_container = id.to_string())?;
        running.vm.resume().await?;
        self.resting.store(false, Ordering::Relaxed);
        running.agent.set_time().await?;
        let request = self.guest_sandbox();
        let (made, plugged) =
            tokio::join!(running.agent.create_sandbox(&request), running.vm.add_memory(memory));
        made.and(plugged)?;
        if vcpus > size.vcpus {
            running.agent.online(vcpus).await?;
        }
        *running.size.lock().await = grown(size, vcpus, memory);
        Ok(())
    }
}

/// Runs the agent's own program in a container, from its creation to its removal.
async fn warm_up(Running { agent, .. }: &Running) -> Result<()> {
    let dir = format!("{}/{WARM_UP}", guest::SANDBOX_DIR);
    let storage =
        wire::Storage { driver: guest::DRIVER_LOCAL.into(), mount_point: dir.clone(), ..Default::default() };
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| serde_json::json!({ "destination": destination, "type": kind, "source": source, "options": options });
    let spec = serde_json::json!({
        "ociVersion": "1.0.2",
        "root": { "path": dir },
        "process": {
            "args": ["/init", "--version"],
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": { "uid": 0, "gid": 0 },
            "noNewPrivileges": true,
        },
        "mounts": [
            mount("/init", "bind", "/init", &["bind", "ro"]),
            mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "namespaces": [{ "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }],
            "maskedPaths": ["/proc/kcore", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger"],
        },
    });
    let spec = serde_json::from_value(spec).context("the spec of the container that warms up")?;
    let spec = protocols::oci::spec_to_wire(&spec).map_err(|error| Error::internal(error.to_string()))?;
    let request = wire::CreateContainerRequest {
        container_id: WARM_UP.into(),
        exec_id: WARM_UP.into(),
        storages: vec![storage],
        OCI: Some(spec).into(),
        ..Default::default()
    };
    let init = GuestProcess::init(WARM_UP);
    agent.create_container(&request).await?;
    agent.start_container(WARM_UP).await?;
    let (exit, output) = tokio::join!(agent.wait(&init), agent.read(&init, Output::Stdout, 4096));
    output?;
    agent.remove_container(WARM_UP).await?;
    match exit?.code {
        0 => Ok(()),
        code => Err(Error::internal(format!("its program ended with {code}"))),
    }
}

//! From the description of a VM to a guest whose agent has answered and whose network is as its namespace's.

use std::{sync::Arc, time::Instant};

use protocols::guest::AGENT_PORT;
use tokio::sync::Mutex;

use super::{Running, Sandbox, lock, monitor, phase};
use crate::{
    agent::AgentClient,
    error::{Context, Error, Result},
    network::{Ground, Settings},
    vm::{Vm, VmSize, VmSpec},
};

/// A VM whose agent has answered.
pub(super) struct Started {
    pub vm: Arc<dyn Vm>,
    pub agent: Arc<AgentClient>,
    pub size: VmSize,
}

impl Sandbox {
    /// Everything from a description to a guest that has its network.
    pub(super) async fn boot(&self) -> Result<Running> {
        let spec = lock(&self.vm_spec).take();
        let mut spec = spec.ok_or_else(|| Error::precondition("the sandbox was started already"))?;
        let began = Instant::now();
        let settings = Settings {
            model: self.setup.config.runtime.internetworking_model,
            queues: spec.size.vcpus,
            ledger: self.ledger.clone(),
        };
        let mut ground = Ground::prepare(settings, &spec.network).await.context("network")?;
        spec.nics = ground.nics();
        phase("network-prepare", began);
        let (joined, started) = tokio::join!(ground.join(), self.boot_vm(spec));
        let Started { vm, agent, size } = started?;
        let began = Instant::now();
        let followed = async {
            joined?;
            ground.follow(vm.clone(), agent.clone()).await
        };
        match followed.await.context("network") {
            Ok(network) => {
                phase("network-settle", began);
                Ok(Running { vm, agent, network, size: Mutex::new(size) })
            }
            Err(error) => {
                if let Err(error) = vm.stop().await {
                    tracing::warn!(%error, "the VM of a failed start does not end");
                }
                Err(error)
            }
        }
    }

    async fn boot_vm(&self, spec: VmSpec) -> Result<Started> {
        if let Some(started) = self.clone_vm(&spec).await? {
            return Ok(started);
        }
        let (began, size) = (Instant::now(), spec.size);
        self.share.serve().await?;
        let vm =
            self.setup.hypervisor.boot(spec, &self.ledger).await.map_err(|error| self.blame_daemon(error))?;
        phase("vm-start", began);
        let began = Instant::now();
        let agent = AgentClient::connect(vm.agent_address(), &self.setup.config.agent);
        match self.greet(&*vm, agent).await {
            Ok(agent) => {
                phase("guest-boot", began);
                Ok(Started { vm, agent: Arc::new(agent), size })
            }
            Err(error) => {
                if let Err(error) = vm.stop().await {
                    tracing::warn!(%error, "the VM of a failed start does not end");
                }
                Err(error)
            }
        }
    }

    /// A VM that does not start because its share's daemon has died says so badly; the daemon's own words say it well.
    fn blame_daemon(&self, error: Error) -> Error {
        match self.share.daemon() {
            Some(daemon) if daemon.exited().borrow().is_some() => error.context(daemon.epitaph()),
            _ => error,
        }
    }

    /// Makes the sandbox in the guest as soon as its agent is reached; does not go on waiting for a VM that has ended.
    pub(super) async fn greet(
        &self,
        vm: &dyn Vm,
        agent: impl Future<Output = Result<AgentClient>>,
    ) -> Result<AgentClient> {
        self.store.update(|record| {
            record.hypervisor_state.pid = vm.pid();
            record.hypervisor_state.virtiofs_daemon_pid =
                self.share.daemon().map_or(0, |daemon| daemon.pid());
            record.agent_state.url = format!("{}:{}", vm.agent_address(), AGENT_PORT);
            record.state = "running".into();
        })?;
        let greeting = async {
            let agent = agent.await?;
            agent.create_sandbox(&self.guest_sandbox()).await?;
            Ok(agent)
        };
        let daemon = self.share.daemon().map(|daemon| daemon.exited());
        tokio::select! {
            agent = greeting => agent,
            reason = monitor::first_end(vm.exited(), daemon) => {
                Err(self.blame_daemon(Error::unavailable(format!("the VM ended while it booted: {reason}"))))
            }
        }
    }
}

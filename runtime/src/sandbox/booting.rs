//! From the description of a VM to a guest whose agent has answered and whose network follows its namespace's.

use std::{
    future::pending,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use protocols::guest::AGENT_PORT;
use tokio::{sync::Mutex, time::timeout};

use super::{Running, Sandbox, disks::Disks, lock, monitor, phase};
use crate::{
    agent::AgentClient,
    error::{Context, Error, ErrorKind, Result},
    network::{Ground, Settings},
    ports::{Forward, Names},
    vm::{NetworkNamespace, Vm, VmExit, VmSize, VmSpec},
};

/// When the VM's end is why its agent does not answer, the end is known by then.
const NEWS_OF_DEATH: Duration = Duration::from_secs(1);

/// A VM whose agent has answered.
pub(super) struct Started {
    pub vm: Arc<dyn Vm>,
    pub agent: Arc<AgentClient>,
    pub size: VmSize,
}

impl Sandbox {
    /// Everything from a description to a guest that is about to have its network.
    pub(super) async fn boot(&self) -> Result<Running> {
        let spec = lock(&self.vm_spec).take();
        let mut spec = spec.ok_or_else(|| Error::precondition("the sandbox was started already"))?;
        let began = Instant::now();
        let settings = Settings {
            model: self.setup.config.runtime.internetworking_model,
            queues: spec.size.vcpus,
            ledger: self.ledger.clone(),
            store: self.store.clone(),
        };
        let namespace = match &spec.network {
            NetworkNamespace::Path(path) if self.is_pod => Some(path.clone()),
            _ => None,
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
                phase("network-follow", began);
                let ports = namespace.map(|namespace| Forward::begin(namespace, agent.clone()));
                let disks = Disks::new(vm.clone());
                Ok(Running {
                    vm,
                    agent,
                    network,
                    ports,
                    names: Names::default(),
                    disks,
                    size: Mutex::new(size),
                })
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
        let vm = match self.setup.hypervisor.boot(spec, &self.ledger).await {
            Ok(vm) => vm,
            Err(error) => return Err(self.blame_share(error).await),
        };
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

    /// A VM that does not start because its share is not served says so badly; the share's own words say it well.
    async fn blame_share(&self, error: Error) -> Error {
        match self.share.failure().await {
            Some(why) => error.context(why),
            None => error,
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
            Ok::<_, Error>(agent)
        };
        let daemon = self.share.daemon();
        let mut ended = pin!(monitor::first_end(vm.exited(), daemon, pending()));
        let error = tokio::select! {
            agent = greeting => match agent {
                Ok(agent) => return Ok(agent),
                Err(error) if error.kind() == ErrorKind::DeadlineExceeded => return Err(error),
                Err(error) => error,
            },
            exit = &mut ended => return Err(self.ended_early(&exit).await),
        };
        // The end of the VM may be what broke the conversation, and is known a moment later.
        match timeout(NEWS_OF_DEATH, ended).await {
            Ok(exit) => Err(self.ended_early(&exit).await),
            Err(_) => Err(error),
        }
    }

    async fn ended_early(&self, VmExit { reason, .. }: &VmExit) -> Error {
        self.blame_share(Error::unavailable(format!("the VM ended while it booted: {reason}"))).await
    }
}

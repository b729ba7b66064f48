//! One VM, its agent connection, its share and its containers. Does not know who asks.

mod accident;
mod boot;
mod booting;
mod cloning;
mod debug_socket;
mod disks;
mod grouping;
mod guest;
mod health;
mod members;
mod monitor;
mod oom;
mod precedence;
mod reserve;
mod resize;
mod shared_memory;
mod stats;

use std::{
    collections::HashMap,
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex as SyncMutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tokio::{
    sync::{Mutex, OnceCell},
    task::{JoinHandle, spawn_blocking},
};

use crate::{
    agent::AgentClient,
    bundle::{Bundle, Role},
    config::Config,
    container::{Container, sizing::Workload},
    error::{Context, Error, Result},
    events::{self, Event},
    ids::SandboxId,
    ledger::{Ledger, Resource},
    network::Network,
    paths::Paths,
    ports::{Forward, Names, resolv_conf},
    process::Status,
    share_fs::ShareFs,
    state::{ProcessId, Record, StateStore},
    vm::{Hypervisor, Journal, NetworkNamespace, Vm, VmExit, VmSize, VmSpec},
};

pub use debug_socket::{Wanted, connect as connect_debug};
use disks::Disks;
pub use members::CreateContainer;

/// How a process ended that went with its VM: as if it had been killed, 128 + SIGKILL.
pub const KILLED: u32 = 137;

/// What a sandbox is made from.
pub struct Setup {
    pub id: SandboxId,
    pub config: Config,
    pub hypervisor: Arc<dyn Hypervisor>,
    pub paths: Paths,
    pub events: events::Sender,
}

/// A sandbox that this process owns.
pub struct Sandbox {
    setup: Setup,
    store: Arc<StateStore>,
    ledger: Ledger,
    share: ShareFs,
    identity: SyncMutex<Identity>,
    /// Whether the guest stands still, and hears nobody.
    resting: AtomicBool,
    vm_spec: SyncMutex<Option<VmSpec>>,
    journal: Journal,
    /// Whether a kubelet may ask for its ports.
    is_pod: bool,
    running: OnceLock<Running>,
    /// `None` while a container of that name is being created or deleted.
    containers: SyncMutex<HashMap<String, Option<Arc<Container>>>>,
    monitor: SyncMutex<Option<JoinHandle<()>>>,
    /// The lowest that a container asked for.
    oom_score: SyncMutex<Option<i32>>,
    /// Serves those who look into it, from its start on.
    debug: SyncMutex<Option<JoinHandle<()>>>,
    /// Listens for kills for want of memory, from the first container on.
    oom_listener: SyncMutex<Option<JoinHandle<()>>>,
    stopped: OnceCell<()>,
    /// What it died of.
    obituary: OnceLock<String>,
    /// Only one stop at a time walks the ledger.
    stopping: Mutex<()>,
}

/// Whose sandbox this is. One that was started before it was wanted learns it later.
#[derive(Debug, Clone)]
struct Identity {
    id: SandboxId,
    /// The guest's host name: the first container's, or the host's, as without a VM.
    hostname: String,
    /// The file that tells its container which name servers there are.
    resolv_conf: Option<PathBuf>,
    /// How much there is of the pod's shared memory.
    shm_bytes: u64,
    /// What the first container sets for the pod.
    sysctls: HashMap<String, String>,
    /// What a pod's containers will ask for together.
    announced: Workload,
}

impl Identity {
    fn of(id: &SandboxId, bundle: &Bundle) -> Self {
        Self {
            id: id.clone(),
            hostname: boot::hostname(bundle),
            resolv_conf: resolv_conf(bundle),
            shm_bytes: shared_memory::bytes(bundle),
            sysctls: bundle.pods_sysctls(),
            announced: Workload::announced(bundle),
        }
    }
}

/// What there is once the VM runs.
struct Running {
    vm: Arc<dyn Vm>,
    agent: Arc<AgentClient>,
    network: Network,
    /// A pod's.
    ports: Option<Forward>,
    names: Names,
    disks: Disks,
    /// As it is by now.
    size: Mutex<VmSize>,
}

impl Running {
    /// Of the network namespace: its owner may be waiting for that.
    fn let_go(&self) {
        self.network.close();
        if let Some(ports) = &self.ports {
            ports.close();
        }
        self.names.close();
    }
}

impl Sandbox {
    /// Claims the sandbox's name and readies the host for its VM. On failure nothing is left.
    pub async fn create(setup: Setup, bundle: &Bundle) -> Result<Arc<Self>> {
        let began = Instant::now();
        let record = Record { ..Record::new(setup.id.as_str(), ProcessId::of(std::process::id())?) };
        let store = Arc::new(StateStore::create(&setup.paths.sandbox(&setup.id), record)?);
        let ledger = Ledger::new(store.clone());
        let prepared = async {
            grouping::group(&setup.config, bundle, vec![std::process::id()], &ledger).await?;
            grouping::house(&setup.id, &ledger)?;
            let vm_dir = setup.paths.vm(&setup.id);
            make_vm_dir(&vm_dir, &ledger)?;
            let share_paths = setup.paths.share(&setup.id);
            let share = ShareFs::create(&setup.config.hypervisor, share_paths, &vm_dir, &ledger)?;
            let spec = boot::vm_spec(&setup.config, &setup.id, bundle, &share, vm_dir, boot::Host::look());
            store.update(|record| describe(record, &setup, &spec))?;
            Ok::<_, Error>((share, spec))
        };
        let (share, spec) = match prepared.await {
            Ok(prepared) => prepared,
            Err(error) => {
                release(&ledger, &store).await;
                return Err(error.context(format!("create sandbox {}", setup.id)));
            }
        };
        phase("sandbox-create", began);
        Ok(Arc::new(Self {
            identity: SyncMutex::new(Identity::of(&setup.id, bundle)),
            resting: AtomicBool::new(false),
            setup,
            store,
            ledger,
            share,
            journal: spec.journal.clone(),
            vm_spec: SyncMutex::new(Some(spec)),
            is_pod: bundle.role == Role::PodSandbox,
            running: OnceLock::new(),
            containers: SyncMutex::default(),
            monitor: SyncMutex::default(),
            oom_score: SyncMutex::default(),
            debug: SyncMutex::default(),
            oom_listener: SyncMutex::default(),
            stopped: OnceCell::new(),
            obituary: OnceLock::new(),
            stopping: Mutex::default(),
        }))
    }

    /// Boots the VM and makes the sandbox in the guest. On failure everything is released.
    pub async fn start(self: &Arc<Self>) -> Result<()> {
        match self.boot().await {
            Ok(running) => {
                let (exited, agent) = (running.vm.exited(), running.agent.clone());
                if self.running.set(running).is_err() {
                    return Err(Error::precondition(format!("sandbox {} was started already", self.id())));
                }
                let daemon = self.share.daemon();
                let sandbox = Arc::downgrade(self);
                let rests = {
                    let sandbox = sandbox.clone();
                    move || sandbox.upgrade().is_none_or(|sandbox| sandbox.resting.load(Ordering::Relaxed))
                };
                let silence = health::silence(agent, rests);
                *lock(&self.monitor) = Some(tokio::spawn(async move {
                    let exit = monitor::first_end(exited, daemon, silence).await;
                    if let Some(sandbox) = sandbox.upgrade() {
                        sandbox.guest_died(&exit).await;
                    }
                }));
                self.serve_debug();
                Ok(())
            }
            Err(error) => {
                self.report_failed_start(&error).await;
                if let Err(error) = self.stop().await {
                    tracing::warn!(%error, "a failed start leaves something behind");
                }
                Err(error.context(format!("start sandbox {}", self.id())))
            }
        }
    }

    pub fn id(&self) -> SandboxId {
        lock(&self.identity).id.clone()
    }

    /// What it was made from.
    pub fn config(&self) -> &Config {
        &self.setup.config
    }

    /// The processes of this sandbox: its owner and those that it started.
    pub fn processes(&self) -> Vec<u32> {
        let claims = self.store.record().own.ledger;
        let started = claims.iter().filter_map(|claim| match claim {
            Resource::Process { id, .. } => Some(id.pid),
            _ => None,
        });
        [std::process::id()].into_iter().chain(started).collect()
    }

    /// Returns when the VM has ended; at once if it was not started.
    pub async fn ended(&self) {
        if let Some(running) = self.running.get() {
            let _ = running.vm.exited().wait_for(Option::is_some).await; // An error is an end as well.
        }
    }

    /// The hypervisor's process; 0 before the VM runs.
    pub fn pid(&self) -> u32 {
        self.running.get().map_or(0, |running| running.vm.pid())
    }

    pub fn is_empty(&self) -> bool {
        lock(&self.containers).is_empty()
    }

    /// Whether there are containers, and each has ended.
    pub fn is_over(&self) -> bool {
        let containers = lock(&self.containers);
        let ended = |container: &Option<Arc<Container>>| {
            container.as_ref().is_some_and(|container| container.status() == Status::Stopped)
        };
        !containers.is_empty() && containers.values().all(ended)
    }

    /// Ends the VM with whatever still runs in it, which is told to have been killed, and gives everything back.
    pub async fn end(&self) -> Result<()> {
        for container in lock(&self.containers).values().flatten() {
            container.guest_died(KILLED);
        }
        self.stop().await
    }

    /// Ends the VM and gives everything back. Idempotent; a second caller waits for the first.
    pub async fn stop(&self) -> Result<()> {
        let _one = self.stopping.lock().await;
        if self.stopped.initialized() {
            return Ok(());
        }
        let began = Instant::now();
        for watch in [&self.monitor, &self.oom_listener, &self.debug] {
            if let Some(watch) = lock(watch).take() {
                watch.abort();
            }
        }
        if let Some(running) = self.running.get() {
            running.let_go();
            // Takes the kernel as long as the VM's end, and can go on beside it. What fails is tried again below.
            let ledger = self.ledger.clone();
            let filters = spawn_blocking(move || {
                ledger.release_those(|claim| matches!(claim, Resource::Ingress { .. }))
            });
            let resting = self.resting.load(Ordering::Relaxed);
            if running.vm.exited().borrow().is_none() && !resting {
                running.agent.destroy_sandbox().await;
            }
            if let Err(error) = running.vm.stop().await {
                // The ledger knows the process too and ends it by force.
                tracing::warn!(%error, "the VM does not end");
            }
            if let Ok(Err(error)) = filters.await {
                tracing::debug!(%error, "filters are not released yet");
            }
        }
        if let Some(daemon) = self.share.daemon()
            && let Err(error) = daemon.end(std::time::Duration::ZERO).await
        {
            tracing::warn!(%error, "the share's daemon does not end");
        }
        let (ledger, store) = (self.ledger.clone(), self.store.clone());
        spawn_blocking(move || ledger.release_all().and_then(|()| store.remove()))
            .await
            .map_err(|error| Error::internal(error.to_string()))?
            .with_context(|| format!("stop sandbox {}", self.id()))?;
        let _ = self.stopped.set(());
        phase("sandbox-stop", began);
        Ok(())
    }

    /// The VM, or what its files come from, has ended by itself: so has all that ran in it.
    async fn guest_died(&self, VmExit { reason, wanted_memory }: &VmExit) {
        // Before anybody hears of it: once a container has ended, all may be taken away.
        self.report_accident(reason).await;
        if let Some(running) = self.running.get() {
            running.let_go();
            if let Err(error) = running.vm.stop().await {
                tracing::warn!(%error, "the VM does not end");
            }
        }
        for container in lock(&self.containers).values().flatten() {
            if *wanted_memory && container.status() != Status::Stopped {
                container.ran_out_of_memory(None);
            }
            container.guest_died(KILLED);
        }
    }

    fn running(&self) -> Result<&Running> {
        let running = self.running.get();
        running
            .filter(|running| running.vm.exited().borrow().is_none() && !self.stopped.initialized())
            .ok_or_else(|| self.not_running())
    }

    fn tell(&self, event: Event) {
        let _ = self.setup.events.send(event); // Nobody may be listening any more.
    }
}

/// Makes the VM's directory, whose contents all belong to the VM.
fn make_vm_dir(dir: &Path, ledger: &Ledger) -> Result<()> {
    let make = || format!("create {}", dir.display());
    if let Some(parent) = dir.parent() {
        DirBuilder::new().recursive(true).mode(0o711).create(parent).with_context(make)?;
    }
    ledger.claim(Resource::Tree { path: dir.into() })?;
    DirBuilder::new().mode(0o700).create(dir).with_context(make)
}

/// What outsiders read of the sandbox.
fn describe(record: &mut Record, setup: &Setup, spec: &VmSpec) {
    record.own.config_path = setup.config.path.clone();
    record.hypervisor_state.kind = setup.config.hypervisor_name().into();
    record.config.hypervisor_type = setup.config.hypervisor_name().into();
    if let NetworkNamespace::Path(path) = &spec.network {
        record.network.network_id = path.display().to_string();
    }
}

/// Gives back what a failed create claimed.
async fn release(ledger: &Ledger, store: &Arc<StateStore>) {
    let (ledger, store) = (ledger.clone(), store.clone());
    let released = spawn_blocking(move || ledger.release_all().and_then(|()| store.remove())).await;
    if let Ok(Err(error)) = released {
        tracing::warn!(%error, "a failed create leaves something behind; `delete` tries again");
    }
}

/// Where the time of a start goes, for people and for the bench.
fn phase(name: &str, began: Instant) {
    tracing::debug!(phase = name, ms = began.elapsed().as_secs_f64() * 1e3, "phase");
}

fn lock<T>(mutex: &SyncMutex<T>) -> MutexGuard<'_, T> {
    // Maps and options that every user leaves whole: a panic elsewhere is no reason to stop here.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

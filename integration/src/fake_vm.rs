//! A hypervisor whose VM is the agent, served in this process; containers run as plain children of the test. All of the
//! engine runs for real, and the VM can be told to refuse, to stay silent, or to die.

use std::{
    collections::HashSet,
    fs::File,
    future::pending,
    io,
    path::PathBuf,
    process::ExitStatus,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use agent::{Guest, GuestConfig, Isolation};
use async_trait::async_trait;
use futures::stream;
use protocols::guest::STREAM_PORT;
use runtime::{
    child::{Child, Launch},
    error::{Context, Error, Result},
    fault::{
        self, Side,
        plan::{GuestFault, for_guest},
    },
    ledger::Ledger,
    vm::{AgentAddr, Disk, Hypervisor, MiB, Nic, Vm, VmExit, VmSpec},
};
use tokio::{
    net::UnixListener,
    sync::watch,
    task::{AbortHandle, spawn},
};
use ttrpc::{
    r#async::{MethodHandler, TtrpcContext},
    proto::{Request, Response},
};

/// What the VM does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    Boots,
    /// The hypervisor says no.
    Refuses,
    /// Connections are taken, and nothing is ever answered.
    StaysSilent,
    /// As an agent that serves no streams on connections of their own.
    BootsWithoutStreams,
    /// The VM ends while it boots.
    DiesAtBoot,
}

/// Names of the agent's calls that are not answered.
type Stalled = watch::Sender<HashSet<&'static str>>;

/// Boots fake VMs and remembers them.
pub struct FakeHypervisor {
    behaviour: Behaviour,
    /// Whether a VM has a process of its own, which does nothing and whose end is the VM's.
    processes: bool,
    stalled: Stalled,
    vms: Mutex<Vec<Arc<FakeVm>>>,
}

impl FakeHypervisor {
    pub fn new(behaviour: Behaviour) -> Arc<Self> {
        Arc::new(Self { behaviour, processes: false, stalled: Stalled::default(), vms: Mutex::default() })
    }

    /// Its VMs have processes that can be killed.
    pub fn with_processes() -> Arc<Self> {
        let (stalled, vms) = Default::default();
        Arc::new(Self { behaviour: Behaviour::Boots, processes: true, stalled, vms })
    }

    /// From now on the agents do not answer `call`.
    pub fn stall(&self, call: &'static str) {
        self.stalled.send_if_modified(|stalled| stalled.insert(call));
    }

    /// All calls are answered, those that came meanwhile too.
    pub fn go_on(&self) {
        self.stalled.send_modify(HashSet::clear);
    }

    /// The VM that was booted last.
    pub fn vm(&self) -> Arc<FakeVm> {
        self.vms.lock().expect("no test panics inside").last().expect("a VM was booted").clone()
    }
}

#[async_trait]
impl Hypervisor for FakeHypervisor {
    async fn boot(&self, spec: VmSpec, ledger: &Ledger) -> Result<Arc<dyn Vm>> {
        if self.behaviour == Behaviour::Refuses {
            return Err(Error::unavailable("this hypervisor boots nothing"));
        }
        fault::point("vm", "boot", Side::Before)?;
        let process = match self.processes {
            true => {
                let mut launch = Launch::new("sleep");
                launch.arg("infinity");
                Some(Child::spawn("qemu", launch, ledger).await?)
            }
            false => None,
        };
        let socket = spec.dir.join("agent.sock");
        let listener = UnixListener::bind(&socket).context("bind the agent's socket")?;
        let config = GuestConfig {
            isolation: Isolation::PlainChildren,
            bundles: spec.dir.join("guest"),
            pipe_size: 0,
            hotplug_timeout: Duration::from_secs(10),
        };
        let guest = Arc::new(Guest::new(config));
        if self.behaviour != Behaviour::BootsWithoutStreams {
            let path = PathBuf::from(format!("{}.{STREAM_PORT}", socket.display()));
            let listener = UnixListener::bind(path).context("bind the socket of streams")?;
            spawn(serve_streams(listener, Arc::downgrade(&guest)));
        }
        let server =
            spawn(serve(listener, guest.clone(), self.behaviour, self.stalled.subscribe())).abort_handle();
        let vm = Arc::new(FakeVm { socket, guest, server, process, exited: watch::Sender::new(None) });
        if let Some(process) = &vm.process {
            spawn(end_with(process.exited(), Arc::downgrade(&vm)));
        }
        if self.behaviour == Behaviour::DiesAtBoot {
            vm.die("the guest's kernel panicked");
        }
        self.vms.lock().expect("no test panics inside").push(vm.clone());
        fault::point("vm", "boot", Side::After)?;
        Ok(vm)
    }

    async fn fingerprint(&self, _: &VmSpec) -> Result<Option<String>> {
        Ok(None)
    }
}

async fn serve(
    listener: UnixListener,
    guest: Arc<Guest>,
    behaviour: Behaviour,
    stalled: watch::Receiver<HashSet<&'static str>>,
) {
    if behaviour == Behaviour::StaysSilent {
        let mut kept = Vec::new();
        while let Ok(connection) = listener.accept().await {
            kept.push(connection);
        }
        return;
    }
    let connections = stream::unfold(listener, |listener| async {
        let accepted: io::Result<_> = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    let mut services = agent::services(guest.clone());
    for service in services.values_mut() {
        let methods = std::mem::take(&mut service.methods);
        let stalling =
            |(name, inner)| (String::clone(&name), Stalling { name, inner, stalled: stalled.clone() });
        let boxed = |(name, stalling)| -> (String, Box<dyn MethodHandler + Send + Sync>) {
            (name, Box::new(stalling))
        };
        service.methods = methods.into_iter().map(stalling).map(boxed).collect();
    }
    if let Err(error) = agent::serve_services(connections, &guest, services).await {
        tracing::warn!(%error, "the fake guest's agent ended");
    }
}

/// Lets a VM die when its process has ended.
async fn end_with(mut exited: watch::Receiver<Option<ExitStatus>>, vm: Weak<FakeVm>) {
    let status = exited.wait_for(Option::is_some).await.ok().and_then(|status| *status);
    if let (Some(status), Some(vm)) = (status, vm.upgrade()) {
        vm.die(&format!("qemu ended: {status}"));
    }
}

/// Ends with the guest.
async fn serve_streams(listener: UnixListener, guest: Weak<Guest>) {
    while let Ok((stream, _)) = listener.accept().await {
        let Some(guest) = guest.upgrade() else { return };
        spawn(async move { agent::streams::serve(&guest, stream).await });
    }
}

/// A call that may have to wait before it is carried out.
struct Stalling {
    name: String,
    inner: Box<dyn MethodHandler + Send + Sync>,
    stalled: watch::Receiver<HashSet<&'static str>>,
}

#[async_trait]
impl MethodHandler for Stalling {
    async fn handler(&self, context: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
        let mut stalled = self.stalled.clone();
        // An error means that the hypervisor is gone, and its test with it.
        let _ = stalled.wait_for(|stalled| !stalled.contains(self.name.as_str())).await;
        match for_guest(&self.name) {
            None => self.inner.handler(context, request).await,
            Some(GuestFault::Hang) => pending().await,
            Some(GuestFault::Error) => {
                let status = ttrpc::get_status(ttrpc::Code::INTERNAL, "the guest has had enough");
                Ok(Response { status: Some(status).into(), ..Response::new() })
            }
            Some(GuestFault::Garbage) => Ok(Response { payload: vec![0xff; 40], ..Response::new() }),
        }
    }
}

/// A fake VM.
pub struct FakeVm {
    socket: PathBuf,
    guest: Arc<Guest>,
    server: AbortHandle,
    process: Option<Child>,
    exited: watch::Sender<Option<VmExit>>,
}

impl FakeVm {
    /// Ends it without a word to anybody in it.
    pub fn die(&self, reason: &str) {
        self.server.abort();
        let _ = self.guest.destroy_sandbox(); // There may be none yet; its processes go with it.
        self.exited.send_if_modified(|exit| {
            let first = exit.is_none();
            exit.get_or_insert(VmExit { reason: reason.into(), wanted_memory: false });
            first
        });
    }
}

#[async_trait]
impl Vm for FakeVm {
    fn pid(&self) -> u32 {
        self.process.as_ref().map_or_else(std::process::id, Child::pid)
    }

    fn agent_address(&self) -> AgentAddr {
        AgentAddr::Unix { socket: self.socket.clone() }
    }

    fn exited(&self) -> watch::Receiver<Option<VmExit>> {
        self.exited.subscribe()
    }

    fn template_port(&self) -> Option<PathBuf> {
        None
    }

    async fn save(&self, _: File) -> Result<()> {
        Err(Error::unimplemented("a fake VM cannot be saved"))
    }

    async fn restore(&self, _: File) -> Result<()> {
        Err(Error::unimplemented("a fake VM cannot be restored"))
    }

    async fn pause(&self) -> Result<()> {
        Err(Error::unimplemented("a fake VM cannot stand still"))
    }

    async fn resume(&self) -> Result<()> {
        Err(Error::unimplemented("a fake VM cannot stand still"))
    }

    async fn add_memory(&self, _: MiB) -> Result<()> {
        Err(Error::unimplemented("a fake VM cannot grow"))
    }

    async fn add_network(&self, _: Nic) -> Result<()> {
        Err(Error::unimplemented("a fake VM has no network cards"))
    }

    async fn remove_network(&self, _: usize) -> Result<()> {
        Err(Error::unimplemented("a fake VM has no network cards"))
    }

    async fn connect_network(&self, _: usize, _: bool) -> Result<()> {
        Err(Error::unimplemented("a fake VM has no network cards"))
    }

    async fn add_disk(&self, _: Disk) -> Result<String> {
        Err(Error::unimplemented("a fake VM has no disks"))
    }

    async fn remove_disk(&self, _: usize) -> Result<()> {
        Err(Error::unimplemented("a fake VM has no disks"))
    }

    async fn stop(&self) -> Result<()> {
        fault::point("vm", "stop", Side::Before)?;
        self.die("stopped on request");
        if let Some(process) = &self.process {
            process.end(Duration::ZERO).await?;
        }
        fault::point("vm", "stop", Side::After)
    }
}

//! A running QEMU, from its greeting to its end.

use std::{
    fs::File,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use runtime::{
    child::Child,
    error::{Context, Error, ErrorKind, Result},
    vm::{AgentAddr, Disk, MiB, Nic, Vm, VmExit},
};
use serde_json::Value;
use tokio::{
    sync::{broadcast, watch},
    time::timeout,
};

use crate::{
    console::Console,
    device, disk, grow, network,
    ports::Ports,
    qmp::{Event, Qmp},
    save,
    watcher::Watcher,
};

/// How long QEMU may take to answer `quit`; it takes 1 ms unless its main loop is stuck.
const QUIT_DEADLINE: Duration = Duration::from_secs(2);
/// From the answer to the end of the process: it gives back the guest's memory.
const EXIT_DEADLINE: Duration = Duration::from_secs(3);
/// How long a QEMU that gave up may take to end and to say why.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Between SIGTERM and SIGKILL, for QEMU that no longer answers and for the helper.
const GRACE: Duration = Duration::from_millis(500);

/// What a fresh VM is made of.
pub(crate) struct Parts {
    pub qemu: Child,
    pub helper: Option<Child>,
    pub qmp: Qmp,
    pub events: broadcast::Receiver<Event>,
    pub console: Console,
    pub address: AgentAddr,
    /// Socket of the serial port of a template or clone.
    pub template_port: Option<PathBuf>,
    /// What is in the ports, in their order; a clone is given it when it has been restored, by `device_add`.
    pub plugged: Vec<Value>,
    /// Whether vhost-user devices may have to map the guest's memory.
    pub shared_memory: bool,
    /// Whether the host's kernel carries the packets of network cards.
    pub vhost_net: bool,
}

/// A VM under QEMU.
#[derive(Debug)]
pub(crate) struct QemuVm {
    qemu: Arc<Child>,
    helper: Option<Arc<Child>>,
    qmp: Arc<Qmp>,
    address: AgentAddr,
    template_port: Option<PathBuf>,
    plugged: Mutex<Vec<Value>>,
    shared_memory: bool,
    vhost_net: bool,
    dimms: AtomicUsize,
    ports: Ports,
    exited: watch::Receiver<Option<VmExit>>,
    /// Whether its end is our own doing.
    stopping: Arc<AtomicBool>,
}

impl QemuVm {
    /// Takes over a QEMU that has greeted, and begins to watch it.
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            qemu,
            helper,
            qmp,
            events,
            console,
            address,
            template_port,
            plugged,
            shared_memory,
            vhost_net,
        } = parts;
        let ports = Ports::new(&plugged);
        let (qemu, helper, qmp) = (Arc::new(qemu), helper.map(Arc::new), Arc::new(qmp));
        let stopping = Arc::new(AtomicBool::new(false));
        let (sender, exited) = watch::channel(None);
        let watcher =
            Watcher::new(qemu.clone(), helper.clone(), qmp.clone(), events, console, stopping.clone());
        // Ends with QEMU, whose end `stop` and `drop` see to.
        tokio::spawn(watcher.run(sender));
        Self {
            qemu,
            helper,
            qmp,
            address,
            template_port,
            plugged: Mutex::new(plugged),
            shared_memory,
            vhost_net,
            dimms: AtomicUsize::new(0),
            ports,
            exited,
            stopping,
        }
    }

    async fn end_qemu(&self) -> Result<()> {
        if self.qemu.exited().borrow().is_some() {
            return Ok(());
        }
        let answered = match timeout(QUIT_DEADLINE, self.qmp.execute(qapi_qmp::quit {})).await {
            Ok(Ok(_)) => true,
            // QEMU may be faster to hang up than to answer.
            Ok(Err(error)) => error.kind() == ErrorKind::Unavailable,
            Err(_) => false,
        };
        if answered && self.qemu.wait(EXIT_DEADLINE).await.is_ok() {
            return Ok(());
        }
        tracing::warn!(pid = self.qemu.pid(), "qemu does not quit, it is killed");
        self.qemu.end(GRACE).await
    }
}

#[async_trait]
impl Vm for QemuVm {
    fn pid(&self) -> u32 {
        self.qemu.pid()
    }

    fn agent_address(&self) -> AgentAddr {
        self.address.clone()
    }

    fn exited(&self) -> watch::Receiver<Option<VmExit>> {
        self.exited.clone()
    }

    fn template_port(&self) -> Option<PathBuf> {
        self.template_port.clone()
    }

    async fn save(&self, state: File) -> Result<()> {
        save::save(&self.qmp, state).await
    }

    async fn restore(&self, state: File) -> Result<()> {
        let devices = std::mem::take(&mut *self.plugged.lock().unwrap_or_else(PoisonError::into_inner));
        match save::restore(&self.qmp, state, devices).await {
            // QEMU ends over a state that it cannot take, and says why.
            Err(error) if self.qemu.wait(LAST_WORDS).await.is_ok() => Err(error.context(self.qemu.epitaph())),
            restored => restored,
        }
    }

    async fn pause(&self) -> Result<()> {
        self.qmp.execute(qapi_qmp::stop {}).await.map(drop)
    }

    async fn resume(&self) -> Result<()> {
        self.qmp.execute(qapi_qmp::cont {}).await.map(drop)
    }

    async fn add_memory(&self, memory: MiB) -> Result<()> {
        if memory.0 == 0 {
            return Ok(());
        }
        let number = self.dimms.fetch_add(1, Ordering::Relaxed);
        let added = grow::add_memory(&self.qmp, number, memory, self.shared_memory).await;
        added.with_context(|| format!("add {} MiB of memory", memory.0))
    }

    async fn add_network(&self, nic: Nic) -> Result<()> {
        let id = device::nic_name(nic.number);
        let port = self.ports.take(&id)?;
        let added = network::add(&self.qmp, nic, port, self.vhost_net).await;
        if added.is_err() {
            self.ports.free(&id);
        }
        added.context("add a network card")
    }

    async fn remove_network(&self, number: usize) -> Result<()> {
        network::remove(&self.qmp, number).await.context("remove a network card")?;
        self.ports.free(&device::nic_name(number));
        Ok(())
    }

    async fn add_disk(&self, disk: Disk) -> Result<String> {
        let id = device::disk_name(disk.number);
        let port = self.ports.take(&id)?;
        match disk::add(&self.qmp, &disk, port).await {
            Ok(()) => Ok(device::guest_address(port)),
            Err(error) => {
                self.ports.free(&id);
                Err(error.context("add a disk"))
            }
        }
    }

    async fn remove_disk(&self, number: usize) -> Result<()> {
        disk::remove(&self.qmp, number).await.context("remove a disk")?;
        self.ports.free(&device::disk_name(number));
        Ok(())
    }

    async fn connect_network(&self, number: usize, connected: bool) -> Result<()> {
        network::connect(&self.qmp, number, connected).await
    }

    async fn stop(&self) -> Result<()> {
        self.stopping.store(true, Ordering::Relaxed);
        let ended = self.end_qemu().await.context("stop qemu");
        if let Some(helper) = &self.helper {
            helper.end(GRACE).await.context("stop the vsock helper")?;
        }
        ended?;
        let mut exited = self.exited.clone();
        timeout(EXIT_DEADLINE, exited.wait_for(Option::is_some))
            .await
            .map_err(|_| Error::deadline("the end of qemu is not noticed"))?
            .map_err(|_| Error::internal("the watch over qemu ended"))?;
        Ok(())
    }
}

impl Drop for QemuVm {
    fn drop(&mut self) {
        if self.exited.borrow().is_none() {
            tracing::warn!(pid = self.qemu.pid(), "a VM was dropped without being stopped, it is killed");
            self.qemu.signal(nix::libc::SIGKILL);
            if let Some(helper) = &self.helper {
                helper.signal(nix::libc::SIGKILL);
            }
        }
    }
}

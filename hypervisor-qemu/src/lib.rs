//! The QEMU backend: boots a [`VmSpec`] into a QEMU process and keeps hold of it.
//!
//! QEMU is given descriptors, not paths, wherever it takes them: its QMP connection and the guest's console are socket
//! pairs, the agent's socket listens before QEMU exists. So nothing here waits for a file to appear, and nobody else
//! can reach QEMU's monitor.

#![deny(unsafe_code)]

mod accelerator;
mod agent_channel;
mod arch;
mod args;
mod arrivals;
mod commands;
mod console;
mod device;
mod disk;
mod grow;
mod kernel_parameters;
pub mod kvm;
mod network;
mod ports;
pub mod qmp;
mod save;
mod unix_socket;
mod unplug;
mod vhost_user_vsock;
mod vm;
mod watcher;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use runtime::{
    child::{Child, Launch},
    config::HypervisorConfig,
    error::{Context, Error, Result},
    ledger::Ledger,
    vm::{Boot, Hypervisor, Journal, MemoryKind, Origin, Vm, VmSpec},
};
use tokio::{net::UnixStream, sync::OnceCell, task::spawn_blocking};

use accelerator::Accelerator;
use agent_channel::AgentChannel;
use args::Inherited;
use console::Console;
use qmp::Qmp;
use vm::{Parts, QemuVm};

/// How long a QEMU that hung up may take to end and to say why.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Boots VMs with QEMU.
#[derive(Debug)]
pub struct Qemu {
    config: HypervisorConfig,
    /// What was found out about KVM is remembered here.
    kvm_verdict: PathBuf,
    accelerator: OnceCell<Accelerator>,
}

impl Qemu {
    /// A backend with these settings. `state` is an existing directory that lives until the host boots again, such as
    /// `/run/vc`; all sandboxes of the host share what is remembered there.
    pub fn new(config: HypervisorConfig, state: &Path) -> Self {
        Self { config, kvm_verdict: state.join("kvm-probe"), accelerator: OnceCell::new() }
    }

    fn vhost_net(&self) -> bool {
        !self.config.disable_vhost_net && network::vhost_works()
    }

    async fn accelerator(&self) -> Result<Accelerator> {
        let choose = || Accelerator::choose(self.config.accelerator, &self.kvm_verdict);
        self.accelerator.get_or_try_init(choose).await.copied()
    }
}

#[async_trait]
impl Hypervisor for Qemu {
    async fn boot(&self, mut spec: VmSpec, ledger: &Ledger) -> Result<Arc<dyn Vm>> {
        let accelerator = self.accelerator().await?;
        if accelerator == Accelerator::Tcg && spec.origin != Origin::Clone {
            let Boot::Kernel { parameters, .. } = &mut spec.boot;
            let clock = spawn_blocking(arch::clock_parameter).await.ok().flatten();
            // Before what the caller wants, which wins.
            parameters.splice(..0, clock);
        }
        let mut launch = Launch::new(&self.config.path);
        let daemon = &self.config.vhost_user_vsock_daemon;
        let AgentChannel { wire, address, template, helper } =
            agent_channel::prepare(&spec, daemon, &mut launch, ledger).await?;
        let template_port = template.as_ref().map(|(_, socket)| socket.clone());
        let booted = async {
            let (qmp, theirs) = unix_socket::pair()?;
            let qmp_fd = launch.pass_fd(theirs);
            let (console, theirs) = unix_socket::pair()?;
            let console_fd = launch.pass_fd(theirs);
            let memory = match &spec.memory {
                MemoryKind::File { file, .. } => {
                    let file = file.try_clone().context("the file of the memory")?;
                    Some(launch.pass_fd(file.into()))
                }
                MemoryKind::Private | MemoryKind::Shared => None,
            };
            let template = template.map(|(listener, _)| listener);
            let mut nics = Vec::new();
            for nic in &spec.nics {
                let queues = nic.queues.iter().map(|queue| queue.try_clone().map(|fd| launch.pass_fd(fd)));
                nics.push(queues.collect::<Result<_, _>>().context("a tap's descriptor")?);
            }
            let inherited = Inherited {
                qmp: qmp_fd,
                console: console_fd,
                memory,
                template,
                agent: wire,
                nics,
                vhost_net: self.vhost_net(),
            };
            launch.args(args::arguments(&spec, &self.config, accelerator, &inherited)?);
            let plugged =
                args::in_ports(&spec, &inherited)?.into_iter().map(|plugged| plugged.device).collect();
            launch.in_group().network(spec.network.clone()).heard_by(spec.journal.clone());
            tracing::debug!(command = ?launch.command_line(), "start qemu");
            let qemu = Child::spawn("qemu", launch, ledger).await?;
            Ok::<_, Error>((greet(qemu, qmp, console, spec.journal.clone()).await?, plugged))
        };
        match booted.await {
            Ok((Greeted { qemu, qmp, events, console }, plugged)) => {
                let shared_memory =
                    !matches!(spec.memory, MemoryKind::Private | MemoryKind::File { shared: false, .. });
                let parts = Parts {
                    qemu,
                    helper,
                    qmp,
                    events,
                    console,
                    address,
                    template_port,
                    plugged,
                    shared_memory,
                    vhost_net: self.vhost_net(),
                };
                Ok(Arc::new(QemuVm::new(parts)))
            }
            Err(error) => {
                if let Some(helper) = helper {
                    abandon(&helper).await;
                }
                Err(error.context(format!("boot the vm of sandbox {}", spec.id)))
            }
        }
    }

    async fn fingerprint(&self, spec: &VmSpec) -> Result<Option<String>> {
        if !arch::QUIET_MACHINE_TYPES.contains(&self.config.machine_type.as_str()) {
            return Ok(None); // What clones are given later must raise no event in the guest.
        }
        let accelerator = self.accelerator().await?;
        // Numbers of descriptors only have to be the same each time.
        let memory = matches!(spec.memory, MemoryKind::File { .. }).then_some(5);
        let inherited = Inherited {
            qmp: 3,
            console: 4,
            memory,
            template: Some(6),
            agent: None,
            nics: Vec::new(),
            vhost_net: false,
        };
        Ok(Some(args::arguments(spec, &self.config, accelerator, &inherited)?.join("\n")))
    }
}

/// A QEMU that runs its guest and obeys.
struct Greeted {
    qemu: Child,
    qmp: Qmp,
    events: tokio::sync::broadcast::Receiver<qmp::Event>,
    console: Console,
}

/// Waits until QEMU has taken up its guest; if it does not, ends it and says what it said.
async fn greet(qemu: Child, qmp: UnixStream, console: UnixStream, journal: Journal) -> Result<Greeted> {
    let console = Console::listen(console, journal);
    match Qmp::connect(qmp).await {
        Ok((qmp, events)) => Ok(Greeted { qemu, qmp, events, console }),
        Err(error) => {
            let ended = qemu.wait(LAST_WORDS).await.is_ok();
            abandon(&qemu).await;
            Err(if ended { Error::internal(qemu.epitaph()) } else { error })
        }
    }
}

/// Ends a process of a VM that is not to be. Its claim stays if it will not go, for the release walk to try again.
async fn abandon(child: &Child) {
    if let Err(error) = child.end(Duration::ZERO).await {
        tracing::warn!(%error, pid = child.pid(), "a process of a failed boot lives on");
    }
}

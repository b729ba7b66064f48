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
mod kernel_parameters;
pub mod kvm;
pub mod qmp;
mod unix_socket;
mod vhost_user_vsock;
mod vhost_vsock;
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
    error::{Error, Result},
    ledger::Ledger,
    vm::{Hypervisor, Vm, VmSpec},
};
use tokio::{net::UnixStream, sync::OnceCell};

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

    async fn accelerator(&self) -> Result<Accelerator> {
        let choose = || Accelerator::choose(self.config.accelerator, &self.kvm_verdict);
        self.accelerator.get_or_try_init(choose).await.copied()
    }
}

#[async_trait]
impl Hypervisor for Qemu {
    async fn boot(&self, spec: VmSpec, ledger: &Ledger) -> Result<Arc<dyn Vm>> {
        let accelerator = self.accelerator().await?;
        let mut launch = Launch::new(&self.config.path);
        let daemon = &self.config.vhost_user_vsock_daemon;
        let AgentChannel { wire, address, helper } =
            agent_channel::prepare(spec.channel, &spec.dir, daemon, &mut launch, ledger).await?;
        let booted = async {
            let (qmp, theirs) = unix_socket::pair()?;
            let qmp_fd = launch.pass_fd(theirs);
            let (console, theirs) = unix_socket::pair()?;
            let inherited = Inherited { qmp: qmp_fd, console: launch.pass_fd(theirs), agent: wire };
            launch.args(args::arguments(&spec, &self.config, accelerator, inherited)?);
            launch.network(spec.network.clone());
            tracing::debug!(command = ?launch.command_line(), "start qemu");
            let qemu = Child::spawn("qemu", launch, ledger).await?;
            greet(qemu, qmp, console).await
        };
        match booted.await {
            Ok(Greeted { qemu, qmp, events, console }) => {
                Ok(Arc::new(QemuVm::new(Parts { qemu, helper, qmp, events, console, address })))
            }
            Err(error) => {
                if let Some(helper) = helper {
                    abandon(&helper).await;
                }
                Err(error.context(format!("boot the vm of sandbox {}", spec.id)))
            }
        }
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
async fn greet(qemu: Child, qmp: UnixStream, console: UnixStream) -> Result<Greeted> {
    let console = Console::listen(console);
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

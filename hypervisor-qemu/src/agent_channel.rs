//! The host's side of the agent channel: what must be there before QEMU starts.

use std::path::Path;

use runtime::{
    child::{Child, Launch},
    error::{Context, Result},
    ledger::Ledger,
    vm::{AgentAddr, Channel},
};

use crate::{args::AgentWire, unix_socket, vhost_user_vsock, vhost_vsock};

/// A channel made ready: QEMU gets the wire, the engine the address.
#[derive(Debug)]
pub(crate) struct AgentChannel {
    pub wire: AgentWire,
    pub address: AgentAddr,
    /// The process that carries it, if one does.
    pub helper: Option<Child>,
}

/// Makes `channel` ready in the VM's directory and passes what QEMU needs to `qemu`.
pub(crate) async fn prepare(
    channel: Channel,
    dir: &Path,
    daemon: &Path,
    qemu: &mut Launch,
    ledger: &Ledger,
) -> Result<AgentChannel> {
    match channel {
        Channel::Serial => serial(dir, qemu),
        Channel::Vsock => vsock(qemu),
        Channel::VhostUserVsock => vhost_user(daemon, dir, qemu, ledger).await,
    }
    .context("prepare the agent channel")
}

fn serial(dir: &Path, qemu: &mut Launch) -> Result<AgentChannel> {
    let socket = unix_socket::path(dir, "agent.sock")?;
    let listener = qemu.pass_fd(unix_socket::listen(&socket)?);
    Ok(AgentChannel {
        wire: AgentWire::Serial { listener },
        address: AgentAddr::Serial { socket },
        helper: None,
    })
}

fn vsock(qemu: &mut Launch) -> Result<AgentChannel> {
    let vhost_vsock::Cid { cid, vhost } = vhost_vsock::claim_cid()?;
    let wire = AgentWire::Vsock { vhost: qemu.pass_fd(vhost), cid };
    Ok(AgentChannel { wire, address: AgentAddr::Vsock { cid }, helper: None })
}

async fn vhost_user(daemon: &Path, dir: &Path, qemu: &mut Launch, ledger: &Ledger) -> Result<AgentChannel> {
    let started = vhost_user_vsock::start(daemon, dir, ledger).await?;
    Ok(AgentChannel {
        wire: AgentWire::VhostUserVsock { connection: qemu.pass_fd(started.vhost) },
        address: AgentAddr::HybridVsock { socket: started.socket },
        helper: Some(started.helper),
    })
}

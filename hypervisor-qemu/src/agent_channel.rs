//! The host's side of the agent channel: what must be there before QEMU starts.

use std::{
    os::fd::RawFd,
    path::{Path, PathBuf},
};

use runtime::{
    child::{Child, Launch},
    error::{Context, Error, Result},
    ledger::Ledger,
    vm::{AgentAddr, Channel, Origin, VmSpec, vhost_vsock},
};

use crate::{args::AgentWire, unix_socket, vhost_user_vsock};

/// A channel made ready: QEMU gets the wires, the engine the addresses.
#[derive(Debug)]
pub(crate) struct AgentChannel {
    /// What carries the agent's connections, unless it is the template's port.
    pub wire: Option<AgentWire>,
    pub address: AgentAddr,
    /// The serial port of a template or clone: the descriptor for QEMU, and where the host reaches it.
    pub template: Option<(RawFd, PathBuf)>,
    /// The process that carries it, if one does.
    pub helper: Option<Child>,
}

/// Makes the channel of `spec` ready in the VM's directory and passes what QEMU needs to `qemu`.
pub(crate) async fn prepare(
    spec: &VmSpec,
    daemon: &Path,
    qemu: &mut Launch,
    ledger: &Ledger,
) -> Result<AgentChannel> {
    let prepared = async {
        let template = match spec.origin {
            Origin::Boot => None,
            Origin::Template | Origin::Clone => Some(serial(&spec.dir, qemu)?),
        };
        let mut channel = match (spec.channel, &template) {
            (Channel::Serial, Some((_, socket))) => AgentChannel {
                wire: None,
                address: AgentAddr::Serial { socket: socket.clone() },
                template: None,
                helper: None,
            },
            (Channel::Serial, None) => {
                let (listener, socket) = serial(&spec.dir, qemu)?;
                AgentChannel {
                    wire: Some(AgentWire::Serial { listener }),
                    address: AgentAddr::Serial { socket },
                    template: None,
                    helper: None,
                }
            }
            (Channel::Vsock, _) => vsock(qemu)?,
            (Channel::VhostUserVsock, _) => vhost_user(daemon, &spec.dir, qemu, ledger).await?,
        };
        channel.template = template;
        Ok::<_, Error>(channel)
    };
    prepared.await.context("prepare the agent channel")
}

fn serial(dir: &Path, qemu: &mut Launch) -> Result<(RawFd, PathBuf)> {
    let socket = unix_socket::path(dir, "agent.sock")?;
    let listener = qemu.pass_fd(unix_socket::listen(&socket)?);
    Ok((listener, socket))
}

fn vsock(qemu: &mut Launch) -> Result<AgentChannel> {
    let vhost_vsock::Cid { cid, vhost } = vhost_vsock::claim_cid()?;
    let wire = AgentWire::Vsock { vhost: qemu.pass_fd(vhost), cid };
    Ok(AgentChannel { wire: Some(wire), address: AgentAddr::Vsock { cid }, template: None, helper: None })
}

async fn vhost_user(daemon: &Path, dir: &Path, qemu: &mut Launch, ledger: &Ledger) -> Result<AgentChannel> {
    let started = vhost_user_vsock::start(daemon, dir, ledger).await?;
    Ok(AgentChannel {
        wire: Some(AgentWire::VhostUserVsock { connection: qemu.pass_fd(started.vhost) }),
        address: AgentAddr::HybridVsock { socket: started.socket },
        template: None,
        helper: Some(started.helper),
    })
}

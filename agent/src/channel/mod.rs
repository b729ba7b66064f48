//! Where connections of the host come from: a vsock port, a serial port that carries many streams, or a unix socket.

mod duplex;
pub mod echo;
pub(crate) mod line;
pub mod serial;
mod serial_port;
mod vsock;

use std::fs::File;

use futures::{StreamExt, stream};
use protocols::guest::AGENT_PORT;
use tokio::net::UnixListener;
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

use crate::{
    error::{Context, Result},
    options::ServerAddress,
};
pub use duplex::{Connections, HostStream, Parking, Ports};

/// A place where the host may call. Outlives the conversations that are held there.
pub enum Source {
    Vsock { port: u32 },
    Unix { path: String },
    Serial { port: File },
}

impl Source {
    /// Readies the place; for a serial port this waits until the kernel has found it. Blocks.
    pub fn open(address: &ServerAddress) -> Result<Self> {
        Ok(match address {
            ServerAddress::Vsock { port } => Self::Vsock { port: *port },
            ServerAddress::Unix { path } => Self::Unix { path: path.clone() },
            ServerAddress::Serial { name } => Self::Serial { port: serial_port::open(name)? },
        })
    }

    /// Listens in the current runtime, on the agent's port and on `others`. Only on a serial port the agent can be asked to
    /// become a template.
    pub fn listen(&self, others: Ports, parking: Parking) -> Result<Connections> {
        match self {
            Self::Vsock { port } => {
                let others = others.iter().map(|port| (*port, *port));
                let accepted: Result<Vec<_>> = std::iter::once((AGENT_PORT, *port))
                    .chain(others)
                    .map(|(name, port)| listen_on_vsock(name, port))
                    .collect();
                Ok(Box::pin(stream::select_all(accepted?)))
            }
            Self::Unix { path } => {
                let listener = UnixListener::bind(path).context(format!("listen on {path}"))?;
                Ok(Box::pin(stream::unfold(listener, |listener| async {
                    let accepted = listener
                        .accept()
                        .await
                        .map(|(stream, _)| (AGENT_PORT, Box::new(stream) as HostStream));
                    Some((accepted, listener))
                })))
            }
            Self::Serial { port } => {
                let port = serial_port::SerialPort::new(port.try_clone().context("the serial port")?)
                    .context("the serial port")?;
                Ok(Box::pin(serial::connections(port, others, parking).map(Ok)))
            }
        }
    }
}

/// Connections to `port`, which count as connections to `name`.
fn listen_on_vsock(name: u32, port: u32) -> Result<Connections> {
    let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, port))
        .context(format!("listen on vsock port {port}"))?;
    Ok(Box::pin(stream::unfold(listener, move |listener| async move {
        let accepted = listener.accept().await;
        let accepted = accepted.map(|(stream, _)| (name, Box::new(vsock::Pieces(stream)) as HostStream));
        Some((accepted, listener))
    })))
}

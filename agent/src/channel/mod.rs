//! Where connections of the host come from: a vsock port, a serial port that carries many streams, or a unix socket.

mod duplex;
pub mod serial;
mod serial_port;
mod vsock;

use std::fs::File;

use futures::{StreamExt, stream};
use tokio::net::UnixListener;
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

use crate::{
    error::{Context, Result},
    options::ServerAddress,
};
use duplex::{Connections, HostStream, Parking};

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

    /// Listens in the current runtime. Only on a serial port the agent can be asked to become a template.
    pub fn listen(&self, parking: Parking) -> Result<Connections> {
        match self {
            Self::Vsock { port } => {
                let listener =
                    VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, *port)).context("listen on vsock")?;
                Ok(Box::pin(stream::unfold(listener, |listener| async {
                    let accepted = listener.accept().await;
                    let accepted = accepted.map(|(stream, _)| Box::new(vsock::Pieces(stream)) as HostStream);
                    Some((accepted, listener))
                })))
            }
            Self::Unix { path } => {
                let listener = UnixListener::bind(path).context(format!("listen on {path}"))?;
                Ok(Box::pin(stream::unfold(listener, |listener| async {
                    let accepted = listener.accept().await.map(|(stream, _)| Box::new(stream) as HostStream);
                    Some((accepted, listener))
                })))
            }
            Self::Serial { port } => {
                let port = serial_port::SerialPort::new(port.try_clone().context("the serial port")?)
                    .context("the serial port")?;
                Ok(Box::pin(serial::connections(port, parking).map(Ok)))
            }
        }
    }
}

//! Where connections of the host come from: a vsock port, a serial port that carries many streams, or a unix socket.

mod serial;
mod serial_port;

use std::{io, pin::Pin};

use futures::{Stream, StreamExt, stream};
use protocols::guest::AGENT_PORT;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixListener,
};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

pub use serial::connections as serial_connections;

use crate::{
    error::{Context, Result},
    options::ServerAddress,
};

/// Bytes to and from the host.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for T {}

pub type HostStream = Box<dyn Duplex>;
pub type Connections = Pin<Box<dyn Stream<Item = io::Result<HostStream>> + Send>>;

/// Listens where the host was told to call.
pub async fn listen(address: &ServerAddress) -> Result<Connections> {
    match address {
        ServerAddress::Vsock { port } => {
            let listener =
                VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, *port)).context("listen on vsock")?;
            Ok(Box::pin(stream::unfold(listener, |listener| async {
                let accepted = listener.accept().await.map(|(stream, _)| Box::new(stream) as HostStream);
                Some((accepted, listener))
            })))
        }
        ServerAddress::Unix { path } => {
            let listener = UnixListener::bind(path).context(format!("listen on {path}"))?;
            Ok(Box::pin(stream::unfold(listener, |listener| async {
                let accepted = listener.accept().await.map(|(stream, _)| Box::new(stream) as HostStream);
                Some((accepted, listener))
            })))
        }
        ServerAddress::Serial { name } => {
            let port = serial_port::open(name).await?;
            Ok(Box::pin(serial_connections(port, AGENT_PORT).map(Ok)))
        }
    }
}

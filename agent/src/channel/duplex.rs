//! What every kind of channel deals in.

use std::{io, pin::Pin, sync::Arc};

use futures::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

/// Bytes to and from the host.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for T {}

pub type HostStream = Box<dyn Duplex>;
/// Each with the port that the host asked for.
pub type Connections = Pin<Box<dyn Stream<Item = io::Result<(u32, HostStream)>> + Send>>;

/// Those that are served beside the agent's own.
pub type Ports = Arc<[u32]>;

/// Takes the line with which the host asks the agent to become a template.
pub type Parking = watch::Sender<Option<String>>;

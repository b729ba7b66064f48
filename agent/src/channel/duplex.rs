//! What every kind of channel deals in.

use std::{io, pin::Pin};

use futures::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

/// Bytes to and from the host.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for T {}

pub type HostStream = Box<dyn Duplex>;
pub type Connections = Pin<Box<dyn Stream<Item = io::Result<HostStream>> + Send>>;

/// Takes the line with which the host asks the agent to become a template.
pub type Parking = watch::Sender<Option<String>>;

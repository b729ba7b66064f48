//! `kata-agent`: the guest's supervisor. Containers, processes, streams and storages, as the host asks for them.
//!
//! No globals: one process can hold many guests, which is how tests stand in for a VM.

pub mod boot;
pub mod channel;
mod clock_and_entropy;
pub mod container;
mod cpus;
mod debug_console;
mod dial;
mod disks;
pub mod error;
mod file_watch;
mod guest;
pub mod modules;
mod names;
mod namespaces;
mod network;
pub mod options;
mod pci;
pub mod ports;
mod process;
pub mod reaper;
mod rpc;
mod safe_path;
mod stdio;
mod storage;
pub mod streams;
pub mod template;

use std::{collections::HashMap, io, sync::Arc};

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use ttrpc::r#async::{Server, Service, transport::Listener};

pub use container::Isolation;
pub use guest::{Guest, GuestConfig};
pub use rpc::services;

/// Serves the agent's calls on whatever `connections` brings, until the sandbox is destroyed.
pub async fn serve<S>(
    connections: impl Stream<Item = io::Result<S>> + Send + 'static,
    guest: Arc<Guest>,
) -> ttrpc::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Sync + 'static,
{
    let services = services(guest.clone());
    serve_services(connections, &guest, services).await
}

/// The same with `services` in place of the guest's own: a test may have put something around them.
pub async fn serve_services<S>(
    connections: impl Stream<Item = io::Result<S>> + Send + 'static,
    guest: &Guest,
    services: HashMap<String, Service>,
) -> ttrpc::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Sync + 'static,
{
    let mut finished = guest.finished();
    let mut server = Server::new().add_listener(Listener::new(connections)).register_service(services);
    server.start().await?;
    // An error means that the guest is gone, which is an end as well.
    let _ = finished.wait_for(|finished| *finished).await;
    server.shutdown().await
}

//! Ports of a pod: a connection to 127.0.0.1 or ::1 in its network namespace on the host reaches the same port in the
//! guest.
//!
//! CRI's port-forward enters the namespace and dials `localhost` there, where the pod's servers would be if it were no VM.
//! What is dialled is not known beforehand, so one socket takes all, and each connection goes on over the agent's channel.
//! Only the host makes connections: the guest can answer those, and nothing else.

mod changes;
mod listening;
mod names;
mod steering;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use protocols::carry::{Side, carry};
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use crate::{
    agent::AgentClient,
    error::{ErrorKind, Result},
    netlink::Namespace,
};

use listening::Listening;
pub(crate) use names::{Names, resolv_conf};

/// Connections at a time; more wait to be accepted.
const MOST: usize = 256;
/// After an error of accept that is not the connection's: descriptors are short.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes connections until it is dropped.
pub(crate) struct Forward {
    task: JoinHandle<()>,
}

impl Forward {
    /// Begins in the background: nothing of a start waits for it.
    pub fn begin(namespace: PathBuf, agent: Arc<AgentClient>) -> Self {
        Self { task: tokio::spawn(run(namespace, agent)) }
    }

    /// Ends every connection, and lets go of the namespace.
    pub fn close(&self) {
        self.task.abort();
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.close();
    }
}

async fn run(namespace: PathBuf, agent: Arc<AgentClient>) {
    let listening = match listen(namespace).await {
        Ok(Some(listening)) => listening,
        Ok(None) => return,
        Err(error) => {
            tracing::warn!(%error, "no port is forwarded from the network namespace's loopback to the guest");
            return;
        }
    };
    let (places, served) = (Arc::new(Semaphore::new(MOST)), Arc::new(AtomicBool::new(true)));
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let socket = loop {
            tokio::select! {
                accepted = listening.accept() => match accepted {
                    Ok(socket) => break socket,
                    Err(error) => {
                        tracing::debug!(%error, "a connection was not accepted");
                        sleep(PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {} // It has said what there is to say.
            }
        };
        let (agent, served) = (agent.clone(), served.clone());
        connections.spawn(async move {
            forward(socket, &agent, &served).await;
            drop(place);
        });
    }
}

/// `None` in the namespace that is the host's own, where nothing is taken.
async fn listen(path: PathBuf) -> Result<Option<Listening>> {
    let namespace = Namespace::open(&path)?;
    if namespace.is_our_own()? {
        return Ok(None);
    }
    Listening::in_namespace(&namespace).await.map(Some)
}

async fn forward(mut socket: TcpStream, agent: &AgentClient, served: &AtomicBool) {
    if let Err((port, error)) = carry_on(&mut socket, agent, served).await {
        tracing::debug!(port, %error, "a forwarded connection ends early");
        let _ = socket.set_zero_linger(); // A reset: nobody was there, or it broke.
    }
}

async fn carry_on(
    socket: &mut TcpStream,
    agent: &AgentClient,
    served: &AtomicBool,
) -> Result<(), (u16, String)> {
    let fault = |error: io::Error| (0, error.to_string());
    let port = socket.local_addr().map_err(fault)?.port();
    let channel = agent.connect_port(port).await.map_err(|error| {
        if error.kind() == ErrorKind::Unimplemented && served.swap(false, Ordering::Relaxed) {
            tracing::warn!(%error, "no port is forwarded to this guest");
        }
        (port, error.to_string())
    })?;
    let _ = socket.set_nodelay(true); // Without it, it is slower.
    carry(channel, socket, Side::Host).await.map_err(|error| (port, error.to_string()))
}

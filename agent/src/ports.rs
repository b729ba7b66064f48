//! What is served where: the agent's calls on its own port, and raw bytes on others.

use std::{io, sync::Arc};

use futures::{Stream, StreamExt, stream};
use protocols::guest::STREAM_PORT;
use tokio::task::JoinSet;

use crate::{
    Guest,
    channel::{Connections, HostStream, Ports, echo},
    streams,
};

/// The ports beside the agent's own; `echo` is the one for tests and the bench of the channel.
pub fn beside(echo: Option<u32>) -> Ports {
    std::iter::once(STREAM_PORT).chain(echo).collect()
}

/// Serves the connections to the ports [`beside`] the agent's own; yields the others.
pub fn serve_beside(
    connections: Connections,
    guest: Arc<Guest>,
    echo: Option<u32>,
) -> impl Stream<Item = io::Result<HostStream>> + Send {
    stream::unfold((connections, JoinSet::new()), move |(mut connections, mut served)| {
        let guest = guest.clone();
        async move {
            loop {
                tokio::select! {
                    connection = connections.next() => match connection? {
                        Ok((STREAM_PORT, stream)) => {
                            let guest = guest.clone();
                            served.spawn(async move { streams::serve(&guest, stream).await });
                        }
                        Ok((port, stream)) if Some(port) == echo => drop(served.spawn(echo::serve(stream))),
                        other => return Some((other.map(|(_, stream)| stream), (connections, served))),
                    },
                    Some(ended) = served.join_next() => {
                        if let Ok(Err(error)) = ended {
                            tracing::debug!(%error, "a stream ended");
                        }
                    }
                }
            }
        }
    })
}

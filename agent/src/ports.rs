//! What is served where: the agent's calls on its own port, and raw bytes on others.

use std::{io, sync::Arc};

use futures::{Stream, StreamExt, stream};
use protocols::guest::{PORT_CONNECT, PORT_HELLO, PORT_NAMES, PORT_PORT, STREAM_PORT};
use tokio::task::JoinSet;

use crate::{
    Guest,
    channel::{Connections, HostStream, Ports, echo, line::read_line},
    debug_console, dial, names,
    options::Options,
    streams,
};

/// The ports beside the agent's own.
pub fn beside(options: &Options) -> Ports {
    [STREAM_PORT, PORT_PORT].into_iter().chain(options.echo_port).chain(options.debug_console_port).collect()
}

/// Serves the connections to the ports [`beside`] the agent's own; yields the others.
pub fn serve_beside(
    connections: Connections,
    guest: Arc<Guest>,
    options: &Options,
) -> impl Stream<Item = io::Result<HostStream>> + Send + use<> {
    let (echo, debug) = (options.echo_port, options.debug_console_port);
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
                        Ok((PORT_PORT, stream)) => drop(served.spawn(serve_asked(stream))),
                        Ok((port, stream)) if Some(port) == echo => drop(served.spawn(echo::serve(stream))),
                        Ok((port, stream)) if Some(port) == debug => {
                            drop(served.spawn(debug_console::serve(stream)));
                        }
                        other => return Some((other.map(|(_, stream)| stream), (connections, served))),
                    },
                    Some(ended) = served.join_next() => {
                        if let Ok(Err(error)) = ended {
                            tracing::debug!(%error, "a connection ended");
                        }
                    }
                }
            }
        }
    })
}

/// What the first line of a connection to [`PORT_PORT`] asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Connect(u16),
    Names,
}

async fn serve_asked(mut stream: HostStream) -> io::Result<()> {
    let line = read_line(&mut stream).await?;
    match parse(&line) {
        Some(Asked::Connect(port)) => dial::serve(stream, port).await,
        Some(Asked::Names) => names::serve(stream).await,
        None => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{line:?} asks for nothing that is served"),
        )),
    }
}

fn parse(line: &str) -> Option<Asked> {
    let words: Vec<_> = line.split(' ').collect();
    match words[..] {
        [PORT_HELLO, PORT_CONNECT, port] => port.parse().ok().map(Asked::Connect),
        [PORT_HELLO, PORT_NAMES] => Some(Asked::Names),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_asks_for_one_thing_and_nothing_else() {
        assert_eq!(parse("kata-port-1 connect 80"), Some(Asked::Connect(80)));
        assert_eq!(parse("kata-port-1 names"), Some(Asked::Names));
        for line in [
            "",
            "kata-port-1",
            "kata-port-1 connect",
            "kata-port-1 connect 65536",
            "kata-port-1 connect -1",
            "kata-port-1 connect 80 81",
            "kata-port-1 names 80",
            "kata-port-1 listen 80",
            "kata-stream-1 connect 80",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}

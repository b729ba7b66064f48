//! Conversations with the host over one byte stream.
//!
//! A conversation begins with the host's hello, a line with a nonce, which the guest gives back; then both sides speak
//! yamux, the guest as server. Each stream begins with a line `CONNECT <port>`, answered by `OK <port>`. When a
//! conversation breaks, the guest waits for the next hello. A host that comes back at once may do so unnoticed: then it is
//! its hello, read as a frame, that breaks the old conversation. See `protocols::guest::SERIAL_HELLO`.

use std::{future::poll_fn, io, sync::Arc, task::ready};

use futures::Stream;
use protocols::guest::{AGENT_PORT, SERIAL_HELLO, TEMPLATE_BECOME};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::{Mutex, mpsc},
};
use tokio_util::compat::{FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use yamux::{Config, Connection, Mode};

use super::{
    duplex::{HostStream, Parking, Ports},
    line::read_line,
};

/// The windows of all streams together, as on the host's side.
const WINDOW: usize = 64 << 20;
const STREAMS: usize = 4096;
const FRAME: usize = 64 << 10;
/// More than of a hello can have been read as a frame.
const RECENT: usize = 64;

/// The connections that the host makes over `port`, for as long as anybody takes them: to the agent's port and to
/// `others`.
pub fn connections<P>(
    port: P,
    others: Ports,
    parking: Parking,
) -> impl Stream<Item = (u32, HostStream)> + Send
where
    P: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(converse(port, others, parking, sender));
    futures::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|stream| (stream, receiver))
    })
}

/// One conversation after the other.
async fn converse<P>(port: P, others: Ports, parking: Parking, connections: mpsc::Sender<(u32, HostStream)>)
where
    P: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    // yamux takes its stream away with it when a conversation ends, so it gets a handle on the port.
    let port = Arc::new(Mutex::new(Port { port, recent: Vec::new() }));
    while !connections.is_closed() {
        let handle = SharedPort(port.clone());
        if let Err(error) = conversation(handle, &others, &parking, &connections).await {
            tracing::debug!(%error, "the conversation with the host ended");
        }
    }
}

async fn conversation<P>(
    mut port: SharedPort<P>,
    others: &Ports,
    parking: &Parking,
    connections: &mpsc::Sender<(u32, HostStream)>,
) -> io::Result<()>
where
    P: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let began = port.take_recent()?;
    greet(&mut port, &began, parking).await?;
    port.take_recent()?;
    let mut config = Config::default();
    config
        .set_max_connection_receive_window(Some(WINDOW + STREAMS * yamux::DEFAULT_CREDIT as usize))
        .set_max_num_streams(STREAMS)
        .set_split_send_size(FRAME);
    let mut connection = Connection::new(port.compat(), config, Mode::Server);
    loop {
        match poll_fn(|cx| connection.poll_next_inbound(cx)).await {
            Some(Ok(stream)) => {
                let (connections, others) = (connections.clone(), others.clone());
                tokio::spawn(async move {
                    match admit(stream.compat(), &others).await {
                        // Nobody takes connections any more: the agent is about to end.
                        Ok((port, stream)) => drop(connections.send((port, Box::new(stream))).await),
                        Err(error) => tracing::debug!(%error, "a stream of the host was turned away"),
                    }
                });
            }
            Some(Err(error)) => return Err(io::Error::other(error)),
            None => return Ok(()),
        }
    }
}

/// Waits for a hello behind whatever an older conversation left, and gives it back. `began` is the end of what that one
/// has read, which may be the hello's beginning.
async fn greet(
    port: &mut (impl AsyncRead + AsyncWrite + Unpin),
    began: &str,
    parking: &Parking,
) -> io::Result<()> {
    let mut began = began;
    loop {
        let line = format!("{began}{}", read_line(port).await?);
        began = "";
        // Garbage without a newline may stand before it.
        if let Some(at) = line.find(SERIAL_HELLO) {
            port.write_all(format!("{}\n", &line[at..]).as_bytes()).await?;
            return port.flush().await;
        }
        if let Some(at) = line.find(TEMPLATE_BECOME) {
            parking.send_replace(Some(line[at..].to_owned()));
            std::future::pending().await // The agent leaves this conversation.
        }
    }
}

/// Reads the line that names a stream's port and answers it.
async fn admit<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, others: &[u32]) -> io::Result<(u32, S)> {
    let line = read_line(&mut stream).await?;
    let asked = line.strip_prefix("CONNECT ").and_then(|port| port.parse().ok());
    let Some(port) = asked.filter(|port| *port == AGENT_PORT || others.contains(port)) else {
        return Err(io::Error::new(io::ErrorKind::ConnectionRefused, format!("nothing serves {line:?}")));
    };
    stream.write_all(format!("OK {port}\n").as_bytes()).await?;
    stream.flush().await?;
    Ok((port, stream))
}

/// The port, and the end of what was read from it.
struct Port<P> {
    port: P,
    recent: Vec<u8>,
}

/// A handle on the port for one conversation. Conversations follow each other, so the lock is never contended.
struct SharedPort<P>(Arc<Mutex<Port<P>>>);

impl<P> SharedPort<P> {
    /// The end of what was read since this was last asked, after the last newline.
    fn take_recent(&self) -> io::Result<String> {
        let recent = std::mem::take(&mut self.0.try_lock().map_err(|_| busy())?.recent);
        let line = recent.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        Ok(String::from_utf8_lossy(line).into_owned())
    }
}

impl<P: AsyncRead + Unpin> AsyncRead for SharedPort<P> {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        let mut port = self.0.try_lock().map_err(|_| busy())?;
        let Port { port, recent } = &mut *port;
        let before = buffer.filled().len();
        ready!(std::pin::Pin::new(port).poll_read(cx, buffer))?;
        let read = &buffer.filled()[before..];
        recent.extend(&read[read.len().saturating_sub(RECENT)..]);
        recent.drain(..recent.len().saturating_sub(RECENT));
        std::task::Poll::Ready(Ok(()))
    }
}

impl<P: AsyncWrite + Unpin> AsyncWrite for SharedPort<P> {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        let mut port = self.0.try_lock().map_err(|_| busy())?;
        std::pin::Pin::new(&mut port.port).poll_write(cx, bytes)
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        let mut port = self.0.try_lock().map_err(|_| busy())?;
        std::pin::Pin::new(&mut port.port).poll_flush(cx)
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        // The port stays for the next conversation.
        std::task::Poll::Ready(Ok(()))
    }
}

fn busy() -> io::Error {
    io::Error::other("the serial port is in use by another conversation")
}

//! Conversations with the host over one byte stream.
//!
//! A conversation begins with the host's hello, a line with a nonce, which the guest gives back; then both sides speak
//! yamux, the guest as server. Each stream begins with a line `CONNECT <port>`, answered by `OK <port>`. When a
//! conversation breaks, the guest waits for the next hello. See `protocols::guest::SERIAL_HELLO`.

use std::{future::poll_fn, io, sync::Arc};

use futures::Stream;
use protocols::guest::{AGENT_PORT, SERIAL_HELLO, TEMPLATE_BECOME};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Mutex, mpsc},
};
use tokio_util::compat::{FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use yamux::{Config, Connection, Mode};

use super::duplex::{HostStream, Parking};

/// A line longer than this is no hello and no `CONNECT`.
const LINE_LIMIT: usize = 128;
/// The windows of all streams together, as on the host's side.
const WINDOW: usize = 64 << 20;
const STREAMS: usize = 4096;
const FRAME: usize = 64 << 10;

/// The connections that the host makes to the agent over `port`, for as long as anybody takes them.
pub fn connections<P>(port: P, parking: Parking) -> impl Stream<Item = HostStream> + Send
where
    P: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(converse(port, parking, sender));
    futures::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|stream| (stream, receiver))
    })
}

/// One conversation after the other.
async fn converse<P>(port: P, parking: Parking, connections: mpsc::Sender<HostStream>)
where
    P: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    // yamux takes its stream away with it when a conversation ends, so it gets a handle on the port.
    let port = Arc::new(Mutex::new(port));
    while !connections.is_closed() {
        let handle = SharedPort(port.clone());
        if let Err(error) = conversation(handle, &parking, &connections).await {
            tracing::debug!(%error, "the conversation with the host ended");
        }
    }
}

async fn conversation<P>(
    mut port: SharedPort<P>,
    parking: &Parking,
    connections: &mpsc::Sender<HostStream>,
) -> io::Result<()>
where
    P: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    greet(&mut port, parking).await?;
    let mut config = Config::default();
    config
        .set_max_connection_receive_window(Some(WINDOW + STREAMS * yamux::DEFAULT_CREDIT as usize))
        .set_max_num_streams(STREAMS)
        .set_split_send_size(FRAME);
    let mut connection = Connection::new(port.compat(), config, Mode::Server);
    loop {
        match poll_fn(|cx| connection.poll_next_inbound(cx)).await {
            Some(Ok(stream)) => {
                let connections = connections.clone();
                tokio::spawn(async move {
                    match admit(stream.compat()).await {
                        // Nobody takes connections any more: the agent is about to end.
                        Ok(stream) => drop(connections.send(Box::new(stream)).await),
                        Err(error) => tracing::debug!(%error, "a stream of the host was turned away"),
                    }
                });
            }
            Some(Err(error)) => return Err(io::Error::other(error)),
            None => return Ok(()),
        }
    }
}

/// Waits for a hello behind whatever an older conversation left, and gives it back.
async fn greet(port: &mut (impl AsyncRead + AsyncWrite + Unpin), parking: &Parking) -> io::Result<()> {
    loop {
        let line = read_line(port).await?;
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
async fn admit<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<S> {
    let line = read_line(&mut stream).await?;
    if line != format!("CONNECT {AGENT_PORT}") {
        return Err(io::Error::new(io::ErrorKind::ConnectionRefused, format!("nothing serves {line:?}")));
    }
    stream.write_all(format!("OK {AGENT_PORT}\n").as_bytes()).await?;
    stream.flush().await?;
    Ok(stream)
}

/// Reads up to a newline and not a byte further; of a line that is too long, its end.
async fn read_line(port: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut line = Vec::with_capacity(LINE_LIMIT);
    loop {
        match port.read_u8().await? {
            b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
            byte => line.push(byte),
        }
        if line.len() == LINE_LIMIT {
            line.drain(..LINE_LIMIT / 2);
        }
    }
}

/// A handle on the port for one conversation. Conversations follow each other, so the lock is never contended.
struct SharedPort<P>(Arc<Mutex<P>>);

impl<P: AsyncRead + Unpin> AsyncRead for SharedPort<P> {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        let mut port = self.0.try_lock().map_err(|_| busy())?;
        std::pin::Pin::new(&mut *port).poll_read(cx, buffer)
    }
}

impl<P: AsyncWrite + Unpin> AsyncWrite for SharedPort<P> {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        let mut port = self.0.try_lock().map_err(|_| busy())?;
        std::pin::Pin::new(&mut *port).poll_write(cx, bytes)
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        let mut port = self.0.try_lock().map_err(|_| busy())?;
        std::pin::Pin::new(&mut *port).poll_flush(cx)
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

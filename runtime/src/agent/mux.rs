//! Many streams over the one virtio-serial port: hello, then yamux, then one line per stream that names its port.

use std::{future::poll_fn, io, path::Path, task::Poll, time::Duration};

use futures::channel::oneshot;
use protocols::guest::SERIAL_HELLO;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::mpsc,
    task::AbortHandle,
    time::{sleep, timeout},
};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use yamux::{Config, Connection, Mode};

/// More than this before the guest's hello is not an agent that starts a conversation.
const GARBAGE_LIMIT: usize = 1 << 20;
/// The window that all streams together may fill while nobody reads.
const WINDOW: usize = 64 << 20;
/// Streams that may be open at once: three per process and the RPC connection.
const STREAMS: usize = 4096;
/// How long the first hello is given before another; longer each time. A guest that has not noticed that an older host
/// hung up in the middle of a frame takes the hello for the rest of that.
const ATTEMPT: Duration = Duration::from_millis(400);
/// For the guest to notice that this host hung up.
const PAUSE: Duration = Duration::from_millis(20);
/// Frames this large keep the number of guest wake-ups down without making small messages wait long.
const FRAME: usize = 64 << 10;

type Opened = oneshot::Sender<io::Result<yamux::Stream>>;

/// The host's end of the multiplexed port. Dropping it ends the conversation.
#[derive(Debug)]
pub(super) struct Mux {
    requests: mpsc::Sender<Opened>,
    driver: AbortHandle,
}

impl Mux {
    /// Begins a conversation on the port's socket. Waits for the guest as long as the caller lets it: what is
    /// written before the guest has opened its end stays in the socket.
    pub async fn open(socket: &Path) -> io::Result<Self> {
        let mut patience = ATTEMPT;
        loop {
            let mut port = UnixStream::connect(socket).await?;
            if let Ok(greeted) = timeout(patience, greet(&mut port)).await {
                return greeted.map(|()| Self::converse(port));
            }
            tracing::debug!("no answer on the serial channel, the guest is greeted again");
            drop(port);
            sleep(PAUSE).await;
            patience *= 2;
        }
    }

    /// The same on a connection to the port's socket.
    pub async fn begin(mut port: UnixStream) -> io::Result<Self> {
        greet(&mut port).await?;
        Ok(Self::converse(port))
    }

    fn converse(port: UnixStream) -> Self {
        let mut config = Config::default();
        config
            .set_max_connection_receive_window(Some(WINDOW + STREAMS * yamux::DEFAULT_CREDIT as usize))
            .set_max_num_streams(STREAMS)
            .set_split_send_size(FRAME);
        let connection = Connection::new(port.compat(), config, Mode::Client);
        let (requests, queue) = mpsc::channel(64);
        let driver = tokio::spawn(drive(connection, queue)).abort_handle();
        Self { requests, driver }
    }

    pub async fn stream(&self) -> io::Result<Compat<yamux::Stream>> {
        let (opened, answer) = oneshot::channel();
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the serial channel has ended");
        self.requests.send(opened).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.map(FuturesAsyncReadCompatExt::compat)
    }
}

impl Drop for Mux {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Says hello and drops everything up to the guest's answer: the port may hold the end of an older conversation.
async fn greet(port: &mut UnixStream) -> io::Result<()> {
    let mut nonce = [0; 8];
    tokio::fs::File::open("/dev/urandom").await?.read_exact(&mut nonce).await?;
    let hello = format!("{SERIAL_HELLO} {:016x}\n", u64::from_le_bytes(nonce));
    port.write_all(hello.as_bytes()).await?;
    let mut seen: Vec<u8> = Vec::with_capacity(64);
    for _ in 0..GARBAGE_LIMIT {
        // Byte by byte: whatever follows the answer belongs to yamux.
        seen.push(port.read_u8().await?);
        if seen.ends_with(hello.as_bytes()) {
            return Ok(());
        }
        if seen.len() > 4096 {
            seen.drain(..seen.len() - hello.len());
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "no hello from the agent on the serial channel"))
}

/// Runs the connection until it ends or nobody can ask for streams any more.
async fn drive(mut connection: Connection<Compat<UnixStream>>, mut requests: mpsc::Receiver<Opened>) {
    let mut waiting: Option<Opened> = None;
    poll_fn(|cx| {
        loop {
            if waiting.is_none() {
                match requests.poll_recv(cx) {
                    Poll::Ready(Some(opened)) => waiting = Some(opened),
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            if waiting.is_some()
                && let Poll::Ready(stream) = connection.poll_new_outbound(cx)
            {
                let opened = waiting.take().expect("checked above");
                let _ = opened.send(stream.map_err(io::Error::other)); // The caller may have given up.
                continue;
            }
            // Also what reads and writes the port. The guest has no business opening streams: each is dropped.
            match connection.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(uninvited))) => drop(uninvited),
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, "serial channel ended");
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn the_hello_is_found_behind_the_end_of_an_older_conversation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("port");
        let listener = UnixListener::bind(&path).unwrap();
        let guest = tokio::spawn(async move {
            let (mut port, _) = listener.accept().await.unwrap();
            let mut hello = vec![0; SERIAL_HELLO.len() + 18];
            port.read_exact(&mut hello).await.unwrap();
            assert!(hello.starts_with(SERIAL_HELLO.as_bytes()) && hello.ends_with(b"\n"));
            port.write_all(&vec![b'x'; 10_000]).await.unwrap();
            port.write_all(b"kata-serial-1 0000000000000000\n").await.unwrap();
            port.write_all(&hello).await.unwrap();
            let mut connection = Connection::new(port.compat(), Config::default(), Mode::Server);
            let mut stream = poll_fn(|cx| connection.poll_next_inbound(cx)).await.unwrap().unwrap().compat();
            let echo = async {
                let mut bytes = [0; 4];
                stream.read_exact(&mut bytes).await.unwrap();
                stream.write_all(&bytes).await.unwrap();
                stream.flush().await.unwrap();
            };
            tokio::select! {
                () = async { echo.await; std::future::pending().await } => {}
                _ = poll_fn(|cx| connection.poll_next_inbound(cx)) => {}
            }
        });
        let mux = Mux::open(&path).await.unwrap();
        let mut stream = mux.stream().await.unwrap();
        stream.write_all(b"ping").await.unwrap();
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
        drop((stream, mux));
        guest.await.unwrap();
    }

    #[tokio::test]
    async fn a_guest_that_misses_the_hello_is_greeted_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("port");
        let listener = UnixListener::bind(&path).unwrap();
        let guest = async {
            let (mut port, _) = listener.accept().await.unwrap();
            let mut missed = Vec::new();
            port.read_to_end(&mut missed).await.unwrap();
            assert!(missed.starts_with(SERIAL_HELLO.as_bytes()));
            let (mut port, _) = listener.accept().await.unwrap();
            let mut hello = vec![0; missed.len()];
            port.read_exact(&mut hello).await.unwrap();
            assert_ne!(hello, missed);
            port.write_all(&hello).await.unwrap();
            port
        };
        let (mux, _port) = tokio::join!(Mux::open(&path), guest);
        mux.unwrap();
    }
}

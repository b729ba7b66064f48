//! A way to the agent of a running VM: (port) -> byte stream, whatever carries it.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use protocols::guest::AGENT_PORT;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::{sleep, timeout},
};
use tokio_vsock::{VsockAddr, VsockStream};

use super::{address::AgentAddr, mux::Mux};
use crate::error::{Context, Result};

/// One attempt where only trying again tells whether the guest is up. A back end may lose an early connection, so an
/// attempt must not use up the whole wait.
const ATTEMPT: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Bytes to and from one port in the guest.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for T {}

pub type GuestStream = Box<dyn Duplex>;

/// How connections to the agent are made.
#[derive(Debug)]
pub struct AgentLink {
    address: AgentAddr,
    /// The conversation that all streams share, on a serial port.
    mux: Option<Mux>,
}

impl AgentLink {
    /// Readies the link; on a serial port this waits for the guest's agent. Cancel-safe: the caller sets the bound.
    pub async fn open(address: AgentAddr) -> Result<Self> {
        let mux = match &address {
            AgentAddr::Serial { socket } => {
                Some(Mux::open(socket).await.with_context(|| format!("open the agent channel {address}"))?)
            }
            _ => None,
        };
        Ok(Self { address, mux })
    }

    /// Readies the link to a clone that has woken; `port` is its serial port.
    pub async fn of_clone(address: AgentAddr, port: UnixStream) -> Result<Self> {
        let mux = match &address {
            AgentAddr::Serial { .. } => {
                Some(Mux::begin(port).await.with_context(|| format!("open the agent channel {address}"))?)
            }
            _ => None,
        };
        Ok(Self { address, mux })
    }

    /// Connects to a port as soon as the guest serves it. Cancel-safe: the caller sets the bound.
    pub async fn connect_when_up(&self, port: u32) -> GuestStream {
        let mut pause = FIRST_PAUSE;
        loop {
            match timeout(ATTEMPT, self.try_connect(port)).await {
                Ok(Ok(stream)) => return stream,
                Ok(Err(error)) => tracing::trace!(%error, "the agent does not answer yet"),
                Err(_) => tracing::debug!("a connection to the agent was lost on its way"),
            }
            // Neither vsock nor its vhost-user back end tells when a guest begins to listen.
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Connects to a port that the guest serves or not. Cancel-safe: the caller sets the bound.
    pub async fn try_connect(&self, port: u32) -> io::Result<GuestStream> {
        Ok(match (&self.address, &self.mux) {
            (AgentAddr::Vsock { cid }, _) => {
                Box::new(VsockStream::connect(VsockAddr::new(*cid, port)).await?)
            }
            (AgentAddr::HybridVsock { socket }, _) => {
                Box::new(ask_for(UnixStream::connect(socket).await?, port).await?)
            }
            (AgentAddr::Unix { socket }, _) => Box::new(UnixStream::connect(of_port(socket, port)).await?),
            (AgentAddr::Serial { .. }, Some(mux)) => Box::new(ask_for(mux.stream().await?, port).await?),
            (AgentAddr::Serial { socket }, None) => return Err(not_opened(socket)),
        })
    }
}

/// The socket for a port: the agent's own has the plain name.
fn of_port(socket: &Path, port: u32) -> PathBuf {
    match port {
        AGENT_PORT => socket.into(),
        _ => PathBuf::from(format!("{}.{port}", socket.display())),
    }
}

fn not_opened(socket: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotConnected,
        format!("the serial channel {} was not opened", socket.display()),
    )
}

/// Sends `CONNECT <port>` and reads the line that answers it, and not a byte more.
async fn ask_for<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, port: u32) -> io::Result<S> {
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    stream.flush().await?;
    let mut line = Vec::new();
    // A buffer of one byte: what follows the line is the conversation itself.
    BufReader::with_capacity(1, (&mut stream).take(64)).read_until(b'\n', &mut line).await?;
    if line.starts_with(b"OK") && line.ends_with(b"\n") {
        return Ok(stream);
    }
    let answer = String::from_utf8_lossy(&line).trim().to_owned();
    Err(io::Error::new(
        io::ErrorKind::ConnectionRefused,
        format!("nothing in the guest serves port {port} ({answer:?})"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answered(answer: &'static [u8]) -> io::Result<tokio::io::DuplexStream> {
        let (host, mut guest) = tokio::io::duplex(256);
        tokio::spawn(async move {
            let mut line = [0; 13];
            guest.read_exact(&mut line).await.unwrap();
            assert_eq!(&line, b"CONNECT 1024\n");
            guest.write_all(answer).await.unwrap();
        });
        ask_for(host, 1024).await
    }

    #[tokio::test]
    async fn bytes_behind_the_answer_are_not_swallowed() {
        let mut stream = answered(b"OK 77\nhello").await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "hello");
    }

    #[tokio::test]
    async fn a_refusal_an_end_and_an_endless_line_are_errors() {
        for answer in [&b""[..], b"NO\n", b"OK but no end", &[b'x'; 200]] {
            assert!(answered(answer).await.is_err());
        }
    }
}

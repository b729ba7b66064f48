//! Where the agent answers.

use std::{fmt, path::PathBuf};

/// The agent of one VM. Whatever carries it, a connection is (port) -> byte stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentAddr {
    /// The host kernel's vsock.
    Vsock { cid: u32 },
    /// A unix socket that takes one line, `CONNECT <port>`.
    HybridVsock { socket: PathBuf },
    /// A unix socket that is the guest's virtio-serial port; streams are multiplexed over it.
    Serial { socket: PathBuf },
    /// A plain unix socket with the agent's server behind it; other ports, if any, have sockets `<socket>.<port>`. For
    /// agents without a VM.
    Unix { socket: PathBuf },
}

impl fmt::Display for AgentAddr {
    /// In Kata's notation of agent URLs, without the port.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vsock { cid } => write!(f, "vsock://{cid}"),
            Self::HybridVsock { socket } => write!(f, "hvsock://{}", socket.display()),
            Self::Serial { socket } => write!(f, "serial://{}", socket.display()),
            Self::Unix { socket } => write!(f, "unix://{}", socket.display()),
        }
    }
}

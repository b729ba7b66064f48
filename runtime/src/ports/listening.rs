//! The sockets in a namespace that take what is meant for its loopback address.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, bind, listen,
        setsockopt, socket, sockopt,
    },
};
use tokio::net::{TcpListener, TcpStream};

use super::steering::{Listeners, steer};
use crate::{
    error::{Context, Result},
    netlink::Namespace,
};

/// Connections that nobody has accepted yet.
const BACKLOG: i32 = 128;

pub(super) struct Listening {
    v4: TcpListener,
    /// Absent where there is no IPv6.
    v6: Option<TcpListener>,
    /// While it is open, connections come here.
    _steering: OwnedFd,
}

impl Listening {
    pub async fn in_namespace(namespace: &Namespace) -> Result<Self> {
        let sockets = || {
            let v4 =
                open(AddressFamily::Inet, SockaddrIn::new(127, 0, 0, 1, 0)).context("listen on 127.0.0.1")?;
            let v6 = match open(AddressFamily::Inet6, localhost_v6()) {
                Ok(socket) => Some(socket),
                Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => None,
                Err(errno) => return Err(errno).context("listen on ::1"),
            };
            Ok((v4, v6))
        };
        let (v4, v6) = namespace.run(sockets).await?;
        let listeners = Listeners { v4: v4.as_fd(), v6: v6.as_ref().map(AsFd::as_fd) };
        let steering = steer(namespace, &listeners)?;
        let listener = |socket: OwnedFd| TcpListener::from_std(socket.into()).context("a listening socket");
        Ok(Self { v4: listener(v4)?, v6: v6.map(listener).transpose()?, _steering: steering })
    }

    /// Cancel-safe.
    pub async fn accept(&self) -> io::Result<TcpStream> {
        let v6 = async {
            match &self.v6 {
                Some(v6) => v6.accept().await,
                None => std::future::pending().await,
            }
        };
        let (socket, _) = tokio::select! {
            accepted = self.v4.accept() => accepted?,
            accepted = v6 => accepted?,
        };
        Ok(socket)
    }
}

/// A socket that listens on a loopback address, where nobody from outside comes, whether that is up yet or not.
fn open(family: AddressFamily, address: impl SockaddrLike) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&socket, sockopt::IpFreebind, &true)?;
    bind(socket.as_raw_fd(), &address)?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket)
}

fn localhost_v6() -> SockaddrIn6 {
    std::net::SocketAddrV6::new(std::net::Ipv6Addr::LOCALHOST, 0, 0, 0).into()
}

#[cfg(test)]
mod tests {
    use std::{net::TcpStream as Client, path::Path, process::Command};

    use nix::sched::{CloneFlags, unshare};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A namespace of nobody's but the test's.
    async fn fresh() -> Option<Namespace> {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            // Inherited by the child, which is forked from this thread.
            assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("run ip").success());
            Ok::<_, Errno>(Namespace::open(Path::new("/proc/thread-self/ns/net")).expect("open it"))
        });
        match made.join().unwrap() {
            Ok(namespace) => Some(namespace),
            Err(errno) => {
                eprintln!("skipped: a network namespace needs root: {errno}");
                None
            }
        }
    }

    async fn dial(namespace: &Namespace, to: &str) -> Result<Client> {
        let to = to.to_owned();
        namespace.run(move || Client::connect(&to).context("connect")).await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_port_of_the_loopback_comes_here_while_this_is_there() {
        let Some(namespace) = fresh().await else { return };
        let listening = Listening::in_namespace(&namespace).await.unwrap();
        for to in ["127.0.0.1:1", "127.0.0.1:8080", "[::1]:65535"] {
            if to.starts_with('[') && listening.v6.is_none() {
                eprintln!("skipped: no IPv6");
                continue;
            }
            let client = dial(&namespace, to).await.unwrap();
            let mut socket = listening.accept().await.unwrap();
            assert_eq!(socket.local_addr().unwrap().to_string(), to);
            socket.write_all(b"x").await.unwrap();
            drop(client);
            let ended = socket.read(&mut [0; 8]).await;
            assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        }
        // Others' addresses stay theirs: an engine's name server is at one.
        assert!(dial(&namespace, "127.0.0.11:53").await.is_err());
        drop(listening);
        assert!(dial(&namespace, "127.0.0.1:8080").await.is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_second_one_in_the_same_namespace_does_not_take_the_firsts() {
        let Some(namespace) = fresh().await else { return };
        let first = Listening::in_namespace(&namespace).await.unwrap();
        let second = Listening::in_namespace(&namespace).await.unwrap();
        let _client = dial(&namespace, "127.0.0.1:80").await.unwrap();
        first.accept().await.unwrap();
        drop(first);
        let _client = dial(&namespace, "127.0.0.1:80").await.unwrap();
        second.accept().await.unwrap();
    }
}

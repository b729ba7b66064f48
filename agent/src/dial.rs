//! The host asks for a connection to a port of the guest's own; see `protocols::guest::PORT_PORT`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    time::Duration,
};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};
use protocols::{
    carry::{Side, carry},
    guest::{PORT_NO, PORT_OK},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// A server here answers at once, unless it has more to do than it has time for.
const DEADLINE: Duration = Duration::from_secs(5);

/// Connects to `port`, and carries what goes in and out.
pub async fn serve(mut connection: impl AsyncRead + AsyncWrite + Unpin, port: u16) -> io::Result<()> {
    match dial(port).await {
        Ok(mut socket) => {
            connection.write_all(format!("{PORT_OK}\n").as_bytes()).await?;
            connection.flush().await?;
            let carried = carry(connection, &mut socket, Side::Guest).await;
            if carried.is_err() {
                let _ = socket.set_zero_linger(); // Its peer learns that this was no orderly end.
            }
            carried
        }
        Err(error) => {
            connection.write_all(format!("{PORT_NO} {error}\n").as_bytes()).await?;
            connection.flush().await?;
            let _ = connection.read_u8().await; // The host closes.
            Ok(())
        }
    }
}

/// A server may listen on either loopback address, or on that of an interface only.
async fn dial(port: u16) -> io::Result<TcpStream> {
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    let loopback = loopback.map(|address| SocketAddr::new(address, port));
    let mut first = None;
    for address in loopback.into_iter().chain(of_interfaces(port)) {
        let dialled = timeout(DEADLINE, TcpStream::connect(address)).await;
        match dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(socket) => {
                let _ = socket.set_nodelay(true); // Without it, it is slower.
                return Ok(socket);
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

fn of_interfaces(port: u16) -> Vec<SocketAddr> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    interfaces
        .filter(|interface| !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK))
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|address| SocketAddrV4::new(address.ip(), port).into());
            let v6 = || {
                let address = address.as_sockaddr_in6()?;
                Some(SocketAddrV6::new(address.ip(), port, 0, address.scope_id()).into())
            };
            v4.or_else(v6)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use tokio::{io::duplex, net::TcpListener};

    use super::*;
    use crate::channel::line::read_line;

    async fn asked(port: u16) -> (String, tokio::io::DuplexStream) {
        let (mut host, guest) = duplex(1 << 16);
        tokio::spawn(serve(guest, port));
        let answer = read_line(&mut host).await.unwrap();
        (answer, host)
    }

    #[tokio::test]
    async fn a_server_on_either_loopback_address_is_reached() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let server = match TcpListener::bind(address).await {
                Ok(server) => server,
                Err(error) => {
                    eprintln!("skipped: {address}: {error}");
                    continue;
                }
            };
            let (answer, mut host) = asked(server.local_addr().unwrap().port()).await;
            assert_eq!(answer, PORT_OK);
            let (mut socket, _) = server.accept().await.unwrap();
            socket.write_all(b"hello").await.unwrap();
            let mut frame = [0; 9];
            host.read_exact(&mut frame).await.unwrap();
            assert_eq!(&frame, b"\0\0\0\x05hello");
            // The host goes away in the middle: so does the connection, by a reset.
            drop(host);
            let error = socket.read(&mut [0; 1]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    }

    #[tokio::test]
    async fn a_port_that_nobody_listens_on_is_refused() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        drop(server);
        let (answer, _host) = asked(port).await;
        assert!(answer.starts_with("NO ") && answer.contains("refused"), "{answer}");
    }
}

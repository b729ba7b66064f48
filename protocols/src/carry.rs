//! A byte stream of somebody's, usually TCP, carried over a connection between host and guest: in both directions, with
//! half-closes, and no faster than the other end takes it.
//!
//! Not every channel can close one direction, so the bytes go in frames: four bytes of length, most significant first, and
//! that many bytes. An empty frame is the end of its direction. A connection that ends before both directions have, has
//! broken.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, split};

use crate::guest::STREAM_FRAME;

/// Before the bytes of a frame.
const HEADER: usize = 4;
/// What sockets give and channels take at once.
const BLOCK: usize = 64 << 10;

/// Which end of the channel this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Host,
    /// Leaves closing to the host: a back end may drop what it has not yet delivered when the guest closes.
    Guest,
}

/// Carries both directions of `socket` to their ends. An error is to be told to the socket's peer, by a reset if there is
/// such a thing; the channel is closed then, which is how the other side learns of it.
pub async fn carry(
    channel: impl AsyncRead + AsyncWrite + Unpin,
    socket: impl AsyncRead + AsyncWrite + Unpin,
    side: Side,
) -> io::Result<()> {
    let (from_channel, to_channel) = split(channel);
    let (from_socket, to_socket) = split(socket);
    let mut from_channel = BufReader::with_capacity(BLOCK, from_channel);
    let receiving = async move { receive(&mut from_channel, to_socket).await.map(|()| from_channel) };
    let sending = send(from_socket, to_channel);
    tokio::pin!(receiving, sending);
    let mut sent = false;
    let mut from_channel = loop {
        tokio::select! {
            ended = &mut sending, if !sent => {
                ended?;
                sent = true;
            }
            ended = &mut receiving => break ended?,
        }
    };
    // There is but one thing that the other side can still say: that it has gone.
    if !sent {
        tokio::select! {
            ended = &mut sending => ended?,
            _ = from_channel.read_u8() => return Err(broken()),
        }
    }
    if side == Side::Guest {
        let _ = from_channel.read_u8().await; // Its end, whatever that looks like.
    }
    Ok(())
}

async fn send(mut socket: impl AsyncRead + Unpin, mut channel: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut frame = vec![0; HEADER + BLOCK];
    loop {
        let length = socket.read(&mut frame[HEADER..]).await?;
        frame[..HEADER].copy_from_slice(&(length as u32).to_be_bytes());
        channel.write_all(&frame[..HEADER + length]).await?;
        channel.flush().await?;
        if length == 0 {
            return Ok(());
        }
    }
}

async fn receive(
    channel: &mut BufReader<impl AsyncRead + Unpin>,
    mut socket: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    loop {
        let mut left = channel.read_u32().await? as usize;
        if left == 0 {
            return socket.shutdown().await;
        }
        if left > STREAM_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {left} bytes")));
        }
        while left > 0 {
            let bytes = channel.fill_buf().await?;
            if bytes.is_empty() {
                return Err(broken());
            }
            let length = left.min(bytes.len());
            socket.write_all(&bytes[..length]).await?;
            channel.consume(length);
            left -= length;
        }
        socket.flush().await?;
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the other side has gone")
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{DuplexStream, duplex},
        task::JoinHandle,
    };

    use super::*;

    /// What somebody at the host's end and somebody at the guest's end hold, and the two carriers between them.
    fn carried() -> (DuplexStream, DuplexStream, [JoinHandle<io::Result<()>>; 2]) {
        let (host_channel, guest_channel) = duplex(1000);
        let (client, host) = duplex(1000);
        let (server, guest) = duplex(1000);
        let carriers = [
            tokio::spawn(carry(host_channel, host, Side::Host)),
            tokio::spawn(carry(guest_channel, guest, Side::Guest)),
        ];
        (client, server, carriers)
    }

    #[tokio::test]
    async fn a_direction_ends_while_the_other_goes_on() {
        let (mut client, mut server, carriers) = carried();
        let asked: Vec<u8> = (0..200_000u32).map(|byte| byte as u8).collect();
        let whole = asked.clone();
        let asking = tokio::spawn(async move {
            client.write_all(&asked).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        });
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.unwrap();
        assert!(heard == whole);
        server.write_all(b"after the end").await.unwrap();
        drop(server);
        assert_eq!(asking.await.unwrap(), "after the end");
        for carrier in carriers {
            carrier.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn nobody_reads_so_nothing_is_taken() {
        let (mut client, _server, _carriers) = carried();
        let flood = client.write_all(&[0; 1 << 20]);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(200), flood).await.is_err());
    }

    #[tokio::test]
    async fn a_break_is_told_at_every_moment() {
        for already_closed in [false, true] {
            let (host_channel, guest_channel) = duplex(1000);
            let (_client, host) = duplex(1000);
            let carrier = tokio::spawn(carry(host_channel, host, Side::Host));
            let mut guest_channel = guest_channel;
            if already_closed {
                guest_channel.write_all(&[0; HEADER]).await.unwrap();
            }
            drop(guest_channel);
            assert!(carrier.await.unwrap().is_err(), "{already_closed}");
        }
    }

    #[tokio::test]
    async fn a_frame_without_end_is_an_error() {
        let (host_channel, mut guest_channel) = duplex(1000);
        let (_client, host) = duplex(1000);
        let carrier = tokio::spawn(carry(host_channel, host, Side::Host));
        guest_channel.write_all(&[0xff; HEADER]).await.unwrap();
        assert_eq!(carrier.await.unwrap().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}

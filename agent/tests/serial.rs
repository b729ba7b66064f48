//! Many streams over one serial line: the hello behind garbage, a second conversation, and nobody held up by another.

use std::{future::poll_fn, time::Duration};

use agent::channel::serial;
use futures::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use yamux::{Config, Connection, Mode};

const PATIENCE: Duration = Duration::from_secs(30);

/// The guest: everything that arrives on a connection is sent back.
fn echoing_guest(line: DuplexStream) {
    let mut connections = Box::pin(serial::connections(line, [].into(), tokio::sync::watch::channel(None).0));
    tokio::spawn(async move {
        while let Some((_, stream)) = connections.next().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(stream);
                let _ = tokio::io::copy(&mut reader, &mut writer).await; // Ends with the conversation.
            });
        }
    });
}

/// The host's side of one conversation.
struct Host {
    open: tokio::sync::mpsc::Sender<tokio::sync::oneshot::Sender<yamux::Stream>>,
    driver: JoinHandle<Compat<DuplexStream>>,
}

async fn greet(line: &mut DuplexStream, nonce: &str) {
    let hello = format!("kata-serial-1 {nonce}\n");
    line.write_all(hello.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(hello.as_bytes()) {
        seen.push(timeout(PATIENCE, line.read_u8()).await.expect("an answer").unwrap());
    }
}

fn converse(line: DuplexStream) -> Host {
    let (open, mut requests) = tokio::sync::mpsc::channel::<tokio::sync::oneshot::Sender<yamux::Stream>>(1);
    let driver = tokio::spawn(async move {
        let mut connection = Connection::new(line.compat(), Config::default(), Mode::Client);
        let mut waiting = None;
        poll_fn(|cx| {
            loop {
                if waiting.is_none()
                    && let std::task::Poll::Ready(request) = requests.poll_recv(cx)
                {
                    match request {
                        Some(request) => waiting = Some(request),
                        None => return std::task::Poll::Ready(()),
                    }
                }
                if waiting.is_some()
                    && let std::task::Poll::Ready(stream) = connection.poll_new_outbound(cx)
                {
                    let _ = waiting.take().unwrap().send(stream.unwrap());
                    continue;
                }
                match connection.poll_next_inbound(cx) {
                    std::task::Poll::Ready(_) => return std::task::Poll::Ready(()),
                    std::task::Poll::Pending => return std::task::Poll::Pending,
                }
            }
        })
        .await;
        panic!("the conversation ended")
    });
    Host { open, driver }
}

impl Host {
    async fn connect(&self, port: u32) -> Compat<yamux::Stream> {
        let (sender, stream) = tokio::sync::oneshot::channel();
        self.open.send(sender).await.unwrap();
        let mut stream = timeout(PATIENCE, stream).await.expect("a stream").unwrap().compat();
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        stream
    }

    async fn served(&self) -> Compat<yamux::Stream> {
        let mut stream = self.connect(1024).await;
        let mut answer = [0; 8];
        timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("an answer").unwrap();
        assert_eq!(&answer, b"OK 1024\n");
        stream
    }
}

#[tokio::test]
async fn the_hello_is_found_behind_garbage_and_streams_do_not_hold_each_other_up() {
    let (mut host, guest) = tokio::io::duplex(1 << 16);
    echoing_guest(guest);
    host.write_all(b"the end of another\nconversation \xff\x00 without a newline").await.unwrap();
    greet(&mut host, "0123456789abcdef").await;
    let host = converse(host);

    // One stream that nobody reads, until its window is full.
    let mut unread = host.served().await;
    let blocked = tokio::spawn(async move {
        let block = vec![7; 1 << 16];
        loop {
            unread.write_all(&block).await.unwrap();
        }
    });
    let many = (0..50u8).map(|n| {
        let host = &host;
        async move {
            let mut stream = host.served().await;
            let data = vec![n; 20_000];
            stream.write_all(&data).await.unwrap();
            stream.flush().await.unwrap();
            let mut back = vec![0; data.len()];
            timeout(PATIENCE, stream.read_exact(&mut back)).await.expect("an echo").unwrap();
            assert_eq!(back, data);
        }
    });
    futures::future::join_all(many).await;

    let (mut reader, mut writer) = tokio::io::split(host.served().await);
    let sent = tokio::spawn(async move {
        for n in 0..512u32 {
            writer.write_all(&n.to_le_bytes().repeat(1 << 14)).await.unwrap();
        }
        writer.flush().await.unwrap();
        writer
    });
    let mut block = vec![0; 1 << 16];
    for n in 0..512u32 {
        timeout(PATIENCE, reader.read_exact(&mut block)).await.expect("32 MiB come back").unwrap();
        assert_eq!(block, n.to_le_bytes().repeat(1 << 14), "block {n}");
    }
    drop(sent.await.unwrap());
    blocked.abort();
    host.driver.abort();
}

#[tokio::test]
async fn a_port_that_nobody_serves_is_closed() {
    let (mut host, guest) = tokio::io::duplex(1 << 16);
    echoing_guest(guest);
    greet(&mut host, "0123456789abcdef").await;
    let host = converse(host);
    let mut refused = host.connect(9).await;
    let mut answer = Vec::new();
    // An end or a reset, but no answer.
    let _ = timeout(PATIENCE, refused.read_to_end(&mut answer)).await.expect("an end");
    assert_eq!(answer, b"");
    host.served().await;
    host.driver.abort();
}

#[tokio::test]
async fn a_host_that_begins_anew_is_heard() {
    let (mut host, guest) = tokio::io::duplex(1 << 16);
    echoing_guest(guest);
    greet(&mut host, "0000000000000001").await;
    // A frame of no known type ends the guest's conversation; what follows is noise until the next hello.
    host.write_all(&[0xee; 24]).await.unwrap();
    host.write_all(b"\n").await.unwrap();
    greet(&mut host, "0000000000000002").await;
    let host = converse(host);
    host.served().await;
    host.driver.abort();
}

#[tokio::test]
async fn a_host_that_begins_anew_unnoticed_is_heard() {
    let (mut host, guest) = tokio::io::duplex(1 << 16);
    echoing_guest(guest);
    // The second hello is what ends the first conversation.
    for nonce in ["0000000000000001", "0000000000000002", "0000000000000003"] {
        timeout(PATIENCE, greet(&mut host, nonce)).await.expect("an answer");
    }
    let host = converse(host);
    host.served().await;
    host.driver.abort();
}

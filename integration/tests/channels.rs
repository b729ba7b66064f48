//! What every channel to the agent must stand, in a booted VM and in a clone: many streams, slow and vanished peers,
//! much data of every size, and a host that goes away and comes back.

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use agent::channel::echo::pattern;
use futures::future::join_all;
use integration::channel::{ChannelVm, Start, bounded, raw};
use protocols::guest::SERIAL_HELLO;
use runtime::{
    agent::{AgentAddr, AgentLink, GuestStream},
    vm::Channel,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

const STREAMS: u64 = 200;
/// Around what pipes, frames, packets and buffers hold, and far beyond.
const SIZES: [usize; 10] = [1, 4095, 4096, 4097, 32767, 32768, 32769, 65535, 65537, 1 << 20];
const RECONNECTS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_serial_port_of_a_booted_vm_stands_everything() {
    stands_everything(Channel::Serial, Start::Booted, 512).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_serial_port_of_a_clone_stands_everything() {
    stands_everything(Channel::Serial, Start::Cloned, 512).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vhost_user_vsock_of_a_booted_vm_stands_everything() {
    stands_everything(Channel::VhostUserVsock, Start::Booted, 512).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vhost_user_vsock_of_a_clone_stands_everything() {
    stands_everything(Channel::VhostUserVsock, Start::Cloned, 512).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kernel_s_vsock_of_a_booted_vm_stands_everything() {
    stands_everything(Channel::Vsock, Start::Booted, 512).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kernel_s_vsock_of_a_clone_stands_everything() {
    stands_everything(Channel::Vsock, Start::Cloned, 512).await;
}

/// One VM for all, since it takes longer to start than most of this.
async fn stands_everything(channel: Channel, start: Start, mib: u64) {
    let Some(mut vm) = ChannelVm::start(channel, start).await else { return };
    let began = Instant::now();
    let link = vm.link().await;
    let done = |what: &str| eprintln!("{channel:?}, {start}: {what} after {:?}", began.elapsed());
    messages_of_every_size_come_back(&link, channel).await;
    done("messages of every size");
    many_streams_each_get_their_own(&link).await;
    done("many streams");
    a_slow_reader_holds_up_nobody(&link).await;
    done("a slow reader");
    a_vanished_peer_harms_nobody(&link).await;
    done("vanished peers");
    everything_arrives_in_the_guest(&link, mib << 20).await;
    done("to the guest");
    everything_arrives_at_the_host(&link, mib << 20).await;
    done("to the host");
    both_ways_at_once(&link, channel).await;
    done("both ways at once");
    drop(link);
    the_host_may_come_back(&mut vm).await;
    done("coming back");
    if let AgentAddr::Serial { socket } = vm.address() {
        a_host_that_died_in_the_middle_of_a_frame_may_come_back(&mut vm, &socket).await;
        done("half a frame");
    }
    vm.stop().await;
}

/// Different for each `seed`.
fn data(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    pattern(seed << 32, &mut bytes);
    bytes
}

/// Sends bytes to a stream that echoes, and compares what comes back.
async fn assert_echoes(stream: &mut GuestStream, sent: &[u8], what: &str) {
    bounded(what, async {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut back = vec![0; sent.len()];
        let send = async {
            writer.write_all(sent).await?;
            writer.flush().await
        };
        let (sending, receiving) = tokio::join!(send, reader.read_exact(&mut back));
        sending.unwrap_or_else(|error| panic!("{what}: send: {error}"));
        receiving.unwrap_or_else(|error| panic!("{what}: receive: {error}"));
        let differs = back.iter().zip(sent).position(|(back, sent)| back != sent);
        assert_eq!(differs, None, "{what}: the first byte that differs");
    })
    .await;
}

async fn messages_of_every_size_come_back(link: &AgentLink, channel: Channel) {
    let mut stream = raw(link, "echo").await;
    let sizes = SIZES.into_iter().filter(|size| !both_ways_get_stuck(channel) || *size <= 65537);
    for (seed, size) in sizes.enumerate() {
        assert_echoes(&mut stream, &data(seed as u64, size), &format!("a message of {size} bytes")).await;
    }
}

async fn many_streams_each_get_their_own(link: &AgentLink) {
    // All are open before the first says anything.
    let streams = join_all((0..STREAMS).map(|_| raw(link, "echo"))).await;
    let echoes = streams.into_iter().zip(0..).map(|(mut stream, seed)| async move {
        for round in 0..3 {
            let what = format!("round {round} of stream {seed} of {STREAMS}");
            assert_echoes(&mut stream, &data(seed * 8 + round, 20_000), &what).await;
        }
    });
    join_all(echoes).await;
}

async fn a_slow_reader_holds_up_nobody(link: &AgentLink) {
    // Nothing of this one is read until its way is full; nothing is sent on that one that it will read in time.
    let length = 32 << 20;
    let mut unread = raw(link, format_args!("source {length}")).await;
    let mut stuck = raw(link, "echo").await;
    let block = data(1, 1 << 16);
    let mut sent = 0;
    while timeout(Duration::from_secs(1), stuck.write_all(&block)).await.is_ok() {
        sent += block.len();
        assert!(sent < 64 << 20, "an echo that nobody reads takes {sent} bytes");
    }
    let others = (0..20).map(|seed| async move {
        let mut stream = raw(link, "echo").await;
        let began = Instant::now();
        for round in 0..5 {
            assert_echoes(&mut stream, &data(seed, 10_000), &format!("round {round} beside slow readers"))
                .await;
        }
        began.elapsed()
    });
    let slowest = join_all(others).await.into_iter().max().expect("some");
    assert!(slowest < Duration::from_secs(10), "beside a slow reader others took up to {slowest:?}");
    // The slow one has lost nothing.
    receive_pattern(&mut unread, length).await;
}

async fn a_vanished_peer_harms_nobody(link: &AgentLink) {
    let mut bystander = raw(link, "echo").await;
    for round in 0..10 {
        let mut echoed = raw(link, "echo").await;
        let mut filled = raw(link, "sink 1000000000").await;
        let mut poured = raw(link, "source 1000000000").await;
        bounded("start in earnest", async {
            echoed.write_all(&data(round, 50_000)).await?;
            filled.write_all(&data(round, 150_000)).await?;
            poured.read_exact(&mut vec![0; 100_000]).await.map(drop)
        })
        .await
        .expect("data flows");
        drop((echoed, filled, poured));
        assert_echoes(&mut bystander, &data(round, 100_000), "the bystander").await;
    }
}

async fn everything_arrives_in_the_guest(link: &AgentLink, length: u64) {
    let block = data(7, 8 << 20);
    let mut stream = raw(link, format_args!("sink {length}")).await;
    let mut sum = crc32fast::Hasher::new();
    let mut of_block = crc32fast::Hasher::new();
    of_block.update(&block);
    for _ in 0..length / block.len() as u64 {
        bounded("send a block", stream.write_all(&block)).await.expect("send");
        sum.combine(&of_block);
    }
    bounded("flush", stream.flush()).await.expect("flush");
    let expected = format!("{length} {:08x}\n", sum.finalize());
    let mut answer = vec![0; expected.len()];
    bounded("the guest's sum", stream.read_exact(&mut answer)).await.expect("an answer");
    assert_eq!(String::from_utf8_lossy(&answer), expected, "bytes and sum in the guest");
}

async fn everything_arrives_at_the_host(link: &AgentLink, length: u64) {
    let mut stream = raw(link, format_args!("source {length}")).await;
    receive_pattern(&mut stream, length).await;
}

async fn receive_pattern(stream: &mut GuestStream, length: u64) {
    let (mut received, mut expected) = (vec![0; 1 << 18], vec![0; 1 << 18]);
    for at in (0..length).step_by(received.len()) {
        bounded("receive a block", stream.read_exact(&mut received)).await.expect("receive");
        pattern(at, &mut expected);
        assert!(received == expected, "what was received differs in the block at {at} of {length}");
    }
}

/// vhost-device-vsock 0.3.0 may stop for good when both ways of one stream are full: it writes to the host only when the
/// host has nothing to be read.
fn both_ways_get_stuck(channel: Channel) -> bool {
    channel == Channel::VhostUserVsock
}

/// For longer than the multiplexer's pings are apart, which must get through as well.
async fn both_ways_at_once(link: &AgentLink, channel: Channel) {
    let until = Instant::now() + Duration::from_secs(12);
    let busy = (0..4).map(|seed| async move {
        let sent = data(seed, 4 << 20);
        while Instant::now() < until {
            if both_ways_get_stuck(channel) {
                match seed % 2 {
                    0 => everything_arrives_in_the_guest(link, 16 << 20).await,
                    _ => everything_arrives_at_the_host(link, 16 << 20).await,
                }
            } else {
                assert_echoes(&mut raw(link, "echo").await, &sent, "4 MiB both ways at once").await;
            }
        }
    });
    join_all(busy).await;
}

async fn the_host_may_come_back(vm: &mut ChannelVm) {
    let mut kept = None;
    for round in 0..RECONNECTS {
        let link = vm.link().await;
        assert_echoes(
            &mut raw(&link, "echo").await,
            &data(round as u64, 5000),
            &format!("conversation {round}"),
        )
        .await;
        // Data in flight in both directions when it ends.
        let mut pouring = raw(&link, "source 1000000000").await;
        bounded("the first of it", pouring.read_exact(&mut vec![0; 10_000])).await.expect("data flows");
        let mut filling = raw(&link, "sink 1000000000").await;
        // It may well get stuck.
        let _ = timeout(Duration::from_millis(5), filling.write_all(&data(0, 1 << 20))).await;
        drop(link);
        // Streams of an older conversation may outlive it.
        kept = Some((pouring, filling));
    }
    drop(kept);
}

async fn a_host_that_died_in_the_middle_of_a_frame_may_come_back(vm: &mut ChannelVm, socket: &Path) {
    for round in 0..5 {
        let half = async {
            // As every host: it greets again if the guest has not noticed that another has hung up.
            while timeout(Duration::from_secs(1), half_a_frame(socket)).await.is_err() {}
        };
        bounded("half a conversation", half).await;
        let link = vm.link().await;
        assert_echoes(&mut raw(&link, "echo").await, &data(round, 5000), "after half a frame").await;
    }
}

/// Begins a conversation and hangs up in the middle of its first frame.
async fn half_a_frame(socket: &Path) -> io::Result<()> {
    let mut port = UnixStream::connect(socket).await?;
    let hello = format!("{SERIAL_HELLO} 00112233445566aa\n");
    port.write_all(hello.as_bytes()).await?;
    let mut seen = Vec::new();
    while !seen.ends_with(hello.as_bytes()) {
        seen.push(port.read_u8().await?);
    }
    // yamux: version 0, data, SYN, stream 1, and a length that is not kept.
    port.write_all(&[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0xff, 0xff]).await?;
    port.write_all(&[b'x'; 1000]).await
}

//! Which of two stacks, the namespace's and the guest's, a frame from outside comes to.

use std::{
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use rtnetlink::packet_route::{
    address::AddressHeaderFlags,
    neighbour::{NeighbourAddress, NeighbourAttribute},
};

use super::*;

/// Of a tap with `IFF_VNET_HDR`.
const OFFLOADS: [u8; 10] = [0; 10];
const SERVER: Mac = [2, 0, 0, 0, 0, 9];
const UDP: u8 = 17;
const PATIENCE: Duration = Duration::from_secs(20);

/// Frames go in at `peer`, the other end of `eth0`, and come out at the guest's tap.
struct Wire {
    outside: File,
    guest: File,
    mac: Mac,
}

impl Wire {
    async fn lay(joints: &mut Joints, eth0: u32) -> Self {
        // What goes in first comes out first.
        let all = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let mut one = CpuSet::new();
        one.set((0..CpuSet::count()).find(|at| all.is_set(*at).unwrap()).unwrap()).unwrap();
        sched_setaffinity(Pid::from_raw(0), &one).unwrap();

        // The other links are not up yet, and so none of the guest's.
        joints.prepare().await.unwrap();
        joints.join().await.unwrap();
        let [nic] = &joints.nics()[..] else { panic!("one card") };
        let namespace = joints.namespace.clone();
        let outside = tap::make(&namespace, "outside", 1).await.unwrap();
        let handle = joints.connection.handle.clone();
        let links: Vec<_> = handle.link().get().match_name("peer").execute().try_collect().await.unwrap();
        let peer = links[0].header.index;
        for link in [eth0, peer, outside.index] {
            handle.link().set(LinkUnspec::new_with_index(link).up().build()).execute().await.unwrap();
        }
        traffic::add_ingress(&handle, outside.index).await.unwrap();
        traffic::redirect(&handle, outside.index, peer).await.unwrap();
        let guest = nic.queues[0].try_clone().unwrap().into();
        let [queue] = <[_; 1]>::try_from(outside.queues).unwrap();
        Self { outside: queue.into(), guest, mac: nic.mac }
    }

    fn send(&mut self, frame: &[u8]) {
        assert_eq!(self.outside.write(&[&OFFLOADS, frame].concat()).unwrap(), OFFLOADS.len() + frame.len());
    }

    /// Whether the guest gets a frame.
    fn reaches_guest(&mut self, frame: &[u8]) -> bool {
        let last = self.frame(0x88b5, b"the last");
        self.send(frame);
        self.send(&last);
        let (mut buffer, mut found) = ([0; 2048], false);
        loop {
            let mut ready = [PollFd::new(self.guest.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut ready, PollTimeout::try_from(PATIENCE).unwrap()).unwrap(), 1);
            let length = self.guest.read(&mut buffer).unwrap();
            match &buffer[OFFLOADS.len()..length] {
                got if got == last => return found,
                got => found |= got == frame,
            }
        }
    }

    fn frame(&self, protocol: u16, payload: &[u8]) -> Vec<u8> {
        [&self.mac, &SERVER[..], &protocol.to_be_bytes(), payload].concat()
    }

    /// By IPv4, with `options` words more than usual, or IPv6.
    fn packet(
        &self,
        from: SocketAddr,
        to: SocketAddr,
        options: usize,
        fragment: u16,
        data: &[u8],
    ) -> Vec<u8> {
        let length = (8 + data.len()) as u16;
        let ports = [from.port().to_be_bytes(), to.port().to_be_bytes(), length.to_be_bytes()].concat();
        let mut udp = [&ports[..], &[0, 0], data].concat();
        match (from, to) {
            (SocketAddr::V4(from), SocketAddr::V4(to)) => {
                let total = (20 + 4 * options) as u16 + length;
                let mut header = vec![0x45 + options as u8, 0];
                header.extend(
                    [total.to_be_bytes(), [0, 1], fragment.to_be_bytes(), [64, UDP], [0, 0]].concat(),
                );
                header.extend([from.ip().octets(), to.ip().octets()].concat());
                header.extend([1].repeat(4 * options));
                let sum = checksum(&header);
                header[10..12].copy_from_slice(&sum);
                self.frame(0x0800, &[header, udp].concat())
            }
            (SocketAddr::V6(from), SocketAddr::V6(to)) => {
                let addresses = [from.ip().octets(), to.ip().octets()].concat();
                let pseudo = [&addresses[..], &[0, UDP], &length.to_be_bytes(), &udp].concat();
                udp[6..8].copy_from_slice(&checksum(&pseudo));
                let header = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[UDP, 64], &addresses].concat();
                self.frame(0x86dd, &[header, udp].concat())
            }
            _ => panic!("two families"),
        }
    }

    fn arp(&self, operation: u8) -> Vec<u8> {
        let begin = [0, 1, 8, 0, 6, 4, 0, operation];
        self.frame(0x0806, &[&begin[..], &SERVER, &[10, 8, 0, 9], &self.mac, &[10, 8, 0, 2]].concat())
    }
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let sum: u32 = bytes.chunks(2).map(word).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes()
}

fn asker(of: &str, server: &str) -> UdpSocket {
    let socket = UdpSocket::bind(of).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(server).unwrap();
    socket
}

#[test]
fn answers_for_names_come_to_who_has_asked_and_neighbours_to_both() {
    in_a_namespace(InternetworkingModel::Tcfilter, async |joints, eth0| {
        let addresses = joints.connection.handle.address();
        addresses.add(eth0, [10, 8, 0, 2].into(), 24).execute().await.unwrap();
        let mut six = addresses.add(eth0, "fd00:8::2".parse().unwrap(), 64);
        six.message_mut().header.flags = AddressHeaderFlags::Nodad;
        six.execute().await.unwrap();
        let mut wire = Wire::lay(joints, eth0).await;

        let four = asker("10.8.0.2:0", "10.8.0.9:53");
        let six = asker("[fd00:8::2]:0", "[fd00:8::9]:53");
        let idle = UdpSocket::bind("10.8.0.2:0").unwrap();
        let elsewhere = asker("10.8.0.2:0", "10.8.0.9:54");
        let at = |socket: &UdpSocket| socket.local_addr().unwrap();
        let other = |socket: &UdpSocket| SocketAddr::new(at(socket).ip(), at(socket).port() ^ 1);
        let (from, from_six) = (four.peer_addr().unwrap(), six.peer_addr().unwrap());
        let plain = wire.packet(from, at(&four), 0, 0, b"plain");
        assert!(wire.reaches_guest(&plain), "nobody has asked for it yet");

        joints.keep_answers().await;
        let rows = [
            ("an answer", Some(&four), wire.packet(from, at(&four), 0, 0, b"answer")),
            ("one behind options", Some(&four), wire.packet(from, at(&four), 2, 0, b"options")),
            ("one by IPv6", Some(&six), wire.packet(from_six, at(&six), 0, 0, b"six")),
            ("the guest's", None, wire.packet(from, other(&four), 0, 0, b"the guest's")),
            ("the guest's by IPv6", None, wire.packet(from_six, other(&six), 0, 0, b"the guest's")),
            ("an unasked one", None, wire.packet(from, at(&idle), 0, 0, b"unasked")),
            (
                "of something else",
                None,
                wire.packet(elsewhere.peer_addr().unwrap(), at(&elsewhere), 0, 0, b"54"),
            ),
            ("a first fragment", None, wire.packet(from, at(&four), 0, 0x2000, b"fragment")),
            ("a later fragment", None, wire.packet(from, at(&four), 0, 1, b"fragment")),
            ("a short one", None, wire.frame(0x0800, &[0x45, 0, 0, 8, 0, 0, 0, 0])),
            ("a neighbour's question", None, wire.arp(1)),
        ];
        for (label, socket, frame) in rows {
            assert_eq!(wire.reaches_guest(&frame), socket.is_none(), "{label}");
            let Some(socket) = socket else { continue };
            let mut data = [0; 64];
            let length = socket.recv(&mut data).unwrap_or_else(|error| panic!("{label}: {error}"));
            assert!(frame.ends_with(&data[..length]), "{label}");
        }

        // The namespace's stack asks for the server's hardware address, and hears the answer as the guest does.
        four.send(b"question").unwrap();
        let answer = wire.arp(2);
        assert!(wire.reaches_guest(&answer));
        let neighbours: Vec<_> =
            joints.connection.handle.neighbours().get().execute().try_collect().await.unwrap();
        let known = neighbours.iter().any(|neighbour| {
            let has = |wanted: &NeighbourAttribute| neighbour.attributes.contains(wanted);
            has(&NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 8, 0, 9].into())))
                && has(&NeighbourAttribute::LinkLayerAddress(SERVER.to_vec()))
        });
        assert!(known, "{neighbours:?}");
    });
}

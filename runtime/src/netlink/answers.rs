//! What the namespace's own stack has asked for, and is to hear although all that comes in goes to the guest: answers of
//! name servers.
//!
//! A program of the kernel's (`BPF_PROG_TYPE_SCHED_CLS`) looks at what comes in at a link. Of what comes from port 53, the
//! namespace's stack gets what a connected socket in it waits for, by UDP or TCP, and the guest does not: each hears
//! answers to its own questions, and neither refuses the other's. Answers of neighbours, which say who has an address
//! (ARP, ICMPv6), go to both.

use std::os::fd::OwnedFd;

use nix::libc;

use crate::{
    bpf::{FRAME, Instruction, Kind, Label, Width, load, resolve},
    error::{Error, Result},
};

// Of linux/bpf.h.
const KIND: Kind = Kind { number: 3, attach: 0, name: *b"kata_answers\0\0\0\0" };
const CALL_CLONE_REDIRECT: i32 = 13;
const CALL_LOAD_BYTES: i32 = 26;
const CALL_LOOKUP_UDP: i32 = 85;
const CALL_RELEASE: i32 = 86;
const CALL_LOOKUP_TCP: i32 = 99;
/// In the packet's own namespace.
const CURRENT_NAMESPACE: i32 = -1;
// Where these stand in struct __sk_buff and in struct bpf_sock.
const PROTOCOL: i16 = 16;
const STATE: i16 = 72;
// The states of sockets that are not connected.
const CLOSED: i32 = 7;
const LISTENING: i32 = 10;
// What the program says.
const OURS: i32 = 0;
const NEXT_FILTER: i32 = -1;

/// Of an Ethernet frame.
const HEADER: i32 = 14;
const ARP_REPLY: u16 = 2;
const NEIGHBOUR_ADVERTISEMENT: i32 = 136;
const DOMAIN: u16 = 53;

// Labels.
const GUEST: Label = Label(0);
const BOTH: Label = Label(1);
const V4: Label = Label(2);
const V6: Label = Label(3);
const TCP: Label = Label(4);
const LOOKED: Label = Label(5);
const LOOK: Label = Label(6);

/// Loads the program for a link whose packets go out at the link with the index `guest`.
pub(super) fn load_program(guest: u32) -> Result<OwnedFd> {
    load(&KIND, &program(guest)).map_err(|errno| {
        Error::precondition(format!(
            "the kernel takes no program of the kind sched_cls: {errno}; it needs Linux 5.2 with CONFIG_BPF_SYSCALL"
        ))
    })
}

fn program(guest: u32) -> Vec<Instruction> {
    use Instruction as I;
    let be = |value: u16| i32::from(value.to_be());
    // Copies `length` bytes of the packet, from where register 2 says, into the frame.
    let read = |to: i32, length| {
        let call = [I::copy(1, 6), I::copy(3, FRAME), I::add(3, to), I::set(4, length)];
        call.into_iter().chain([I::call(CALL_LOAD_BYTES), I::unless(0, 0, GUEST)])
    };

    let mut code = vec![I::copy(6, 1), I::load(Width::Four, 2, 6, PROTOCOL)];
    code.extend([I::when(2, be(libc::ETH_P_IP as u16), V4), I::when(2, be(libc::ETH_P_IPV6 as u16), V6)]);
    code.extend([I::unless(2, be(libc::ETH_P_ARP as u16), GUEST), I::set(2, HEADER + 6)]);
    code.extend(read(-64, 2));
    code.extend([I::load(Width::Two, 2, FRAME, -64), I::when(2, be(ARP_REPLY), BOTH), I::jump(GUEST)]);

    // The header, and behind its addresses the ports, from wherever they are: a tuple as a look-up wants it, in registers
    // 7 and 9, and the protocol in 8. Fragments have no ports, or not the whole answer.
    let v4 = code.len();
    code.push(I::set(2, HEADER));
    code.extend(read(-64, 20));
    code.extend([I::load(Width::Two, 2, FRAME, -58), I::and(2, be(0x3fff)), I::unless(2, 0, GUEST)]);
    code.extend([I::load(Width::One, 8, FRAME, -55), I::load(Width::One, 2, FRAME, -64), I::and(2, 15)]);
    code.extend([I::of(0x67, 2, 0, 0, 2), I::add(2, HEADER)]);
    code.extend(read(-44, 4));
    code.push(I::load(Width::Two, 2, FRAME, -44));
    code.extend([I::copy(7, FRAME), I::add(7, -52), I::set(9, 12), I::jump(LOOK)]);

    let v6 = code.len();
    code.push(I::set(2, HEADER));
    code.extend(read(-64, 40));
    code.extend([I::load(Width::One, 8, FRAME, -58), I::set(2, HEADER + 40)]);
    code.extend(read(-24, 4));
    code.extend([I::unless(8, libc::IPPROTO_ICMPV6, 3_i16), I::load(Width::One, 2, FRAME, -24)]);
    code.extend([I::when(2, NEIGHBOUR_ADVERTISEMENT, BOTH), I::jump(GUEST)]);
    code.push(I::load(Width::Two, 2, FRAME, -24));
    code.extend([I::copy(7, FRAME), I::add(7, -56), I::set(9, 36)]);

    let look = code.len();
    code.push(I::unless(2, be(DOMAIN), GUEST));
    code.extend([I::copy(1, 6), I::copy(2, 7), I::copy(3, 9), I::set(4, CURRENT_NAMESPACE), I::set(5, 0)]);
    code.extend([I::when(8, libc::IPPROTO_TCP, TCP), I::unless(8, libc::IPPROTO_UDP, GUEST)]);
    // The two give pointers of different kinds, which the kernel does not let one instruction follow.
    code.extend([I::call(CALL_LOOKUP_UDP), I::when(0, 0, GUEST), I::load(Width::Four, 7, 0, STATE)]);
    code.push(I::jump(LOOKED));
    let tcp = code.len();
    code.extend([I::call(CALL_LOOKUP_TCP), I::when(0, 0, GUEST), I::load(Width::Four, 7, 0, STATE)]);
    let looked = code.len();
    code.extend([I::copy(1, 0), I::call(CALL_RELEASE)]);
    code.extend([I::when(7, CLOSED, GUEST), I::when(7, LISTENING, GUEST), I::set(0, OURS), I::exit()]);

    let both = code.len();
    code.extend([I::copy(1, 6), I::set(2, guest as i32), I::set(3, 0), I::call(CALL_CLONE_REDIRECT)]);
    code.extend([I::set(0, OURS), I::exit()]);
    let to_guest = code.len();
    code.extend([I::set(0, NEXT_FILTER), I::exit()]);
    let labels =
        [(GUEST, to_guest), (BOTH, both), (V4, v4), (V6, v6), (TCP, tcp), (LOOKED, looked), (LOOK, look)];
    resolve(&mut code, &labels);
    code
}

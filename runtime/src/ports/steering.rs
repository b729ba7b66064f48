//! Which socket of a network namespace a connection to its loopback address goes to: one, whatever the port.
//!
//! A program that the kernel runs where it looks for a listening socket (`BPF_PROG_TYPE_SK_LOOKUP`, since Linux 5.9). It
//! is in force for as long as its link's descriptor is open and leaves nothing behind; netfilter has no part in it.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::{
    errno::Errno,
    libc::{self, c_int},
};

use crate::{
    bpf::{FRAME, Instruction, Kind, Label, Width, bpf, load, owned, resolve},
    error::{Context, Error, Result},
};

// Of linux/bpf.h.
const MAP_CREATE: c_int = 0;
const MAP_UPDATE: c_int = 2;
const LINK_CREATE: c_int = 28;
const MAP_TYPE_SOCKMAP: u32 = 15;
const PROG_TYPE_SK_LOOKUP: u32 = 30;
const ATTACH_SK_LOOKUP: u32 = 36;
const CALL_MAP_LOOKUP: i32 = 1;
const CALL_SK_RELEASE: i32 = 86;
const CALL_SK_ASSIGN: i32 = 124;
// Where these stand in struct bpf_sk_lookup.
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const LOCAL_V4: i16 = 40;
const LOCAL_V6: i16 = 44;

const KIND: Kind =
    Kind { number: PROG_TYPE_SK_LOOKUP, attach: ATTACH_SK_LOOKUP, name: *b"kata_ports\0\0\0\0\0\0" };

/// The listening sockets.
pub(super) struct Listeners<'a> {
    pub v4: BorrowedFd<'a>,
    pub v6: Option<BorrowedFd<'a>>,
}

/// Sends every TCP connection to 127.0.0.1 or ::1 in `namespace` to these, until what is returned is dropped.
pub(super) fn steer(namespace: impl AsFd, listeners: &Listeners<'_>) -> Result<OwnedFd> {
    let sockets = make_map().map_err(lacking("a map of sockets"))?;
    put(&sockets, 0, listeners.v4).context("put a socket into the map")?;
    if let Some(v6) = listeners.v6 {
        put(&sockets, 1, v6).context("put a socket into the map")?;
    }
    let program =
        load(&KIND, &program(sockets.as_raw_fd())).map_err(lacking("a program of the kind sk_lookup"))?;
    link(&program, namespace.as_fd()).context("attach the program to the namespace")
}

fn lacking(what: &str) -> impl Fn(Errno) -> Error {
    move |errno| {
        Error::precondition(format!(
            "the kernel takes no {what}: {errno}; it needs Linux 5.9 with CONFIG_BPF_SYSCALL, CONFIG_NET_SOCK_MSG and \
             CONFIG_BPF_STREAM_PARSER"
        ))
    }
}

/// The end of the program.
const PASS: Label = Label(0);
/// The part that is the same for both families.
const STEER: Label = Label(1);

fn program(sockets: RawFd) -> Vec<Instruction> {
    use Instruction as I;
    let load = |to, from, offset| I::load(Width::Four, to, from, offset);
    let be = |value: u32| value.to_be() as i32;

    let mut code = vec![I::copy(6, 1), load(2, 6, PROTOCOL), I::unless(2, libc::IPPROTO_TCP, PASS)];
    // IPv4: the first of the sockets.
    code.extend([load(2, 6, FAMILY), I::unless(2, libc::AF_INET, 4_i16)]);
    code.extend([load(2, 6, LOCAL_V4), I::unless(2, be(0x7f00_0001), PASS), I::set(7, 0), I::jump(STEER)]);
    // IPv6: the second.
    code.push(I::unless(2, libc::AF_INET6, PASS));
    for (word, wanted) in [0, 0, 0, be(1)].into_iter().enumerate() {
        code.extend([load(2, 6, LOCAL_V6 + 4 * word as i16), I::unless(2, wanted, PASS)]);
    }
    code.push(I::set(7, 1));
    let steer = code.len();
    // key = r7; r0 = the map's socket
    code.extend([I::of(0x63, FRAME, 7, -4, 0), I::copy(2, FRAME), I::add(2, -4)]);
    code.extend([I::of(0x18, 1, 1, 0, sockets), I::of(0, 0, 0, 0, 0), I::call(CALL_MAP_LOOKUP)]);
    code.extend([I::when(0, 0, PASS), I::copy(7, 0)]);
    // The connection is the socket's; the program lets go of it.
    code.extend([I::copy(1, 6), I::copy(2, 7), I::set(3, 0), I::call(CALL_SK_ASSIGN)]);
    code.extend([I::copy(1, 7), I::call(CALL_SK_RELEASE)]);
    let pass = code.len();
    code.extend([I::set(0, 1), I::exit()]);
    resolve(&mut code, &[(PASS, pass), (STEER, steer)]);
    code
}

fn make_map() -> nix::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        kind: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
    }
    let attributes =
        Attributes { kind: MAP_TYPE_SOCKMAP, key_size: 4, value_size: 8, max_entries: 2, flags: 0 };
    // SAFETY: these attributes hold no address.
    unsafe { bpf(MAP_CREATE, &attributes) }.map(owned)
}

fn put(map: &OwnedFd, key: u32, socket: BorrowedFd<'_>) -> nix::Result<()> {
    #[repr(C)]
    struct Attributes {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let value = socket.as_raw_fd() as u64;
    let attributes = Attributes {
        map: map.as_raw_fd() as u32,
        padding: 0,
        key: (&raw const key) as u64,
        value: (&raw const value) as u64,
        flags: 0,
    };
    // SAFETY: the kernel reads four bytes at `key` and eight at `value`, as the map was made; both outlive the call.
    unsafe { bpf(MAP_UPDATE, &attributes) }.map(drop)
}

fn link(program: &OwnedFd, namespace: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        program: u32,
        target: u32,
        attach_kind: u32,
        flags: u32,
    }
    let attributes = Attributes {
        program: program.as_raw_fd() as u32,
        target: namespace.as_raw_fd() as u32,
        attach_kind: ATTACH_SK_LOOKUP,
        flags: 0,
    };
    // SAFETY: these attributes hold no address.
    unsafe { bpf(LINK_CREATE, &attributes) }.map(owned)
}

//! Which socket of a network namespace a connection to its loopback address goes to: one, whatever the port.
//!
//! A program that the kernel runs where it looks for a listening socket (`BPF_PROG_TYPE_SK_LOOKUP`, since Linux 5.9). It
//! is in force for as long as its link's descriptor is open and leaves nothing behind; netfilter has no part in it.

#![allow(unsafe_code)]

use std::{
    ffi::CStr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::{
    errno::Errno,
    libc::{self, c_int, c_long},
};

use crate::error::{Context, Error, Result};

// Of linux/bpf.h.
const MAP_CREATE: c_int = 0;
const MAP_UPDATE: c_int = 2;
const PROG_LOAD: c_int = 5;
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

/// No part of the program comes from elsewhere.
const LICENSE: &CStr = c"Apache-2.0";

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
    let program = load(&program(sockets.as_raw_fd())).map_err(lacking("a program of the kind sk_lookup"))?;
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

#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    /// Destination in the lower half, source in the upper.
    registers: u8,
    offset: i16,
    value: i32,
}

/// The end of the program, before it is known where that is.
const PASS: i16 = i16::MAX;
/// The part that is the same for both families.
const STEER: i16 = i16::MAX - 1;

fn program(sockets: RawFd) -> Vec<Instruction> {
    let of = |code, to: u8, from: u8, offset, value| Instruction {
        code,
        registers: to | from << 4,
        offset,
        value,
    };
    let set = |to, value| of(0xb7, to, 0, 0, value);
    let copy = |to, from| of(0xbf, to, from, 0, 0);
    let load = |to, from, offset| of(0x61, to, from, offset, 0);
    let unless = |register, value, label| of(0x55, register, 0, label, value);
    let call = |function| of(0x85, 0, 0, 0, function);
    let be = |value: u32| value.to_be() as i32;

    let mut code = vec![copy(6, 1), load(2, 6, PROTOCOL), unless(2, libc::IPPROTO_TCP, PASS)];
    // IPv4: the first of the sockets.
    code.extend([load(2, 6, FAMILY), unless(2, libc::AF_INET, 4)]);
    code.extend([
        load(2, 6, LOCAL_V4),
        unless(2, be(0x7f00_0001), PASS),
        set(7, 0),
        of(0x05, 0, 0, STEER, 0),
    ]);
    // IPv6: the second.
    code.push(unless(2, libc::AF_INET6, PASS));
    for (word, wanted) in [0, 0, 0, be(1)].into_iter().enumerate() {
        code.extend([load(2, 6, LOCAL_V6 + 4 * word as i16), unless(2, wanted, PASS)]);
    }
    code.push(set(7, 1));
    let steer = code.len();
    // key = r7; r0 = the map's socket
    code.extend([of(0x63, 10, 7, -4, 0), copy(2, 10), of(0x07, 2, 0, 0, -4)]);
    code.extend([of(0x18, 1, 1, 0, sockets), of(0, 0, 0, 0, 0), call(CALL_MAP_LOOKUP)]);
    code.extend([of(0x15, 0, 0, PASS, 0), copy(7, 0)]);
    // The connection is the socket's; the program lets go of it.
    code.extend([copy(1, 6), copy(2, 7), set(3, 0), call(CALL_SK_ASSIGN), copy(1, 7), call(CALL_SK_RELEASE)]);
    let pass = code.len();
    code.extend([set(0, 1), of(0x95, 0, 0, 0, 0)]);
    for (at, instruction) in code.iter_mut().enumerate() {
        let to = match instruction.offset {
            PASS => pass,
            STEER => steer,
            _ => continue,
        };
        instruction.offset = (to - at - 1) as i16;
    }
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

fn load(program: &[Instruction]) -> nix::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        kind: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        attach_kind: u32,
    }
    let attributes = Attributes {
        kind: PROG_TYPE_SK_LOOKUP,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"kata_ports\0\0\0\0\0\0",
        interface: 0,
        attach_kind: ATTACH_SK_LOOKUP,
    };
    // SAFETY: the kernel reads as many instructions as counted, and the license to its zero; both outlive the call.
    unsafe { bpf(PROG_LOAD, &attributes) }.map(owned)
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

/// # Safety
///
/// `attributes` is what the kernel's header has for `command`, without padding that is not zero, and every address in it is
/// good for what the command does with it.
unsafe fn bpf<T>(command: c_int, attributes: &T) -> nix::Result<c_long> {
    // SAFETY: the kernel reads the attributes, as many bytes as told, which outlive the call; the rest is the caller's.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_bpf, command, attributes as *const T, size_of::<T>() as libc::c_uint)
    })
}

fn owned(descriptor: c_long) -> OwnedFd {
    // SAFETY: the kernel has just given this descriptor, closed on exec, to nobody but us.
    unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) }
}

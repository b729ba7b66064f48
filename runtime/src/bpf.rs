//! Programs that the kernel runs for us, small enough to be written by hand: their instructions, and how they are loaded.

#![allow(unsafe_code)]

use std::{
    ffi::CStr,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

use nix::{
    errno::Errno,
    libc::{self, c_int, c_long},
};

// Of linux/bpf.h.
const PROG_LOAD: c_int = 5;

/// No part of a program comes from elsewhere.
const LICENSE: &CStr = c"Apache-2.0";

/// The frame, whose end it points at.
pub(crate) const FRAME: u8 = 10;

/// One instruction; registers go by their numbers. A jump's `offset` may be a [`Label`]'s until it is known.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Instruction {
    code: u8,
    /// Destination in the lower half, source in the upper.
    registers: u8,
    offset: i16,
    value: i32,
}

/// A place in a program, before it is known where that is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label(pub u8);

impl From<Label> for i16 {
    fn from(label: Label) -> Self {
        Self::MAX - Self::from(label.0)
    }
}

/// How many bytes are loaded.
#[derive(Clone, Copy)]
pub(crate) enum Width {
    One = 0x71,
    Two = 0x69,
    Four = 0x61,
}

impl Instruction {
    pub const fn of(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Self {
        Self { code, registers: to | from << 4, offset, value }
    }

    pub const fn set(to: u8, value: i32) -> Self {
        Self::of(0xb7, to, 0, 0, value)
    }

    pub const fn copy(to: u8, from: u8) -> Self {
        Self::of(0xbf, to, from, 0, 0)
    }

    pub const fn add(to: u8, value: i32) -> Self {
        Self::of(0x07, to, 0, 0, value)
    }

    pub const fn and(to: u8, value: i32) -> Self {
        Self::of(0x57, to, 0, 0, value)
    }

    pub const fn load(width: Width, to: u8, from: u8, offset: i16) -> Self {
        Self::of(width as u8, to, from, offset, 0)
    }

    pub fn jump(to: impl Into<i16>) -> Self {
        Self::of(0x05, 0, 0, to.into(), 0)
    }

    /// Jumps where the register has this value.
    pub fn when(register: u8, value: i32, to: impl Into<i16>) -> Self {
        Self::of(0x15, register, 0, to.into(), value)
    }

    /// Jumps where it has another.
    pub fn unless(register: u8, value: i32, to: impl Into<i16>) -> Self {
        Self::of(0x55, register, 0, to.into(), value)
    }

    pub const fn call(function: i32) -> Self {
        Self::of(0x85, 0, 0, 0, function)
    }

    pub const fn exit() -> Self {
        Self::of(0x95, 0, 0, 0, 0)
    }
}

/// Puts the places of labels into the jumps to them.
pub(crate) fn resolve(code: &mut [Instruction], labels: &[(Label, usize)]) {
    for (at, instruction) in code.iter_mut().enumerate() {
        if let Some((_, to)) = labels.iter().find(|(label, _)| i16::from(*label) == instruction.offset) {
            instruction.offset = (to - at - 1) as i16;
        }
    }
}

/// What the kernel is told of a program besides its instructions.
pub(crate) struct Kind {
    pub number: u32,
    pub attach: u32,
    pub name: [u8; 16],
}

pub(crate) fn load(kind: &Kind, program: &[Instruction]) -> nix::Result<OwnedFd> {
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
        kind: kind.number,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: kind.name,
        interface: 0,
        attach_kind: kind.attach,
    };
    // SAFETY: the kernel reads as many instructions as counted, and the license to its zero; both outlive the call.
    unsafe { bpf(PROG_LOAD, &attributes) }.map(owned)
}

/// # Safety
///
/// `attributes` is what the kernel's header has for `command`, without padding that is not zero, and every address in it is
/// good for what the command does with it.
pub(crate) unsafe fn bpf<T>(command: c_int, attributes: &T) -> nix::Result<c_long> {
    // SAFETY: the kernel reads the attributes, as many bytes as told, which outlive the call; the rest is the caller's.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_bpf, command, attributes as *const T, size_of::<T>() as libc::c_uint)
    })
}

/// What a command answers that makes a descriptor.
pub(crate) fn owned(descriptor: c_long) -> OwnedFd {
    // SAFETY: the kernel has just given this descriptor, closed on exec, to nobody but us.
    unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) }
}

//! Small programs for the kernel's virtual machine, and putting one on a cgroup as the judge of device accesses.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

use nix::{errno::Errno, libc};

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Groups below may have judges of their own; all must agree.
const ALLOW_MULTI: u32 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// The verdict.
    R0 = 0,
    /// The question, at first.
    R1 = 1,
    R2 = 2,
    R3 = 3,
    R4 = 4,
    R5 = 5,
}

/// One instruction as the kernel takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    code: u8,
    /// Destination in the low four bits, source in the high ones.
    registers: u8,
    offset: i16,
    value: i32,
}

const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const SET: u8 = 0xb7;
const COPY: u8 = 0xbf;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP_NOT_SAME: u8 = 0x5d;
const EXIT: u8 = 0x95;

impl Instruction {
    const fn new(code: u8, to: Register, from: Register, offset: i16, value: i32) -> Self {
        Self { code, registers: to as u8 | (from as u8) << 4, offset, value }
    }

    /// `to` = the 32 bits at `from + offset`.
    pub const fn load(to: Register, from: Register, offset: i16) -> Self {
        Self::new(LOAD_WORD, to, from, offset, 0)
    }

    pub const fn and(register: Register, value: i32) -> Self {
        Self::new(AND, register, Register::R0, 0, value)
    }

    pub const fn shift_right(register: Register, bits: i32) -> Self {
        Self::new(SHIFT_RIGHT, register, Register::R0, 0, bits)
    }

    pub const fn set(register: Register, value: i32) -> Self {
        Self::new(SET, register, Register::R0, 0, value)
    }

    pub const fn copy(to: Register, from: Register) -> Self {
        Self::new(COPY, to, from, 0, 0)
    }

    /// Skips `over` instructions unless the register has that value.
    pub const fn jump_unless(register: Register, value: i32, over: i16) -> Self {
        Self::new(JUMP_NOT_EQUAL, register, Register::R0, over, value)
    }

    /// Skips `over` instructions unless both registers have the same value.
    pub const fn jump_unless_same(one: Register, other: Register, over: i16) -> Self {
        Self::new(JUMP_NOT_SAME, one, other, over, 0)
    }

    pub const fn exit() -> Self {
        Self::new(EXIT, Register::R0, Register::R0, 0, 0)
    }
}

/// The kernel's attributes of `BPF_PROG_LOAD`, as far as they are used.
#[repr(C)]
struct Load {
    program_type: u32,
    length: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The kernel's attributes of `BPF_PROG_ATTACH`.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// A program that the kernel has checked and translated.
pub struct DeviceJudge(OwnedFd);

/// Gives the kernel a program that decides on accesses to devices.
pub fn load(program: &[Instruction]) -> io::Result<DeviceJudge> {
    let license = c"Apache-2.0";
    let load = Load {
        program_type: TYPE_CGROUP_DEVICE,
        length: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    let loaded = bpf(PROG_LOAD, &load)?;
    // SAFETY: the kernel just made this descriptor for us, and nobody else has it.
    Ok(DeviceJudge(unsafe { OwnedFd::from_raw_fd(loaded) }))
}

/// Lets `judge` decide on every device access of the group in `dir`. It stays as long as the group.
pub fn judge_devices(dir: &Path, judge: &DeviceJudge) -> io::Result<()> {
    let group = File::open(dir)?;
    let attach = Attach {
        target: group.as_raw_fd() as u32,
        program: judge.0.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    bpf(PROG_ATTACH, &attach).map(drop)
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<i32> {
    // SAFETY: the kernel reads no more than the size that it is told, and what the attributes point to lives as long as
    // this call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, std::mem::size_of::<T>()) };
    Ok(Errno::result(result)? as i32)
}

#[cfg(test)]
impl Instruction {
    /// Runs a program as the kernel would, on a context of three words. Panics on what the kernel would refuse.
    pub fn run(program: &[Self], context: [i32; 3]) -> i64 {
        let mut registers = [0i64; 6];
        let mut at = 0;
        loop {
            let Self { code, registers: pair, offset, value } = program[at];
            let (to, from) = ((pair & 15) as usize, (pair >> 4) as usize);
            at += 1;
            match code {
                LOAD_WORD => registers[to] = i64::from(context[offset as usize / 4] as u32),
                AND => registers[to] &= i64::from(value),
                SHIFT_RIGHT => registers[to] >>= value,
                SET => registers[to] = i64::from(value),
                COPY => registers[to] = registers[from],
                JUMP_NOT_EQUAL if registers[to] != i64::from(value) => at += offset as usize,
                JUMP_NOT_SAME if registers[to] != registers[from] => at += offset as usize,
                JUMP_NOT_EQUAL | JUMP_NOT_SAME => {}
                EXIT => return registers[0],
                other => panic!("instruction {other:#x}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_is_eight_bytes_as_the_kernel_has_them() {
        assert_eq!(std::mem::size_of::<Instruction>(), 8);
        let load = Instruction::load(Register::R4, Register::R1, 4);
        assert_eq!((load.code, load.registers, load.offset, load.value), (0x61, 0x14, 4, 0));
        assert_eq!(std::mem::size_of::<Load>(), 48);
    }
}

//! Guest kernels of a few instructions: enough to see how a VM begins and ends, on any machine that has QEMU.

use std::{fs, path::Path};

/// What the guest does with its life.
#[derive(Debug, Clone, Copy)]
pub enum Guest {
    /// Sleeps for ever.
    Halts,
    /// Restarts the machine.
    Resets,
}

impl Guest {
    /// 32-bit code, which is how a PVH kernel is entered.
    fn code(self) -> &'static [u8] {
        match self {
            // cli; hlt; jmp to the hlt
            Self::Halts => &[0xfa, 0xf4, 0xeb, 0xfd],
            // mov dx, 0xcf9; mov al, 6; out dx, al; hlt; jmp to the hlt
            Self::Resets => &[0x66, 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xf4, 0xeb, 0xfd],
        }
    }
}

/// Where the file is loaded.
const LOADED_AT: u64 = 0x10_0000;
const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const NOTE_AT: u64 = HEADER + 2 * PROGRAM_HEADER;
const NOTE: u64 = 24;
const CODE_AT: u64 = NOTE_AT + NOTE;
/// Type of the note with the 32-bit entry point.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// Writes an ELF file with a PVH note.
pub fn write(path: &Path, guest: Guest) {
    let entry = LOADED_AT + CODE_AT;
    let size = CODE_AT + guest.code().len() as u64;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend([2_u16.to_le_bytes(), 62_u16.to_le_bytes()].concat()); // an executable for x86-64
    elf.extend(1_u32.to_le_bytes());
    elf.extend([entry, HEADER, 0].map(u64::to_le_bytes).concat());
    elf.extend(0_u32.to_le_bytes());
    elf.extend([HEADER as u16, PROGRAM_HEADER as u16, 2, 0, 0, 0].map(u16::to_le_bytes).concat());
    program_header(&mut elf, PT_LOAD, 0, size);
    program_header(&mut elf, PT_NOTE, NOTE_AT, NOTE);
    elf.extend([4, 8, XEN_ELFNOTE_PHYS32_ENTRY].map(u32::to_le_bytes).concat());
    elf.extend(b"Xen\0");
    elf.extend(entry.to_le_bytes());
    elf.extend(guest.code());
    assert_eq!(elf.len() as u64, size);
    fs::write(path, elf).unwrap();
}

fn program_header(elf: &mut Vec<u8>, kind: u32, offset: u64, size: u64) {
    let (readable_executable, alignment) = (5_u32, 4_u64);
    elf.extend([kind, readable_executable].map(u32::to_le_bytes).concat());
    let address = LOADED_AT + offset;
    elf.extend([offset, address, address, size, size, alignment].map(u64::to_le_bytes).concat());
}

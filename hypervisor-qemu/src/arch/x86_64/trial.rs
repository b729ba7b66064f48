//! A trial vCPU: long mode, one page of tables, and a loop.

#![allow(unsafe_code)]

use std::io;

use kvm_bindings::{kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};

const PAGE: usize = 4096;
/// `loop: dec rcx; jnz loop; hlt`
const CODE: [u8; 6] = [0x48, 0xff, 0xc9, 0x75, 0xfb, 0xf4];
/// Guest-physical places of the three levels of page tables and of the code.
const PML4: usize = PAGE;
const PDPT: usize = 2 * PAGE;
const DIRECTORY: usize = 3 * PAGE;
const CODE_AT: usize = 4 * PAGE;
const PAGES: usize = 5;
const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;
/// Where KVM on Intel keeps its own pages; outside of the guest's memory.
const TSS_ADDRESS: usize = 0xfffb_d000;

const CR0_PE_ET_PG: u64 = 1 | 1 << 4 | 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;

#[repr(align(4096))]
struct Memory([u8; PAGES * PAGE]);

/// Lets a vCPU count down from `iterations`. Returns when it is done or, interrupted by a signal, when `give_up` says
/// so; the caller holds the clock.
pub(crate) fn kvm_trial(iterations: u32, give_up: impl Fn() -> bool) -> io::Result<()> {
    let mut memory = Box::new(Memory([0; PAGES * PAGE]));
    fill(&mut memory.0);
    let kvm = Kvm::new().map_err(os_error)?;
    let vm = kvm.create_vm().map_err(os_error)?;
    vm.set_tss_address(TSS_ADDRESS).map_err(os_error)?;
    let region = kvm_userspace_memory_region {
        memory_size: size_of::<Memory>() as u64,
        userspace_addr: (&raw mut *memory) as u64,
        ..Default::default()
    };
    // SAFETY: the memory is page-aligned, of that size, and dropped after the VM, whose only vCPU runs below.
    unsafe { vm.set_user_memory_region(region) }.map_err(os_error)?;
    let mut vcpu = vm.create_vcpu(0).map_err(os_error)?;
    enter_long_mode(&vcpu)?;
    let regs = kvm_regs { rip: CODE_AT as u64, rcx: iterations.into(), rflags: 2, ..Default::default() };
    vcpu.set_regs(&regs).map_err(os_error)?;
    let ran = loop {
        match vcpu.run() {
            Ok(VcpuExit::Hlt) => break Ok(()),
            Ok(other) => break Err(io::Error::other(format!("unexpected exit {other:?}"))),
            Err(error) if error.errno() == nix::libc::EINTR && !give_up() => {}
            Err(error) if error.errno() == nix::libc::EINTR => break Ok(()),
            Err(error) => break Err(os_error(error)),
        }
    };
    drop((vcpu, vm));
    drop(memory); // Only now: the guest's memory is gone with the VM.
    ran
}

/// Page tables that map the first two megabytes onto themselves, and the code.
fn fill(memory: &mut [u8]) {
    let entries = [
        (PML4, PDPT as u64 | PRESENT_WRITABLE),
        (PDPT, DIRECTORY as u64 | PRESENT_WRITABLE),
        (DIRECTORY, PRESENT_WRITABLE | LARGE_PAGE),
    ];
    for (at, entry) in entries {
        memory[at..at + 8].copy_from_slice(&entry.to_le_bytes());
    }
    memory[CODE_AT..CODE_AT + CODE.len()].copy_from_slice(&CODE);
}

fn enter_long_mode(vcpu: &VcpuFd) -> io::Result<()> {
    let mut sregs = vcpu.get_sregs().map_err(os_error)?;
    let data = kvm_segment {
        limit: u32::MAX,
        selector: 0x10,
        type_: 3,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment { selector: 8, type_: 11, db: 0, l: 1, ..data };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment { limit: 0x67, selector: 0x18, type_: 11, present: 1, ..Default::default() };
    sregs.cr0 = CR0_PE_ET_PG;
    sregs.cr3 = PML4 as u64;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME_LMA;
    vcpu.set_sregs(&sregs).map_err(os_error)
}

fn os_error(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

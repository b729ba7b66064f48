//! What a guest that was stopped or copied must be given anew: the time of day and randomness.

use std::{fs::OpenOptions, io::Write, os::fd::AsRawFd};

use nix::{libc, sys::time::TimeVal};

use crate::error::{Context, Error, Result};

nix::ioctl_write_ptr_bad!(add_to_entropy_count, nix::request_code_write!(b'R', 0x01, 4), libc::c_int);
nix::ioctl_none!(reseed_generator, b'R', 0x07);

/// Sets the wall clock.
pub fn set_clock(time: TimeVal) -> Result<()> {
    // SAFETY: the struct lives across the call, and a null time zone asks for no change of it.
    let set = unsafe { libc::settimeofday(time.as_ref(), std::ptr::null()) };
    nix::errno::Errno::result(set).map(drop).context("settimeofday")
}

/// Mixes `data` into the kernel's pool, credits it, and has the generator draw from it at once.
pub fn reseed(data: &[u8]) -> Result<()> {
    if data.is_empty() {
        return Err(Error::invalid("data: is empty"));
    }
    let mut device = OpenOptions::new().write(true).open("/dev/random").context("/dev/random")?;
    device.write_all(data).context("write /dev/random")?;
    let bits = libc::c_int::try_from(data.len() * 8).map_err(|_| Error::invalid("data: is too long"))?;
    // SAFETY: the descriptor is open and the number lives across the call.
    unsafe { add_to_entropy_count(device.as_raw_fd(), &bits) }.context("credit entropy")?;
    // SAFETY: the descriptor is open; the call takes no argument.
    unsafe { reseed_generator(device.as_raw_fd()) }.map(drop).context("reseed")
}

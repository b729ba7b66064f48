//! Open files that are handed from one process of ours to another by their numbers.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    libc,
};
use runtime::error::{Context, Error, Result};

/// Keeps whatever this process was started with, beyond the standard streams, from those that it starts: they stay when it
/// has gone, and whoever waits for the end of a pipe would wait for them.
pub fn keep_to_ourselves() -> Result<()> {
    // SAFETY: close_range takes three integers; with this flag it closes nothing and marks what is open.
    let marked = unsafe {
        let (first, last, flags) = (3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
        libc::syscall(libc::SYS_close_range, first, last, flags)
    };
    Errno::result(marked).map(drop).context("mark open files (Linux 5.11 or newer is needed)")
}

/// Lets the programs that are started from now on have `fd`, under its number.
pub fn bequeath(fd: &impl AsFd) -> Result<RawFd> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).context("pass a descriptor on")?;
    Ok(fd.as_fd().as_raw_fd())
}

/// Takes what this process was started with under that number, which names no standard stream. To be called once for
/// each, before anything else is opened; it goes no further.
pub fn inherited(number: RawFd) -> Result<OwnedFd> {
    if number <= 2 {
        return Err(Error::invalid(format!("descriptor {number} is a standard stream")));
    }
    // SAFETY: the number comes from the one that started this process and passed an open file under it; nobody else in
    // this process knows of it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    if let Err(errno) = fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        std::mem::forget(fd); // It names nothing that could be closed.
        return Err(errno).with_context(|| format!("descriptor {number}"));
    }
    Ok(fd)
}

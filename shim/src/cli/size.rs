//! The size of a terminal, and whose terminal it is.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;
use runtime::error::{Context, Result};

nix::ioctl_read_bad!(read_size, libc::TIOCGWINSZ, libc::winsize);
nix::ioctl_write_ptr_bad!(write_size, libc::TIOCSWINSZ, libc::winsize);
nix::ioctl_write_int_bad!(take_terminal, libc::TIOCSCTTY);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub rows: u16,
    pub columns: u16,
}

/// The size of a terminal, if it is one and has one.
pub fn of(terminal: BorrowedFd<'_>) -> Option<Size> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open and the structure lives across the call.
    unsafe { read_size(terminal.as_raw_fd(), &mut size) }.ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some(Size { rows: size.ws_row, columns: size.ws_col })
}

pub fn set(terminal: BorrowedFd<'_>, Size { rows, columns }: Size) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open and the structure lives across the call.
    unsafe { write_size(terminal.as_raw_fd(), &size) }.context("size the terminal").map(drop)
}

/// Makes the terminal this session's, so that its signals come here.
pub fn take(terminal: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the descriptor is open; the number asks not to take it from another session.
    unsafe { take_terminal(terminal.as_raw_fd(), 0) }.context("take the terminal").map(drop)
}

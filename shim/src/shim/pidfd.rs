//! A handle on a process that stays valid when the pid is reused.

#![allow(unsafe_code)]

use std::{
    io::Error as IoError,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use runtime::error::{Context, Result};

/// A process, alive or not.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// `None` if there is no such process.
    pub fn open(pid: u32) -> Result<Option<Self>> {
        // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
        if fd >= 0 {
            // SAFETY: the kernel just returned this descriptor to us, and nobody else has it.
            return Ok(Some(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) })));
        }
        match IoError::last_os_error() {
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            error => Err(error).context("pidfd_open"),
        }
    }

    /// Sends SIGKILL; one that has ended is left in peace.
    pub fn kill(&self) -> Result<()> {
        let info = std::ptr::null::<libc::siginfo_t>();
        let fd = self.0.as_raw_fd();
        // SAFETY: the descriptor is open for the length of the call, and a null siginfo asks for the default.
        let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, libc::SIGKILL, info, 0) };
        if done == 0 {
            return Ok(());
        }
        match IoError::last_os_error() {
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            error => Err(error).context("pidfd_send_signal"),
        }
    }

    /// Whether it has ended, or does so in time.
    pub fn ended_within(&self, deadline: Duration) -> Result<bool> {
        let timeout = PollTimeout::try_from(deadline).unwrap_or(PollTimeout::MAX);
        Ok(poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout)? > 0)
    }
}

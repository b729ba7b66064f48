//! A process remembered beyond its life: pid and start time, so that a reused pid is never taken for ours.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use crate::error::{Context, Error, Result};

/// A process, by pid and start time in clock ticks since boot (`/proc/<pid>/stat`, field 22).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: u32,
    pub start_time: u64,
}

impl ProcessId {
    /// The process that has this pid now.
    pub fn of(pid: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("read /proc/{pid}/stat"))?;
        let start_time = start_time(&stat)
            .ok_or_else(|| Error::internal(format!("/proc/{pid}/stat has no start time")))?;
        Ok(Self { pid, start_time })
    }

    /// Whether this very process still runs. A zombie has ended: it holds nothing but its exit code.
    pub fn is_alive(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid));
        stat.is_ok_and(|stat| start_time(&stat) == Some(self.start_time) && state(&stat) != Some("Z"))
    }

    /// Whether it has ended. One that was killed counts as alive until its threads have noticed, so it is waited for, for
    /// as long as `patience`. Blocks.
    pub(crate) fn has_ended(&self, patience: Duration) -> bool {
        let Ok(pidfd) = pidfd_open(self.pid) else { return !self.is_alive() };
        if self.is_alive() && is_dying(self.pid) {
            let _ = ends_within(&pidfd, patience); // Asked again below.
        }
        !self.is_alive()
    }

    /// Waits for the end of the process as long as `patience`, then kills it and waits as long as `force`. One that is gone,
    /// or whose pid is another's, has ended. Blocks.
    pub fn end(&self, patience: Duration, force: Duration) -> Result<()> {
        let pidfd = match pidfd_open(self.pid) {
            Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => return Ok(()),
            other => other.context("pidfd_open")?,
        };
        // Checked after the pidfd is held: from here on the pid cannot become another process's.
        if !self.is_alive() || ends_within(&pidfd, patience)? {
            return Ok(());
        }
        match pidfd_kill(&pidfd) {
            Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => return Ok(()),
            other => other.context("pidfd_send_signal")?,
        }
        match ends_within(&pidfd, force)? {
            true => Ok(()),
            false => Err(Error::deadline(format!("process {} survives SIGKILL for {force:?}", self.pid))),
        }
    }
}

fn ends_within(pidfd: &OwnedFd, deadline: Duration) -> Result<bool> {
    let began = Instant::now();
    loop {
        let left =
            PollTimeout::try_from(deadline.saturating_sub(began.elapsed())).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], left) {
            Err(Errno::EINTR) => {}
            polled => return Ok(polled? > 0),
        }
    }
}

/// What tells this boot of the host from every other; empty where the kernel does not say.
pub fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// Whether SIGKILL waits for it, or it is on its way out already.
fn is_dying(pid: u32) -> bool {
    const PF_EXITING: u64 = 4;
    const SIGKILL_BIT: u64 = 1 << (nix::libc::SIGKILL - 1);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pending = status
        .lines()
        .filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")))
        .filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let flags: Option<u64> = fields(&stat).and_then(|mut fields| fields.nth(6)?.parse().ok());
    pending.into_iter().any(|mask| mask & SIGKILL_BIT != 0)
        || flags.is_some_and(|flags| flags & PF_EXITING != 0)
}

/// Fields of `/proc/<pid>/stat` after the command name, which may itself hold spaces and parentheses.
fn fields(stat: &str) -> Option<std::str::SplitWhitespace<'_>> {
    Some(stat.get(stat.rfind(')')? + 1..)?.split_whitespace())
}

fn state(stat: &str) -> Option<&str> {
    fields(stat)?.next()
}

fn start_time(stat: &str) -> Option<u64> {
    fields(stat)?.nth(19)?.parse().ok()
}

/// A handle on a process that stays valid when the pid is reused.
pub(crate) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
    let fd = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid as nix::libc::pid_t, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor to us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Readable once the process has ended.
pub(crate) fn watch_pidfd(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd keeps the same open descriptor for as long as it lives, which is what the call asks for.
    Ok(unsafe { AsyncFd::register(pidfd) }?)
}

/// Sends SIGKILL through a pidfd.
pub(crate) fn pidfd_kill(pidfd: &OwnedFd) -> io::Result<()> {
    pidfd_signal(pidfd, nix::libc::SIGKILL)
}

/// Sends a signal through a pidfd.
pub(crate) fn pidfd_signal(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
    let info = std::ptr::null::<nix::libc::siginfo_t>();
    // SAFETY: the descriptor is open for the length of the call, and a null siginfo asks for the default.
    let done =
        unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b) R 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9";
        assert_eq!(start_time(stat), Some(4242));
        assert_eq!(state(stat), Some("R"));
        assert_eq!(start_time("garbage"), None);
    }

    #[test]
    fn a_process_that_was_killed_is_waited_for_and_no_other() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        let began = std::time::Instant::now();
        assert!(!id.has_ended(Duration::from_secs(30)));
        assert!(began.elapsed() < Duration::from_secs(20), "nothing says that it ends");
        child.kill().unwrap();
        assert!(id.has_ended(Duration::from_secs(30)));
        child.wait().unwrap();
        assert!(id.has_ended(Duration::ZERO));
    }

    #[test]
    fn this_process_is_alive_and_another_start_time_is_not() {
        let me = ProcessId::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        assert!(!ProcessId { start_time: me.start_time + 1, ..me }.is_alive());
    }
}

//! Ending a server that nobody talks to any more, and making sure that it is the right one.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use runtime::{
    error::{Context, Error, Result},
    ledger::ProcessId,
};

use crate::flags::{Action, Flags};

/// How long a server that is on its way out may take. containerd gives `delete` five seconds in all.
const GRACE: Duration = Duration::from_millis(1500);
const KILL_DEADLINE: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(10);

/// The server of one container, alive when it was looked at.
#[derive(Debug)]
pub struct Server {
    process: ProcessId,
}

impl Server {
    /// The living process `pid`, if its command line says that it serves container `id` of `namespace` in `bundle`.
    pub fn find(pid: u32, namespace: &str, id: &str, bundle: &Path) -> Option<Self> {
        let process = ProcessId::of(pid).ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let mut words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        words.next(); // The program may be installed under any name.
        let flags = Flags::parse(words).ok()?;
        let ours = flags.action == Action::Serve
            && flags.id == id
            && flags.namespace == namespace
            && Path::new(&flags.bundle) == bundle;
        (ours && process.is_alive()).then_some(Self { process })
    }

    /// Waits until it has ended, killing it if it does not by itself. One that still `serves` is not waited for.
    pub fn end(self, serves: bool) -> Result<()> {
        let began = Instant::now();
        while !serves && began.elapsed() < GRACE {
            if !self.process.is_alive() {
                return Ok(());
            }
            sleep(STEP);
        }
        self.kill().with_context(|| format!("end the server, process {}", self.process.pid))
    }

    fn kill(&self) -> Result<()> {
        let Some(pidfd) = pidfd_open(self.process.pid)? else {
            return Ok(());
        };
        // Checked after the pidfd is held: from here on the pid cannot become another process's.
        if !self.process.is_alive() {
            return Ok(());
        }
        pidfd_kill(&pidfd)?;
        let timeout = PollTimeout::try_from(KILL_DEADLINE).expect("two seconds fit");
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout)? {
            0 => Err(Error::deadline(format!("it survives SIGKILL for {KILL_DEADLINE:?}"))),
            _ => Ok(()),
        }
    }
}

/// `None` if there is no such process.
fn pidfd_open(pid: u32) -> Result<Option<OwnedFd>> {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    if fd >= 0 {
        // SAFETY: the kernel just returned this descriptor to us, and nobody else has it.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(fd as i32) }));
    }
    match std::io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        error => Err(error).context("pidfd_open"),
    }
}

fn pidfd_kill(pidfd: &OwnedFd) -> Result<()> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open for the length of the call, and a null siginfo asks for the default.
    let done =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, info, 0) };
    match std::io::Error::last_os_error() {
        _ if done == 0 => Ok(()),
        error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        error => Err(error).context("pidfd_send_signal"),
    }
}

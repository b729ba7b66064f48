//! Ending a server that nobody talks to any more, and making sure that it is the right one.

use std::{
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use runtime::{
    error::{Context, Error, Result},
    ledger::ProcessId,
};

use super::pidfd::PidFd;
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
        let Some(pidfd) = PidFd::open(self.process.pid)? else {
            return Ok(());
        };
        // Checked after the pidfd is held: from here on the pid cannot become another process's.
        if !self.process.is_alive() {
            return Ok(());
        }
        pidfd.kill()?;
        if pidfd.ended_within(KILL_DEADLINE)? {
            return Ok(());
        }
        Err(Error::deadline(format!("it survives SIGKILL for {KILL_DEADLINE:?}")))
    }
}

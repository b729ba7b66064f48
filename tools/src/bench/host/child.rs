//! Programs that run beside the bench and must not outlive it, however it ends.

use std::{
    io,
    os::unix::process::CommandExt,
    process::{self, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::Pid,
};

use super::patience::wait;

/// For a program that was asked to end.
const GRACE: Duration = Duration::from_secs(15);

/// A running program. Dropping it ends it.
#[derive(Debug)]
pub struct Child {
    process: process::Child,
    /// What asks it to end. SIGKILL follows.
    asks: Signal,
}

impl Child {
    /// Starts a program that hears `asks` when this value is dropped, or when the thread that made it ends in any way.
    pub fn spawn(mut command: Command, asks: Signal) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null());
        // SAFETY: between fork and exec the closure makes one system call and touches no memory but its own.
        unsafe { command.pre_exec(move || prctl::set_pdeathsig(asks).map_err(io::Error::from)) };
        let process = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { process, asks })
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.has_ended() && self.asks != Signal::SIGKILL {
            let _ = kill(Pid::from_raw(self.process.id() as i32), self.asks); // It may end at this moment.
            let process = &mut self.process;
            let _ = wait(GRACE, None, || process.try_wait().ok().flatten());
        }
        let _ = self.process.kill(); // That it has ended already is what is wanted.
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_dropped_child_has_ended() {
        for asks in [Signal::SIGKILL, Signal::SIGTERM] {
            let mut command = Command::new("sleep");
            command.arg("60");
            let mut child = Child::spawn(command, asks).unwrap();
            let pid = Pid::from_raw(child.id() as i32);
            assert!(!child.has_ended());
            let began = Instant::now();
            drop(child);
            assert!(began.elapsed() < GRACE);
            assert!(kill(pid, None).is_err(), "{pid} is still there");
        }
    }

    #[test]
    fn a_child_ends_with_the_thread_that_made_it() {
        let made = std::thread::spawn(|| {
            let mut command = Command::new("sleep");
            command.arg("60");
            Child::spawn(command, Signal::SIGKILL).unwrap()
        });
        let mut child = made.join().unwrap();
        assert!(wait(GRACE, None, || child.has_ended().then_some(())).is_some());
    }
}

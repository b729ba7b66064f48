//! Waiting for a process in the foreground: whatever this command is sent, the stand-in is sent.

use std::{
    os::unix::process::ExitStatusExt,
    process::{Child, ExitCode, ExitStatus},
};

use nix::{
    sys::{
        signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::Pid,
};
use runtime::error::{Context, Result};

/// Keeps what this command is sent from now on for the process that it starts.
pub fn catch_signals() -> Result<SignalFd> {
    let mut mask = SigSet::all();
    mask.remove(Signal::SIGPIPE);
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None).context("block signals")?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC).context("signalfd")
}

/// Waits for the stand-in's end; its code.
pub fn wait(mut stand_in: Child, signals: SignalFd) -> Result<ExitCode> {
    let pid = Pid::from_raw(stand_in.id() as i32);
    loop {
        // Before the wait for the next signal, for its end may have come before signals were kept.
        if let Some(status) = stand_in.try_wait().context("wait for the stand-in")? {
            return Ok(code(status));
        }
        let Some(sent) = signals.read_signal().context("read a signal")? else { continue };
        if let Ok(signal) = Signal::try_from(sent.ssi_signo as i32)
            && signal != Signal::SIGCHLD
        {
            let _ = kill(pid, signal); // It may have ended just now.
        }
    }
}

fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}

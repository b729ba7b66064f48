//! An alarm that interrupts system calls of one thread: how a vCPU that runs on is stopped.

#![allow(unsafe_code)]

use std::{io, time::Duration};

use nix::{
    sys::{
        signal::{SaFlags, SigAction, SigEvent, SigHandler, SigSet, SigevNotify, Signal, sigaction},
        time::TimeSpec,
        timer::{Expiration, Timer, TimerSetTimeFlags},
    },
    time::ClockId,
    unistd::gettid,
};

/// Nobody else uses it, and its handler below does nothing.
const SIGNAL: Signal = Signal::SIGVTALRM;
/// The alarm repeats: the first one may come just before the system call that it should interrupt.
const REPEAT: Duration = Duration::from_millis(5);

/// Interrupts the thread that set it, until dropped.
pub(super) struct Alarm {
    _timer: Timer,
}

impl Alarm {
    pub(super) fn set(after: Duration) -> io::Result<Self> {
        let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing at all, so it is safe at any time on any thread; it stays installed.
        unsafe { sigaction(SIGNAL, &action) }?;
        SigSet::from(SIGNAL).thread_unblock()?;
        let thread = SigevNotify::SigevThreadId { signal: SIGNAL, thread_id: gettid().as_raw(), si_value: 0 };
        let mut timer = Timer::new(ClockId::CLOCK_MONOTONIC, SigEvent::new(thread))?;
        let expiration = Expiration::IntervalDelayed(TimeSpec::from(after), TimeSpec::from(REPEAT));
        timer.set(expiration, TimerSetTimeFlags::empty())?;
        Ok(Self { _timer: timer })
    }
}

extern "C" fn ignore(_: nix::libc::c_int) {}

#[cfg(test)]
mod tests {
    use std::{io::Read, time::Instant};

    use super::*;

    #[test]
    fn a_blocking_call_is_interrupted() {
        let (mut reader, _writer) = io::pipe().unwrap();
        let began = Instant::now();
        let alarm = Alarm::set(Duration::from_millis(20)).unwrap();
        let error = reader.read(&mut [0; 1]).unwrap_err();
        drop(alarm);
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        assert!(began.elapsed() >= Duration::from_millis(20));
    }
}

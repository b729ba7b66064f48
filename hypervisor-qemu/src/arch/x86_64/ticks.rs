//! How fast this processor's time stamp counter runs, which is the clock of an emulated guest as well.
//!
//! A guest's kernel finds that out by itself when it boots, by counting beside a timer. On a busy host it is not run for most
//! of that time, and then believes in a counter that is several times slower: its clock runs as many times too fast for as
//! long as it lives, and so do those of its clones.

#![allow(unsafe_code)]

use std::{
    arch::x86_64::_rdtsc,
    thread,
    time::{Duration, Instant},
};

/// From the first sample to the second: the longer, the more exact.
const INTERVAL: Duration = Duration::from_millis(10);
/// Of which the least disturbed counts.
const TRIES: usize = 32;
/// How much of the interval the two samples may be unsure of: what a guest corrects by itself, once it runs, is ten times that.
const DOUBT: u64 = 1000;

/// For the guest's kernel to believe in; none if it cannot be told. Blocks for a moment.
pub(crate) fn clock_parameter() -> Option<String> {
    kilohertz().map(|khz| format!("tsc_early_khz={khz}"))
}

fn kilohertz() -> Option<u64> {
    let first = Sample::take();
    thread::sleep(INTERVAL);
    let last = Sample::take();
    let ticks = last.ticks.checked_sub(first.ticks)?;
    let nanoseconds = u64::try_from(last.at.duration_since(first.at).as_nanos()).ok()?;
    let sure = (first.width + last.width).checked_mul(DOUBT)? < ticks;
    sure.then(|| u64::try_from(u128::from(ticks) * 1_000_000 / u128::from(nanoseconds)).ok()).flatten()
}

/// The counter at a moment.
struct Sample {
    at: Instant,
    ticks: u64,
    /// By how many ticks that may be wrong.
    width: u64,
}

impl Sample {
    fn take() -> Self {
        let once = || {
            let before = ticks();
            let at = Instant::now();
            let width = ticks().saturating_sub(before);
            Self { at, ticks: before + width / 2, width }
        };
        (1..TRIES).fold(once(), |best, _| {
            let next = once();
            if next.width < best.width { next } else { best }
        })
    }
}

fn ticks() -> u64 {
    // SAFETY: every processor of this architecture that runs a 64-bit kernel has the instruction.
    unsafe { _rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_runs_at_one_speed() {
        let measured: Vec<u64> = (0..10).filter_map(|_| kilohertz()).collect();
        let (least, most) = (measured.iter().min(), measured.iter().max());
        let (least, most) = least.zip(most).expect("measured at least once");
        assert!(most - least < least / 100, "{measured:?}");
        assert!((100_000..20_000_000).contains(least), "{measured:?}");
    }
}

//! Whether KVM on this host truly runs guests, found out once per boot of the host.
//!
//! `/dev/kvm` proves nothing: hosts exist whose KVM opens, creates VMs and runs a trivial vCPU, and then emulates a
//! kernel at four million instructions a second until it stumbles. So a trial vCPU runs a tight loop against the
//! clock.

mod interrupt;
mod verdict;

use std::{
    fs::OpenOptions,
    io,
    path::Path,
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, time::timeout};

pub use verdict::Verdict;

use crate::arch;

const DEVICE: &str = "/dev/kvm";
/// Iterations of the trial loop: hardware needs 0.1 ms, an emulating KVM was seen to need 56.
const ITERATIONS: u32 = 100_000;
/// Hardware on a crowded host stays far below, an emulator far above.
const FAST_ENOUGH: Duration = Duration::from_millis(5);
/// When a trial is cut off.
const CUT_OFF: Duration = Duration::from_millis(50);
/// A trial whose thread was preempted says nothing about KVM; the best of these counts.
const TRIALS: u32 = 3;
/// For all of it, should the kernel not return from a trial at all.
const DEADLINE: Duration = Duration::from_secs(3);

/// The remembered verdict of this boot, or that of a fresh trial, which is remembered in `file`.
pub async fn probe(file: &Path) -> Verdict {
    if let Err(error) = OpenOptions::new().read(true).write(true).open(DEVICE) {
        // Not remembered: a module may be loaded at any time, and asking costs nothing.
        return Verdict::Missing(format!("{DEVICE}: {error}"));
    }
    let occasion = verdict::Occasion::now(Path::new(DEVICE));
    if let Some(verdict) = occasion.as_ref().and_then(|occasion| verdict::recall(file, occasion)) {
        return verdict;
    }
    let verdict = try_out().await;
    if let Some(occasion) = occasion
        && let Err(error) = verdict::remember(file, &occasion, &verdict)
    {
        tracing::debug!(%error, file = %file.display(), "the verdict on KVM is not remembered");
    }
    verdict
}

/// Runs the trials on a thread of their own, which is left behind if KVM never lets it go.
async fn try_out() -> Verdict {
    let (sender, outcome) = oneshot::channel();
    let thread = std::thread::Builder::new().name("kvm-trial".into()).spawn(move || {
        let _ = sender.send(best_of(TRIALS)); // Nobody waits past the deadline.
    });
    let outcome = match thread {
        Ok(_) => timeout(DEADLINE, outcome).await,
        Err(error) => return Verdict::Unusable(format!("a thread for the trial: {error}")),
    };
    match outcome {
        Ok(Ok(Ok(time))) if time < FAST_ENOUGH => Verdict::Usable,
        Ok(Ok(Ok(time))) => Verdict::Unusable(format!(
            "{ITERATIONS} turns of a loop took {:.0} ms or more, hardware needs 0.1{}",
            time.as_secs_f64() * 1e3,
            hint(),
        )),
        Ok(Ok(Err(error))) => Verdict::Unusable(format!("the trial vCPU failed: {error}{}", hint())),
        Ok(Err(_)) => Verdict::Unusable("the trial's thread ended".into()),
        Err(_) => Verdict::Unusable(format!("the trial vCPU did not stop within {DEADLINE:?}{}", hint())),
    }
}

fn best_of(trials: u32) -> io::Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..trials {
        let cut_off = interrupt::Alarm::set(CUT_OFF)?;
        let began = Instant::now();
        arch::kvm_trial(ITERATIONS, || began.elapsed() >= CUT_OFF)?;
        best = best.min(began.elapsed());
        drop(cut_off);
        if best < FAST_ENOUGH {
            break;
        }
    }
    Ok(best)
}

/// What else is known to go with a KVM that only emulates.
fn hint() -> &'static str {
    if Path::new("/sys/module/kvm_pvm").exists() { "; this is kvm_pvm, a KVM without hardware" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_probe_gives_the_same_verdict_twice_and_remembers_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("kvm-probe");
        let began = Instant::now();
        let first = probe(&file).await;
        assert!(began.elapsed() < DEADLINE + Duration::from_secs(2));
        match &first {
            Verdict::Missing(reason) => {
                assert!(reason.contains(DEVICE));
                assert!(!file.exists());
            }
            Verdict::Usable | Verdict::Unusable(_) => {
                assert!(file.exists());
                let began = Instant::now();
                assert_eq!(probe(&file).await, first);
                assert!(began.elapsed() < CUT_OFF, "the second answer comes from the file");
            }
        }
        // Hosts that have the processor feature and no emulating module must not be told to use emulation.
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        if cpuinfo.split_whitespace().any(|word| word == "vmx" || word == "svm") && hint().is_empty() {
            assert!(!matches!(first, Verdict::Unusable(_)), "{first:?}");
        }
        if !hint().is_empty() {
            assert_ne!(first, Verdict::Usable);
        }
    }
}

//! The order in which engines see stand-ins end: those of a container's execs before that of its first process, as the kernel
//! has it for the processes of a pid namespace.
//!
//! Docker 20.10 forgets a container when its first process has ended, and waits for ever for an exec whose end comes later.

use std::{collections::BTreeMap, path::Path, time::Duration};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// An engine waits for its children as they end. One that does not has no order to keep.
const PATIENCE: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(2);

/// How many stand-ins of execs each container has.
pub struct Execs(watch::Sender<BTreeMap<String, usize>>);

/// Counts a stand-in for as long as it lives.
pub struct Counted<'a> {
    execs: &'a Execs,
    container: String,
}

impl Execs {
    pub fn new() -> Self {
        Self(watch::Sender::default())
    }

    /// Counts one more.
    pub fn count(&self, container: &str) -> Counted<'_> {
        self.0.send_modify(|counts| *counts.entry(container.to_owned()).or_default() += 1);
        Counted { execs: self, container: container.to_owned() }
    }

    /// Returns when the container has none any more, or after a while.
    pub async fn gone(&self, container: &str) {
        let mut counts = self.0.subscribe();
        let gone = counts.wait_for(|counts| !counts.contains_key(container));
        if timeout(PATIENCE, gone).await.is_err() {
            tracing::debug!(container, "the stand-in of an exec outlives that of its container");
        }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.execs.0.send_modify(|counts| {
            if let Some(count) = counts.get_mut(&self.container) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&self.container);
                }
            }
        });
    }
}

/// Returns when the process is no more, not even a zombie: whoever waits for it knows of its end. Or after a while.
pub async fn reaped(pid: u32) {
    let process = format!("/proc/{pid}");
    let gone = async {
        // Of another's child no end can be waited for but this one, which a pidfd does not tell from its death.
        while Path::new(&process).exists() {
            sleep(STEP).await;
        }
    };
    let _ = timeout(PATIENCE, gone).await; // Its order with others is all that depends on it.
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_container_waits_for_its_own_execs_only() {
        let execs = Execs::new();
        let (first, second, _other) = (execs.count("a"), execs.count("a"), execs.count("b"));
        let began = Instant::now();
        drop(first);
        tokio::join!(execs.gone("a"), async {
            sleep(Duration::from_millis(500)).await;
            drop(second);
        });
        assert_eq!(began.elapsed(), Duration::from_millis(500));
        execs.gone("b").await;
        assert_eq!(began.elapsed(), Duration::from_millis(500) + PATIENCE);
    }

    #[tokio::test]
    async fn a_process_is_there_until_it_is_waited_for() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        let early = timeout(Duration::from_millis(100), reaped(pid)).await;
        assert!(early.is_err());
        child.wait().unwrap();
        let began = Instant::now();
        reaped(pid).await;
        assert!(began.elapsed() < PATIENCE);
    }
}

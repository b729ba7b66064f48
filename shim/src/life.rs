//! When this process ends: when it is told to, or when nobody has called for a while and there is nothing to keep.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use runtime::error::{Error, Result};
use tokio::{sync::watch, time::sleep};
use tracing::{Instrument, Span};

use crate::convert;

/// Counts calls, and knows when it is over.
#[derive(Debug, Default)]
pub struct Life {
    begun: AtomicU64,
    done: AtomicU64,
    ended: watch::Sender<bool>,
}

/// A call in progress; keeps the process.
#[derive(Debug)]
pub struct Call(Arc<Life>);

impl Life {
    pub fn call(self: &Arc<Self>) -> Call {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Call(self.clone())
    }

    /// How many there were so far.
    pub fn calls(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Whether a call is in progress.
    pub fn is_busy(&self) -> bool {
        self.done.load(Ordering::Relaxed) != self.begun.load(Ordering::Relaxed)
    }

    /// From now on it is over.
    pub fn end(&self) {
        self.ended.send_replace(true);
    }

    /// Returns when it is over: told so, or no call for `idle` while `vacant` says that there is nothing to keep.
    pub async fn over(&self, idle: Duration, vacant: impl Fn() -> bool) {
        let mut ended = self.ended.subscribe();
        loop {
            let before = self.begun.load(Ordering::Relaxed);
            tokio::select! {
                // The sender is a field of ours, so it cannot go first.
                _ = ended.wait_for(|ended| *ended) => return,
                () = sleep(idle) => {
                    let quiet = before == self.begun.load(Ordering::Relaxed) && !self.is_busy();
                    if quiet && vacant() {
                        tracing::info!("nobody calls any more");
                        return;
                    }
                }
            }
        }
    }
}

/// Does the work of a call as a task of its own, which goes on when its caller has gone, and holds `call` meanwhile.
pub async fn carried_out<T: Send + 'static>(
    call: Option<Call>,
    span: Span,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> ttrpc::Result<T> {
    let work = async move {
        let _call = call;
        work.await
    };
    let done = tokio::spawn(work.instrument(span)).await;
    let done = done.unwrap_or_else(|error| Err(Error::internal(error.to_string())));
    done.map_err(|error| convert::status(&error))
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.done.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn it_is_over_when_told() {
        let life = Life::default();
        life.end();
        let began = Instant::now();
        life.over(IDLE, || false).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_or_something_to_keep_prolongs_it() {
        let life = Arc::new(Life::default());
        let call = life.call();
        let began = Instant::now();
        let ending = tokio::spawn({
            let life = life.clone();
            // There is something to keep for ten minutes.
            async move { life.over(IDLE, || began.elapsed() > Duration::from_secs(600)).await }
        });
        sleep(Duration::from_secs(900)).await;
        assert!(!ending.is_finished(), "a call is in progress");
        drop(call);
        sleep(2 * IDLE).await;
        assert!(ending.is_finished());
    }
}

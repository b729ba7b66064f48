//! What there is to say of a sandbox, and the report that is made of it when it dies.

use tokio::task::spawn_blocking;

use super::{Sandbox, lock};
use crate::{
    accident::{Report, Shelf, Words},
    error::Error,
};

/// Of what happened, in the errors of later calls.
const OBITUARY_LENGTH: usize = 300;

impl Sandbox {
    /// What happened to it, if anything did, and what was said last.
    pub fn report(&self) -> Report {
        self.report_of(self.obituary.get().map_or("", String::as_str))
    }

    /// Tells the log and the host's shelf what happened. What the guest said must be known by now.
    pub(super) async fn report_accident(&self, what: &str) {
        let _ = self.obituary.set(what.into()); // It dies of the first.
        let report = self.report_of(what);
        let containers = report.containers.join(",");
        tracing::error!(sandbox = report.sandbox, containers, reason = what, "the VM ended by itself");
        self.keep(report).await;
    }

    /// The same of one that did not come so far, if there is more to be said than the error says, which its caller is told.
    pub(super) async fn report_failed_start(&self, error: &Error) {
        let report = self.report_of(&format!("it did not start: {error}"));
        if !report.said.is_empty() {
            self.keep(report).await;
        }
    }

    async fn keep(&self, report: Report) {
        report.log();
        let shelf = Shelf::new(self.setup.paths.accidents());
        let kept = spawn_blocking(move || shelf.put(&report)).await;
        if let Err(error) = kept.unwrap_or_else(|error| Err(Error::internal(error.to_string()))) {
            tracing::warn!(%error, "kata-runtime logs will not know of this");
        }
    }

    /// Why it does not run, for those who want something of it.
    pub(super) fn not_running(&self) -> Error {
        let mut why = format!("sandbox {} does not run", self.id());
        if let Some(obituary) = self.obituary.get() {
            let cut = obituary.char_indices().nth(OBITUARY_LENGTH).map_or(obituary.len(), |(at, _)| at);
            why = format!("{why}: {}", &obituary[..cut]);
        }
        Error::precondition(why)
    }

    fn report_of(&self, what: &str) -> Report {
        let mut report = Report::new(self.id().as_str(), what);
        report.containers = lock(&self.containers).keys().cloned().collect();
        report.containers.sort();
        report.said = self.journal.said().into_iter().map(Words::from).collect();
        let daemon = self.share.daemon().map(|daemon| daemon.last_words()).unwrap_or_default();
        if !daemon.is_empty() {
            report.said.push(Words { by: "virtiofsd".into(), lines: daemon });
        }
        report
    }
}

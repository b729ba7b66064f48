//! The one task that watches a VM: QEMU's events, its helper, and its end. It says why a VM ended.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use runtime::{child::Child, vm::VmExit};
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        watch,
    },
    time::timeout,
};

use crate::{
    commands::{QueryStatus, Shutdown},
    console::Console,
    qmp::{Event, Qmp},
};

/// How long QEMU may outlive its QMP connection: it closes the one shortly before it ends.
const HANG_UP_GRACE: Duration = Duration::from_secs(3);
/// For what was said before the end and is still on its way.
const LAST_WORDS: Duration = Duration::from_millis(200);

pub(crate) struct Watcher {
    qemu: Arc<Child>,
    helper: Option<Arc<Child>>,
    qmp: Arc<Qmp>,
    events: broadcast::Receiver<Event>,
    console: Console,
    /// Whether the end was asked for.
    stopping: Arc<AtomicBool>,
    /// What was seen that may explain the end.
    notes: Vec<String>,
}

impl Watcher {
    pub(crate) fn new(
        qemu: Arc<Child>,
        helper: Option<Arc<Child>>,
        qmp: Arc<Qmp>,
        events: broadcast::Receiver<Event>,
        console: Console,
        stopping: Arc<AtomicBool>,
    ) -> Self {
        Self { qemu, helper, qmp, events, console, stopping, notes: Vec::new() }
    }

    /// Watches until QEMU has ended and tells `exited` why.
    pub(crate) async fn run(mut self, exited: watch::Sender<Option<VmExit>>) {
        self.until_the_end().await;
        // What comes later than that is not worth the wait.
        let _ = timeout(LAST_WORDS, self.remaining_events()).await;
        let _ = timeout(LAST_WORDS, self.console.drain()).await;
        let reason = self.reason();
        tracing::info!(reason, "vm ended");
        let wanted_memory =
            self.qemu.wanted_memory() || self.helper.as_ref().is_some_and(|helper| helper.wanted_memory());
        let _ = exited.send(Some(VmExit { reason, wanted_memory })); // Nobody may be left to hear it.
    }

    async fn until_the_end(&mut self) {
        let mut ended = Some(self.qemu.exited());
        let mut helper_ended = self.helper.as_ref().map(|helper| helper.exited());
        let (mut listening, mut helped) = (true, helper_ended.is_some());
        loop {
            // All are cancel-safe: a watch keeps its value, and recv takes nothing before it is chosen.
            tokio::select! {
                () = end_of(&mut ended) => return,
                event = self.events.recv(), if listening => match event {
                    Ok(event) => self.note(&event).await,
                    Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "qemu's events come too fast"),
                    Err(RecvError::Closed) => {
                        listening = false;
                        self.outlive_the_connection().await;
                    }
                },
                () = end_of(&mut helper_ended), if helped => {
                    helped = false;
                    self.lose_the_helper();
                }
            }
        }
    }

    async fn remaining_events(&mut self) {
        loop {
            match self.events.recv().await {
                Ok(event) => self.note_shutdown(&event),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    async fn note(&mut self, event: &Event) {
        tracing::debug!(event = event.name, data = %event.data, "qemu event");
        self.note_shutdown(event);
        if event.name == "STOP" {
            self.check_why_it_stopped().await;
        }
    }

    fn note_shutdown(&mut self, event: &Event) {
        let note = match event.name.as_str() {
            "SHUTDOWN" => match event.data::<Shutdown>().map(|data| data.reason).as_deref() {
                Some("guest-shutdown") => "the guest powered off",
                Some("guest-reset") => "the guest restarted, as it does when its kernel panics",
                Some("guest-panic") => "the guest's kernel panicked",
                Some("host-signal") => "qemu was told to end by a signal",
                _ => return, // Our own command, or what QEMU itself explains on its standard error.
            },
            "GUEST_PANICKED" => "the guest's kernel panicked",
            _ => return,
        };
        self.notes.push(note.into());
    }

    /// A guest that QEMU cannot run is paused by it: to everybody else it just hangs.
    async fn check_why_it_stopped(&mut self) {
        match self.qmp.execute(QueryStatus {}).await {
            Ok(status) if status.status == "internal-error" => {
                self.notes.push(
                    "the accelerator cannot run this guest (internal-error); if this host's KVM only emulates, set \
                     accelerator = \"tcg\""
                        .into(),
                );
                self.qemu.signal(nix::libc::SIGKILL);
            }
            Ok(status) => tracing::debug!(status = status.status, "the guest is stopped"),
            Err(error) => tracing::warn!(%error, "why the guest is stopped is unknown"),
        }
    }

    /// A QEMU that cannot be commanded any more is not left running.
    async fn outlive_the_connection(&mut self) {
        if self.qemu.wait(HANG_UP_GRACE).await.is_err() {
            self.notes.push("qemu gave up its QMP connection".into());
            self.qemu.signal(nix::libc::SIGKILL);
        }
    }

    /// Without the helper nobody reaches the agent any more.
    fn lose_the_helper(&mut self) {
        if let (Some(helper), false) = (&self.helper, self.stopping.load(Ordering::Relaxed)) {
            self.notes.push(helper.epitaph());
            self.qemu.signal(nix::libc::SIGKILL);
        }
    }

    fn reason(&self) -> String {
        if self.stopping.load(Ordering::Relaxed) {
            return "stopped on request".into();
        }
        let mut reason = self.notes.clone();
        reason.push(self.qemu.epitaph());
        let words = self.console.last_words();
        if !words.is_empty() {
            reason.push(format!("the guest's console says: {words}"));
        }
        reason.join("; ")
    }
}

/// Waits for the end of a process that exists. Cancel-safe.
async fn end_of<T>(exited: &mut Option<watch::Receiver<Option<T>>>) {
    match exited {
        Some(exited) => {
            let _ = exited.wait_for(Option::is_some).await; // An error is the end of the watch, thus of the process.
        }
        None => std::future::pending().await,
    }
}

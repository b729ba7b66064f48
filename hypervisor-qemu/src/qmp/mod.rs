//! A client of QEMU's machine protocol (QMP).
//!
//! One task owns the connection and brings each command to its end; a caller waits on a oneshot with a deadline and
//! may go away at any time. What QEMU sends is not trusted: it is bounded, and nonsense ends the connection with an
//! error for everyone who waits.

mod connection;
mod message;

use std::{
    os::fd::OwnedFd,
    sync::{Arc, OnceLock},
    time::Duration,
};

use qapi_spec::Command;
use runtime::{
    error::{Context, Error, Result},
    fault::{self, Side},
};
use serde_json::Value;
use tokio::{
    net::UnixStream,
    sync::{broadcast, mpsc, oneshot},
    time::timeout,
};

pub use message::Event;

use connection::{Connection, Request};

/// How long QEMU may take from its start to the greeting: 30-90 ms on a quiet machine, seconds on a crowded one.
const GREETING_DEADLINE: Duration = Duration::from_secs(20);
/// How long one command may take: 0.2 ms normally, seconds while QEMU's main loop waits for a slow back end.
const COMMAND_DEADLINE: Duration = Duration::from_secs(10);
/// Commands that may wait to be written.
const QUEUE: usize = 16;
/// Events that a slow listener may be behind before it loses the oldest.
const EVENT_QUEUE: usize = 64;

/// A negotiated connection to one QEMU. Dropping it closes the connection.
#[derive(Debug)]
pub struct Qmp {
    requests: mpsc::Sender<Request>,
    /// Weak, so that listeners hear the end as soon as the connection has ended.
    events: broadcast::WeakSender<Event>,
    end: Arc<OnceLock<String>>,
}

impl Qmp {
    /// Waits for QEMU's greeting and leaves negotiation mode. Also returns the listener that misses no event.
    pub async fn connect(stream: UnixStream) -> Result<(Self, broadcast::Receiver<Event>)> {
        timeout(GREETING_DEADLINE, Self::negotiate(stream))
            .await
            .map_err(|_| Error::deadline(format!("no answer within {GREETING_DEADLINE:?}")))
            .flatten()
            .context("qmp greeting")
    }

    async fn negotiate(stream: UnixStream) -> Result<(Self, broadcast::Receiver<Event>)> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let (sender, listener) = broadcast::channel(EVENT_QUEUE);
        let events = sender.downgrade();
        let end = Arc::new(OnceLock::new());
        let mut connection = Connection::new(stream, sender, end.clone());
        let version = connection.greeting().await?;
        tracing::debug!(version, "qemu greets");
        // Ends when the handle is dropped or QEMU hangs up, whichever is first.
        tokio::spawn(connection.run(queue));
        let qmp = Self { requests, events, end };
        qmp.execute(qapi_qmp::qmp_capabilities { enable: None }).await?;
        Ok((qmp, listener))
    }

    /// Runs one command. Dropping the call loses only its answer.
    pub async fn execute<C: Command>(&self, command: C) -> Result<C::Ok> {
        self.execute_with_fds(command, Vec::new()).await
    }

    /// Runs a command that takes descriptors along, such as `getfd` and `add-fd`.
    pub async fn execute_with_fds<C: Command>(&self, command: C, fds: Vec<OwnedFd>) -> Result<C::Ok> {
        let call = async {
            let arguments = serde_json::to_value(&command).context("encode the arguments")?;
            fault::point("qmp", C::NAME, Side::Before)?;
            let answer = timeout(fault::patience(COMMAND_DEADLINE), self.ask(C::NAME, arguments, fds))
                .await
                .map_err(|_| Error::deadline(format!("no answer within {COMMAND_DEADLINE:?}")))??;
            fault::point("qmp", C::NAME, Side::After)?;
            serde_json::from_value(answer).context("decode the answer")
        };
        call.await.with_context(|| format!("qmp {}", C::NAME))
    }

    /// Events from now on. Closed once the connection has ended.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        match self.events.upgrade() {
            Some(sender) => sender.subscribe(),
            None => broadcast::channel(1).1,
        }
    }

    async fn ask(&self, command: &'static str, arguments: Value, fds: Vec<OwnedFd>) -> Result<Value> {
        let (reply, answer) = oneshot::channel();
        let request = Request { command, arguments, fds, reply };
        if self.requests.send(request).await.is_err() {
            return Err(self.ended());
        }
        answer.await.map_err(|_| self.ended())?
    }

    fn ended(&self) -> Error {
        let reason = self.end.get().map_or("the connection has ended", String::as_str);
        Error::unavailable(reason)
    }
}

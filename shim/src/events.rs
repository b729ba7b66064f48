//! The engine's events -> containerd, in their order.
//!
//! One task takes events in at once and sends them one by one; whoever causes them is never held up. An event is sent
//! until containerd has answered it, over as many connections as that takes, so containerd may be restarted meanwhile.
//! What waits is bounded: when containerd stays away, the oldest goes. Only an event whose connection broke before the
//! answer came, or whose answer took longer than [`ANSWER`], is sent again: nobody can tell whether it had arrived.

use std::{collections::VecDeque, path::PathBuf, pin::pin, time::Duration};

use containerd_shim_protos::{
    shim::{event::Envelope, events::ForwardRequest},
    shim_async::EventsClient,
};
use runtime::events::Event;
use tokio::{
    net::UnixStream,
    sync::{Notify, mpsc::UnboundedReceiver, oneshot},
    task::JoinHandle,
    time::timeout,
};
use ttrpc::{
    Code,
    r#async::{Client, transport::Socket},
    context,
};

use crate::convert;

/// How many events wait for containerd at most.
const LIMIT: usize = 1024;
/// For one connection.
const DEADLINE: Duration = Duration::from_secs(5);
/// For one answer. A containerd that is only slow must not be told twice.
const ANSWER: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// The running publisher.
#[derive(Debug)]
pub struct Publisher {
    task: JoinHandle<()>,
    closing: oneshot::Sender<()>,
}

impl Publisher {
    /// Publishes what comes from `events` to the socket `address`, or to the log if there is none (CRI-O).
    pub fn start(events: UnboundedReceiver<Event>, namespace: String, address: Option<PathBuf>) -> Self {
        let (closing, closed) = oneshot::channel();
        let task = match address {
            Some(address) => {
                let endpoint = Endpoint { address, client: None };
                tokio::spawn(publish(events, namespace, endpoint, closed))
            }
            None => tokio::spawn(log(events, closed)),
        };
        Self { task, closing }
    }

    /// Sends what has come so far, for as long as `patience` lasts, and ends.
    pub async fn close(mut self, patience: Duration) {
        let _ = self.closing.send(()); // It ends by itself when nobody can send it events any more.
        if timeout(patience, &mut self.task).await.is_err() {
            tracing::warn!("the last events were not sent: containerd does not answer");
            self.task.abort();
        }
    }
}

/// The address that containerd gives in `TTRPC_ADDRESS`, with or without a scheme.
pub fn endpoint(variable: Option<String>) -> Option<PathBuf> {
    let address = variable?;
    let path = address.strip_prefix("unix://").unwrap_or(&address);
    (!path.is_empty()).then(|| path.into())
}

async fn log(mut events: UnboundedReceiver<Event>, mut closed: oneshot::Receiver<()>) {
    while let Some(event) = next(&mut events, &mut closed).await {
        tracing::info!(?event, "event");
    }
}

async fn publish(
    mut events: UnboundedReceiver<Event>,
    namespace: String,
    mut endpoint: Endpoint,
    mut closed: oneshot::Receiver<()>,
) {
    let mut backlog = Backlog::default();
    loop {
        let Some(envelope) = backlog.waiting.pop_front() else {
            let Some(event) = next(&mut events, &mut closed).await else { return };
            backlog.add(event, &namespace);
            continue;
        };
        let hurry = Notify::new();
        let mut delivery = pin!(endpoint.deliver(envelope, &hurry));
        let mut is_open = true;
        loop {
            tokio::select! {
                () = &mut delivery => break,
                event = next(&mut events, &mut closed), if is_open => {
                    is_open = event.is_some();
                    if let Some(event) = event {
                        backlog.add(event, &namespace);
                    }
                    hurry.notify_one();
                }
            }
        }
    }
}

/// The next event; none when there can be no more. Cancel-safe.
async fn next(events: &mut UnboundedReceiver<Event>, closed: &mut oneshot::Receiver<()>) -> Option<Event> {
    tokio::select! {
        biased;
        _ = closed, if !events.is_closed() => {
            events.close();
            events.try_recv().ok()
        }
        event = events.recv() => event,
    }
}

/// What waits to be sent.
#[derive(Debug, Default)]
struct Backlog {
    waiting: VecDeque<Envelope>,
    dropped: u64,
}

impl Backlog {
    fn add(&mut self, event: Event, namespace: &str) {
        let (topic, event) = match convert::event(event) {
            Ok(encoded) => encoded,
            Err(error) => return tracing::error!(%error, "an event is lost"),
        };
        if self.waiting.len() == LIMIT {
            self.waiting.pop_front();
            self.dropped += 1;
            if self.dropped.is_power_of_two() {
                tracing::warn!(dropped = self.dropped, "containerd takes no events: the oldest are dropped");
            }
        }
        self.waiting.push_back(Envelope {
            timestamp: Some(convert::timestamp(std::time::SystemTime::now())).into(),
            namespace: namespace.into(),
            topic: topic.into(),
            event: Some(event).into(),
            ..Default::default()
        });
    }
}

/// containerd's event service, connected or not.
struct Endpoint {
    address: PathBuf,
    client: Option<EventsClient>,
}

impl Endpoint {
    /// Sends until there is an answer, good or bad. In a `hurry` it is tried again at once: whoever causes events may have
    /// heard from containerd, and there is little time when no more will come.
    async fn deliver(&mut self, envelope: Envelope, hurry: &Notify) {
        let topic = envelope.topic.clone();
        let request = ForwardRequest { envelope: Some(envelope).into(), ..Default::default() };
        let mut pause = FIRST_PAUSE;
        loop {
            match self.forward(&request).await {
                Ok(()) => return,
                Err(ttrpc::Error::RpcStatus(status)) if status.code() != Code::DEADLINE_EXCEEDED => {
                    return tracing::warn!(topic, error = status.message(), "containerd refuses an event");
                }
                Err(error) => {
                    // Whatever it was, a new connection may be better.
                    self.client = None;
                    tracing::debug!(topic, %error, "an event is sent again");
                    pause = match timeout(pause, hurry.notified()).await {
                        Ok(()) => FIRST_PAUSE,
                        Err(_) => (2 * pause).min(LONGEST_PAUSE),
                    };
                }
            }
        }
    }

    async fn forward(&mut self, request: &ForwardRequest) -> ttrpc::Result<()> {
        let late = |_| ttrpc::Error::Others("no answer in time".into());
        let client = match &mut self.client {
            Some(client) => client,
            empty => {
                let stream = timeout(DEADLINE, UnixStream::connect(&self.address)).await.map_err(late)?;
                let stream = stream.map_err(|error| ttrpc::Error::Socket(error.to_string()))?;
                empty.insert(EventsClient::new(Client::new(Socket::from(stream))))
            }
        };
        let answer = client.forward(context::with_duration(ANSWER), request);
        timeout(ANSWER, answer).await.map_err(late)?.map(drop)
    }
}

//! The events of all tasks, as containerd hands them on, kept in their order.

use std::time::Duration;

use prost::Message;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    client::Client,
    messages::{Any, Empty, Envelope, SubscribeRequest, TaskDelete, TaskEvent, TaskExec, TaskExit},
};

/// How long an event may take to arrive after what it tells of.
const PATIENCE: Duration = Duration::from_secs(30);
const FIRST: &str = "/compare/first";

/// One event in short: whose it is and what it says.
#[derive(Debug, Clone)]
pub struct Told {
    pub container: String,
    /// As in `exit init 137`.
    pub text: String,
}

/// All that was told since it began.
pub struct EventLog {
    told: watch::Receiver<Vec<Told>>,
    reader: JoinHandle<()>,
}

#[derive(Clone, PartialEq, Message)]
struct PublishRequest {
    #[prost(string, tag = "1")]
    topic: String,
    #[prost(message, optional, tag = "2")]
    event: Option<Any>,
}

impl EventLog {
    /// Subscribes, and returns when events surely arrive.
    pub async fn begin(client: &Client) -> Self {
        let (sender, mut told) = watch::channel(Vec::new());
        let reader = tokio::spawn(read(client.clone(), sender));
        let began = Instant::now();
        // Nothing else tells when the subscription stands.
        while told.borrow_and_update().is_empty() {
            assert!(began.elapsed() < PATIENCE, "containerd tells no events");
            let event = Any { type_url: "containerd.events.TaskStart".into(), value: Vec::new() };
            let first = PublishRequest { topic: FIRST.into(), event: Some(event) };
            let published: Result<Empty, _> =
                client.call("containerd.services.events.v1.Events/Publish", first).await;
            published.unwrap_or_else(|status| panic!("publish an event: {status}"));
            let _ = timeout(Duration::from_millis(50), told.changed()).await; // Then it is published again.
        }
        Self { told, reader }
    }

    /// The events of a container up to one that begins with `last`, or all, with a word, if that never comes.
    pub async fn of(&self, container: &str, last: &str) -> Vec<String> {
        let mut told = self.told.clone();
        let has = |all: &Vec<Told>| all.iter().any(|e| e.container == container && e.text.starts_with(last));
        let came = timeout(PATIENCE, told.wait_for(has)).await;
        let missing = came.is_err();
        let mut found: Vec<String> =
            self.told.borrow().iter().filter(|e| e.container == container).map(|e| e.text.clone()).collect();
        if missing {
            found.push(format!("(no {last})"));
        }
        found
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read(client: Client, sender: watch::Sender<Vec<Told>>) {
    let filters = vec!["topic~=\"^/tasks/\"".to_owned(), format!("topic==\"{FIRST}\"")];
    let subscribed = client
        .stream::<_, Envelope>("containerd.services.events.v1.Events/Subscribe", SubscribeRequest { filters })
        .await;
    let mut stream = match subscribed {
        Ok(stream) => stream,
        Err(status) => panic!("subscribe to events: {status}"),
    };
    // Ends with containerd.
    while let Ok(Some(envelope)) = stream.message().await {
        let told = tell(&envelope);
        sender.send_modify(|all| all.push(told));
    }
    sleep(Duration::ZERO).await;
}

fn tell(envelope: &Envelope) -> Told {
    let bytes = envelope.event.as_ref().map_or(&[][..], |event| &event.value);
    let container = TaskEvent::decode(bytes).unwrap_or_default().container_id;
    let name = |id: &str| if id == container || id.is_empty() { "init".to_owned() } else { id.to_owned() };
    let topic = envelope.topic.strip_prefix("/tasks/").unwrap_or(&envelope.topic);
    let text = match topic {
        "exit" => {
            let exit = TaskExit::decode(bytes).unwrap_or_default();
            format!("exit {} {}", name(&exit.id), exit.exit_status)
        }
        "delete" => {
            let delete = TaskDelete::decode(bytes).unwrap_or_default();
            format!("delete {} {}", name(&delete.id), delete.exit_status)
        }
        "exec-added" | "exec-started" => {
            format!("{topic} {}", TaskExec::decode(bytes).unwrap_or_default().exec_id)
        }
        _ => topic.to_owned(),
    };
    Told { container, text }
}

//! The event publisher against a containerd that is there, gone, restarted, hung, or refuses.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use containerd_shim_protos::{
    api::Empty,
    events::task::TaskStart,
    protobuf::Message,
    shim::events::ForwardRequest,
    shim_async::{Events, create_events},
};
use runtime::events::Event;
use shim::events::{Publisher, endpoint};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use ttrpc::r#async::{Server, TtrpcContext, transport::Listener};

const PATIENCE: Duration = Duration::from_secs(20);

/// containerd's event service: remembers what it was sent.
#[derive(Clone)]
struct Containerd {
    told: UnboundedSender<String>,
    namespaces: Arc<Mutex<Vec<String>>>,
    hangs: Arc<AtomicBool>,
    slow: Arc<AtomicBool>,
    refuses: Arc<AtomicBool>,
}

#[async_trait]
impl Events for Containerd {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if self.refuses.load(Ordering::Relaxed) {
            return Err(ttrpc::Error::RpcStatus(ttrpc::get_status(ttrpc::Code::INVALID_ARGUMENT, "no")));
        }
        let envelope = request.envelope.unwrap();
        assert!(envelope.timestamp.seconds > 0);
        assert_eq!(
            (envelope.topic.as_str(), envelope.event.type_url.as_str()),
            ("/tasks/start", "containerd.events.TaskStart")
        );
        let event = TaskStart::parse_from_bytes(&envelope.event.value).unwrap();
        self.namespaces.lock().unwrap().push(envelope.namespace.clone());
        self.told.send(event.container_id).unwrap();
        if self.slow.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
        Ok(Empty::new())
    }
}

struct Fixture {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    service: Containerd,
    told: UnboundedReceiver<String>,
    events: UnboundedSender<Event>,
    publisher: Publisher,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("c.sock.ttrpc");
        let (told, hears) = unbounded_channel();
        let service = Containerd {
            told,
            namespaces: Arc::default(),
            hangs: Arc::default(),
            slow: Arc::default(),
            refuses: Arc::default(),
        };
        let (events, receiver) = unbounded_channel();
        let publisher = Publisher::start(receiver, "ns".into(), Some(socket.clone()));
        Self { _dir: dir, socket, service, told: hears, events, publisher }
    }

    async fn serve(&self) -> Server {
        serve(&self.socket, self.service.clone()).await
    }

    fn send(&self, names: impl IntoIterator<Item = usize>) {
        for name in names {
            self.events.send(Event::Started { container: name.to_string(), pid: 7 }).unwrap();
        }
    }

    async fn hear(&mut self) -> usize {
        tokio::time::timeout(PATIENCE, self.told.recv()).await.expect("an event").unwrap().parse().unwrap()
    }

    async fn expect(&mut self, names: impl IntoIterator<Item = usize>) {
        for name in names {
            assert_eq!(self.hear().await, name);
        }
    }
}

async fn serve(socket: &Path, service: Containerd) -> Server {
    let _ = std::fs::remove_file(socket);
    let listener = Listener::try_from(std::os::unix::net::UnixListener::bind(socket).unwrap()).unwrap();
    let mut server = Server::new().add_listener(listener).register_service(create_events(Arc::new(service)));
    server.start().await.unwrap();
    server
}

#[tokio::test]
async fn events_arrive_in_order_under_their_namespace() {
    let mut fixture = Fixture::new();
    let _server = fixture.serve().await;
    fixture.send(0..200);
    fixture.expect(0..200).await;
    assert!(fixture.service.namespaces.lock().unwrap().iter().all(|namespace| namespace == "ns"));
}

#[tokio::test]
async fn events_wait_for_a_containerd_that_is_not_there_yet() {
    let mut fixture = Fixture::new();
    fixture.send(0..10);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let _server = fixture.serve().await;
    fixture.expect(0..10).await;
}

#[tokio::test]
async fn a_restart_loses_nothing_and_changes_no_order() {
    let mut fixture = Fixture::new();
    let mut server = fixture.serve().await;
    fixture.send(0..5);
    fixture.expect(0..5).await;
    server.shutdown().await.unwrap();
    drop(server);
    fixture.send(5..20);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let _server = fixture.serve().await;
    fixture.send(20..25);
    fixture.expect(5..25).await;
}

#[tokio::test(start_paused = true)]
async fn a_containerd_that_is_away_for_longer_than_a_minute_is_told_everything_once() {
    let mut fixture = Fixture::new();
    let mut server = fixture.serve().await;
    fixture.send(0..2);
    fixture.expect(0..2).await;
    server.shutdown().await.unwrap();
    drop(server);
    let _ = std::fs::remove_file(&fixture.socket);
    for name in 2..20 {
        fixture.send([name]);
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    let _server = fixture.serve().await;
    fixture.expect(2..20).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(fixture.told.try_recv().is_err(), "something was sent twice");
}

#[tokio::test(start_paused = true)]
async fn a_slow_containerd_is_told_once() {
    let mut fixture = Fixture::new();
    fixture.service.slow.store(true, Ordering::Relaxed);
    let _server = fixture.serve().await;
    fixture.send(0..3);
    tokio::time::sleep(Duration::from_secs(120)).await;
    let mut names = Vec::new();
    while let Ok(name) = fixture.told.try_recv() {
        names.push(name);
    }
    assert_eq!(names, ["0", "1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_hung_containerd_is_left_for_a_new_connection() {
    let mut fixture = Fixture::new();
    fixture.service.hangs.store(true, Ordering::Relaxed);
    let _server = fixture.serve().await;
    fixture.send(0..3);
    tokio::time::sleep(Duration::from_millis(200)).await;
    fixture.service.hangs.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(40)).await;
    fixture.expect(0..3).await;
}

#[tokio::test]
async fn a_refused_event_does_not_hold_up_the_next() {
    let mut fixture = Fixture::new();
    fixture.service.refuses.store(true, Ordering::Relaxed);
    let _server = fixture.serve().await;
    fixture.send([0]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    fixture.service.refuses.store(false, Ordering::Relaxed);
    fixture.send([1]);
    fixture.expect([1]).await;
}

#[tokio::test]
async fn when_containerd_stays_away_the_oldest_events_go() {
    let mut fixture = Fixture::new();
    fixture.send(0..3000);
    // Until everything was taken in: the sender's side does not grow.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let _server = fixture.serve().await;
    let mut heard = Vec::new();
    while heard.last() != Some(&2999) {
        heard.push(fixture.hear().await);
    }
    assert!(heard.is_sorted(), "out of order");
    assert!((1000..1100).contains(&heard.len()), "{} events were kept", heard.len());
    assert!(heard.iter().rev().copied().take(1000).eq((2000..3000).rev()), "the newest are whole");
}

#[tokio::test(start_paused = true)]
async fn a_containerd_that_is_back_is_told_at_the_next_event_and_at_the_close() {
    const AWAY: Duration = Duration::from_secs(58);
    let mut fixture = Fixture::new();
    fixture.send([0]);
    tokio::time::sleep(AWAY).await;
    let _server = fixture.serve().await;
    let back = tokio::time::Instant::now();
    fixture.send([1]);
    fixture.expect(0..2).await;
    assert!(back.elapsed() < Duration::from_millis(500), "{:?}", back.elapsed());

    let fixture = Fixture::new();
    fixture.send([0]);
    tokio::time::sleep(AWAY).await;
    let _server = fixture.serve().await;
    let Fixture { publisher, mut told, events: _events, .. } = fixture;
    // Less than the pause between two attempts.
    publisher.close(Duration::from_millis(500)).await;
    assert_eq!(told.try_recv().unwrap(), "0");
}

#[tokio::test]
async fn closing_sends_what_is_left_and_is_bounded() {
    let fixture = Fixture::new();
    let _server = fixture.serve().await;
    fixture.send(0..50);
    let Fixture { publisher, mut told, events: _events, .. } = fixture;
    publisher.close(PATIENCE).await;
    let mut names = Vec::new();
    while let Ok(name) = told.try_recv() {
        names.push(name.parse::<usize>().unwrap());
    }
    assert!(names.into_iter().eq(0..50), "everything was sent before close returned");

    let fixture = Fixture::new();
    fixture.service.hangs.store(true, Ordering::Relaxed);
    let _server = fixture.serve().await;
    fixture.send([0]);
    let began = Instant::now();
    fixture.publisher.close(Duration::from_millis(200)).await;
    assert!(began.elapsed() < Duration::from_secs(2), "close took {:?}", began.elapsed());
}

#[tokio::test]
async fn without_an_address_closing_does_not_wait() {
    let (events, receiver) = unbounded_channel();
    let publisher = Publisher::start(receiver, "ns".into(), endpoint(Some(String::new())));
    events.send(Event::Started { container: "c".into(), pid: 1 }).unwrap();
    let began = Instant::now();
    publisher.close(PATIENCE).await;
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[test]
fn the_address_may_have_a_scheme() {
    for (variable, path) in [
        (Some("/c.sock.ttrpc"), Some("/c.sock.ttrpc")),
        (Some("unix:///c.sock.ttrpc"), Some("/c.sock.ttrpc")),
        (Some(""), None),
        (None, None),
    ] {
        assert_eq!(endpoint(variable.map(str::to_owned)), path.map(PathBuf::from));
    }
}

//! Stands between shims and containerd's event service: writes every event down and passes it on, and is as gone as
//! containerd is when that is stopped.

use std::{
    fs, io,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use containerd_shim_protos::{
    api::Empty,
    events::task::{TaskExit, TaskOOM},
    protobuf::Message,
    shim::events::ForwardRequest,
    shim_async::{Events, EventsClient, create_events},
};
use tokio::runtime::Runtime;
use ttrpc::{
    r#async::{Client, Server, TtrpcContext, transport::Listener},
    context,
};

/// For an event to come.
const PATIENCE: Duration = Duration::from_secs(60);
/// For containerd's answer.
const ANSWER: Duration = Duration::from_secs(10);

/// One event: its topic without `/tasks/`, the container, and the process and code of an exit, or the name of an exec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub topic: String,
    pub container: String,
    pub detail: String,
}

/// What was told so far.
#[derive(Default)]
struct Notes {
    told: Mutex<Vec<Told>>,
    more: Condvar,
}

impl Notes {
    fn lock(&self) -> MutexGuard<'_, Vec<Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The recorder.
pub struct EventRecorder {
    runtime: Runtime,
    socket: PathBuf,
    notes: Arc<Notes>,
    server: Option<Server>,
}

impl EventRecorder {
    /// Records what comes to `socket`, from nothing; [`Self::serve`] opens it.
    pub fn new(socket: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("start an executor");
        Self { runtime, socket: socket.into(), notes: Arc::default(), server: None }
    }

    /// Takes the place of the event service of a running containerd.
    pub fn intercept(socket: &Path) -> Self {
        let moved = socket.with_extension("containerd");
        fs::rename(socket, &moved).expect("move containerd's socket");
        let mut recorder = Self::new(socket);
        recorder.serve(&moved);
        recorder
    }

    /// Opens the socket and passes events on to `containerd`.
    pub fn serve(&mut self, containerd: &Path) {
        let address = format!("unix://{}", containerd.display());
        let notes = self.notes.clone();
        let socket = self.socket.clone();
        self.server = Some(self.runtime.block_on(async move {
            let client = Client::connect(&address).await.expect("connect to containerd");
            let service = Recording { notes, containerd: EventsClient::new(client) };
            let listener = UnixListener::bind(&socket).and_then(Listener::try_from).expect("bind");
            let mut server =
                Server::new().add_listener(listener).register_service(create_events(Arc::new(service)));
            server.start().await.expect("serve events");
            server
        }));
    }

    /// Closes the socket, as containerd's end does.
    pub fn close(&mut self) {
        if let Some(mut server) = self.server.take() {
            self.runtime.block_on(async {
                server.stop_listen().await;
                server.disconnect().await;
            });
        }
        match fs::remove_file(&self.socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("remove the socket: {error}"),
            _ => {}
        }
    }

    /// The events of a container, in order, once one is as `wanted`.
    pub fn until(&self, container: &str, wanted: impl Fn(&Told) -> bool) -> Vec<Told> {
        let began = Instant::now();
        let mut told = self.notes.lock();
        loop {
            let of: Vec<_> = told.iter().filter(|told| told.container == container).cloned().collect();
            if of.iter().any(&wanted) {
                return of;
            }
            let left = PATIENCE.checked_sub(began.elapsed());
            let left = left.unwrap_or_else(|| panic!("waited in vain; of {container} was told: {of:?}"));
            told = self.notes.more.wait_timeout(told, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The topics of a container's events, in order, up to its delete.
    pub fn topics(&self, container: &str) -> Vec<String> {
        let told = self.until(container, |told| told.topic == "delete");
        told.into_iter().map(|told| format!("{}{}", told.topic, told.detail)).collect()
    }
}

struct Recording {
    notes: Arc<Notes>,
    containerd: EventsClient,
}

#[async_trait]
impl Events for Recording {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        self.containerd.forward(context::with_duration(ANSWER), &request).await?;
        self.notes.lock().push(told(&request));
        self.notes.more.notify_all();
        Ok(Empty::new())
    }
}

fn told(request: &ForwardRequest) -> Told {
    let topic = request.envelope.topic.trim_start_matches("/tasks/").to_owned();
    let bytes = &request.envelope.event.value;
    // Field 1 of every task event is the container's id.
    let container = TaskOOM::parse_from_bytes(bytes).map(|event| event.container_id).unwrap_or_default();
    let detail = match TaskExit::parse_from_bytes(bytes) {
        Ok(exit) if topic == "exit" => {
            let process = if exit.id == container { "init" } else { &exit.id };
            format!(" {process} {}", exit.exit_status)
        }
        // Field 2 is the exec's name.
        Ok(exec) if topic.starts_with("exec-") => format!(" {}", exec.id),
        _ => String::new(),
    };
    Told { topic, container, detail }
}

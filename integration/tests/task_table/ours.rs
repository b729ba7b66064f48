//! Our shim's server over the fake VM.

use std::{os::unix::net::UnixListener, sync::Arc, time::Duration};

use containerd_shim_protos::shim_async::Client;
use integration::{
    fake_vm::{Behaviour, FakeHypervisor},
    workshop::{Workshop, options},
};
use runtime::events::Event;
use shim::{
    convert,
    keeper::{Keeper, KeeperSetup},
    logging::LogLevel,
    server,
};
use tokio::{sync::mpsc, task::JoinHandle};

use super::subject::Subject;

const ID: &str = "table-ours";

pub struct Ours {
    pub subject: Subject,
    events: mpsc::UnboundedReceiver<Event>,
    serving: JoinHandle<runtime::error::Result<()>>,
    _workshop: Workshop,
}

impl Ours {
    /// The topics of what it has told so far, in order.
    pub fn topics(&mut self) -> Vec<String> {
        let events = std::iter::from_fn(|| self.events.try_recv().ok());
        events.map(|event| convert::event(event).expect("a good event").0.to_owned()).collect()
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// `None`, with a word, without the right to mount.
pub async fn start(service: &'static str) -> Option<Ours> {
    let workshop = Workshop::open()?;
    let socket = workshop.path().join("shim.sock");
    let listener = UnixListener::bind(&socket).expect("bind");
    let (sender, events) = mpsc::unbounded_channel();
    let keeper = Keeper::new(KeeperSetup {
        hypervisor_for: Box::new(|_| FakeHypervisor::new(Behaviour::Boots)),
        paths: workshop.paths(),
        events: sender,
        log_level: LogLevel::default(),
        reserve: None,
    });
    let serving = tokio::spawn(server::serve(listener, Arc::new(keeper), Duration::from_secs(60)));
    let client = Client::connect(&format!("unix://{}", socket.display())).await.expect("connect");
    let bundle = workshop.bundle(ID, "exec sleep 1000").dir;
    let options = options(&workshop.config("").path);
    let subject = Subject::new(client, service, ID, bundle, Some(options));
    Some(Ours { subject, events, serving, _workshop: workshop })
}

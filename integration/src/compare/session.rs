//! A private containerd with both runtimes, and the rows run on it: each runtime in lanes of its
//! own, the rows of a lane one after the other.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use prost::Message;
use tokio::time::timeout;

use super::{
    client::Client,
    driver::{Bench, Driver},
    events::EventLog,
    messages::{Any, Runtime, RuntimeOptions},
    row::{INIT, Place, Row, Step, create_with},
    streams::Wiring,
};
use crate::{containerd::Containerd, environment::Environment};

/// How long one row may take.
const PATIENCE: Duration = Duration::from_secs(75);

/// Whose outcome it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Runc,
    Ours,
}

impl Kind {
    /// For an id: both of the same length.
    fn letter(self) -> char {
        match self {
            Self::Runc => 'r',
            Self::Ours => 'k',
        }
    }

    /// How many rows go on beside each other. With a VM a row takes five times as long.
    fn lanes(self) -> usize {
        match self {
            Self::Runc => 1,
            Self::Ours => 2,
        }
    }
}

/// A running containerd.
pub struct Session {
    containerd: Containerd,
    client: Client,
    events: Arc<EventLog>,
    config: PathBuf,
    image: String,
    dir: PathBuf,
}

impl Session {
    /// Starts it, and imports the image.
    pub async fn begin(env: &Environment) -> Self {
        let containerd = Containerd::start(env, None);
        let client = Client::connect(&containerd.socket(), containerd.namespace()).await;
        let events = Arc::new(EventLog::begin(&client).await);
        let snapshots = containerd.ctr(["snapshots", "ls"]).text();
        let committed = snapshots.lines().find(|line| line.contains("Committed"));
        let image = committed.and_then(|line| line.split_whitespace().next()).expect("the image's snapshot");
        // Off by default, as upstream; what is compared is what it does when on.
        let changes = [("disable_guest_seccomp", "disable_guest_seccomp = false".to_owned())];
        let config = env.configuration_with(containerd.dir(), "compare", &changes);
        let dir = containerd.dir().join("pipes");
        fs::create_dir(&dir).expect("make the pipes' folder");
        Self { image: image.to_owned(), config, containerd, client, events, dir }
    }

    /// The outcomes of all rows with each of the runtimes, by title; `done` hears of each as it comes.
    pub async fn run(
        &self,
        rows: &[Row],
        kinds: &[Kind],
        done: impl Fn(Kind, &Row, Duration),
    ) -> HashMap<(Kind, String), String> {
        let lanes = kinds.iter().flat_map(|kind| (0..kind.lanes()).map(|lane| (*kind, lane)));
        let all = join_all(lanes.map(|(kind, lane)| self.lane(rows, kind, lane, &done))).await;
        all.into_iter().flatten().collect()
    }

    /// Every so manieth row with one runtime, one after the other.
    async fn lane(
        &self,
        rows: &[Row],
        kind: Kind,
        lane: usize,
        done: &impl Fn(Kind, &Row, Duration),
    ) -> HashMap<(Kind, String), String> {
        let bench = Arc::new(self.bench(kind));
        let prefix = format!("{}{}-", kind.letter(), self.containerd.namespace());
        let shared = format!("{prefix}shared{lane}");
        let mut host = Driver::new(bench.clone(), &shared, "");
        if rows.iter().any(|row| row.place == Place::Shared) {
            let idle = create_with("trap 'exit 0' TERM; sleep 100000 & wait", Wiring::Nothing, []);
            host.drive(&[idle, Step::Start(INIT)]).await;
        }
        let mut outcomes = HashMap::new();
        for (number, row) in rows.iter().enumerate().skip(lane).step_by(kind.lanes()) {
            let began = Instant::now();
            let id = match row.place {
                Place::Own => format!("{prefix}{number}"),
                Place::Shared => shared.clone(),
            };
            let mut driver = Driver::new(bench.clone(), &id, &format!("x{number}-"));
            driver.expect_named(row.naming);
            let ended = timeout(PATIENCE, driver.drive(&row.steps)).await;
            let mut outcome = driver.outcome();
            if ended.is_err() {
                outcome += &format!("\n(not done within {PATIENCE:?})");
            }
            if row.place == Place::Own {
                driver.clear().await;
            }
            done(kind, row, began.elapsed());
            outcomes.insert((kind, row.title()), outcome);
        }
        host.clear().await;
        outcomes
    }

    /// One container that is driven step by step.
    pub fn driver(&self, kind: Kind, name: &str) -> Driver {
        let id = format!("{}{}-{name}", kind.letter(), self.containerd.namespace());
        Driver::new(Arc::new(self.bench(kind)), &id, "")
    }

    /// Its containerd, to be ended and begun again. Events are only told up to the first end.
    pub fn containerd(&mut self) -> &mut Containerd {
        &mut self.containerd
    }

    fn bench(&self, kind: Kind) -> Bench {
        let runtime = match kind {
            Kind::Runc => Runtime { name: "io.containerd.runc.v2".into(), options: None },
            Kind::Ours => {
                let options = RuntimeOptions { config_path: self.config.display().to_string() };
                let options =
                    Any { type_url: "runtimeoptions.v1.Options".into(), value: options.encode_to_vec() };
                Runtime { name: "io.containerd.kata.v2".into(), options: Some(options) }
            }
        };
        Bench {
            client: self.client.clone(),
            events: self.events.clone(),
            namespace: self.containerd.namespace().to_owned(),
            image: self.image.clone(),
            dir: self.dir.clone(),
            runtime,
        }
    }
}

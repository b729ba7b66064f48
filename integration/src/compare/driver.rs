//! Carries out a row's steps with one runtime, and writes down what each answered.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use prost::Message;
use serde_json::Value;
use tokio::{task::JoinHandle, time::sleep};
use tonic::{Code, Status};

use super::{
    client::Client,
    events::EventLog,
    messages::*,
    plain::{Plain, refusal},
    row::{Addition, Creation, INIT, Rootfs, Step, Who},
    spec,
    streams::Streams,
};

const SNAPSHOTTER: &str = "overlayfs";
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/";
/// How long a state may take that is only asked for.
const PATIENCE: Duration = Duration::from_secs(30);

/// What all rows of one runtime share.
pub struct Bench {
    pub client: Client,
    pub events: Arc<EventLog>,
    pub namespace: String,
    /// The committed snapshot of the image.
    pub image: String,
    /// Where the named pipes are.
    pub dir: PathBuf,
    pub runtime: Runtime,
}

/// One container of a row, and the processes it has had.
pub struct Driver {
    bench: Arc<Bench>,
    id: String,
    /// What the names of added processes begin with, so that rows may share a container.
    prefix: String,
    streams: HashMap<Who, Streams>,
    waits: Vec<(Who, JoinHandle<Result<WaitResponse, Status>>)>,
    made: usize,
    /// Whom it never came to life with; nobody will end their outputs.
    failed: HashSet<Who>,
    /// What a refusal must name.
    naming: Option<&'static str>,
    lines: Vec<String>,
}

type Answer = Result<String, Status>;

impl Driver {
    pub fn new(bench: Arc<Bench>, id: &str, prefix: &str) -> Self {
        Self {
            bench,
            id: id.to_owned(),
            prefix: prefix.to_owned(),
            streams: HashMap::new(),
            waits: Vec::new(),
            made: 0,
            failed: HashSet::new(),
            naming: None,
            lines: Vec::new(),
        }
    }

    /// From here on, of a refusal only what it names counts.
    pub fn expect_named(&mut self, naming: Option<&'static str>) {
        self.naming = naming;
    }

    /// All steps, one after the other; a line for each that has something to say.
    pub async fn drive(&mut self, steps: &[Step]) {
        for step in steps {
            self.step(step).await;
        }
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What standard output of a process has brought so far.
    pub fn brought(&self, who: Who) -> Vec<u8> {
        self.streams.get(who).map_or_else(Vec::new, Streams::brought)
    }

    /// What was written down, with everything taken out that must differ.
    pub fn outcome(&self) -> String {
        let plain = Plain::new([
            (self.prefix.clone(), ""),
            (self.id.clone(), "ID"),
            (self.bench.namespace.clone(), "NS"),
            (self.bench.dir.display().to_string(), "DIR"),
        ]);
        self.lines.iter().map(|line| plain.text(line)).collect::<Vec<_>>().join("\n")
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Create(creation) => {
                let answer = self.create(creation).await;
                self.mark(INIT, &answer);
                self.note("create".into(), answer);
            }
            Step::CreateAgain => {
                let answer = self.create_task(Vec::new(), INIT).await;
                self.note("create again".into(), answer);
            }
            Step::Start(who) => {
                let answer = self.tasks("Start", self.process(who)).await;
                let answer = answer.map(|_: StartResponse| "ok".into());
                self.mark(who, &answer);
                self.note(format!("start {who}"), answer);
            }
            Step::State(who) => {
                let answer = self.state(who).await;
                self.note(format!("state {who}"), answer);
            }
            Step::Wait(who) => {
                let answer = self.tasks("Wait", self.process(who)).await;
                self.note(format!("wait {who}"), answer.map(|w: WaitResponse| w.exit_status.to_string()));
            }
            Step::WaitBegin(who) => {
                let (client, request) = (self.bench.client.clone(), self.process(who));
                let waiting = async move { client.call(&method("Wait"), request).await };
                self.waits.push((who, tokio::spawn(waiting)));
            }
            Step::WaitEnd => self.end_waits().await,
            Step::Kill(who, signal) => self.kill(who, *signal, false).await,
            Step::KillAll(signal) => self.kill(INIT, *signal, true).await,
            Step::Delete(who) => {
                let answer = self.delete(who).await;
                self.note(format!("delete {who}"), answer);
            }
            Step::Exec(who, addition) => {
                let answer = self.exec(who, addition).await;
                self.mark(who, &answer);
                self.note(format!("exec {who}"), answer);
            }
            Step::ExecMany(count, script) => self.exec_many(*count, script).await,
            Step::Pause => self.plain_call("pause", "Pause", self.container()).await,
            Step::Resume => self.plain_call("resume", "Resume", self.container()).await,
            Step::Pids => {
                let answer = self.tasks("ListPids", self.container()).await;
                let count = |list: ListPidsResponse| list.processes.len().to_string();
                self.note("pids".into(), answer.map(count));
            }
            Step::Stats => {
                let answer = self.stats().await;
                self.note("stats".into(), answer);
            }
            Step::Update(resources) => {
                let resources = Some(any("LinuxResources", resources));
                let request = UpdateTaskRequest { container_id: self.id.clone(), resources };
                self.plain_call("update", "Update", request).await;
            }
            Step::Resize(who, width, height) => {
                let ProcessRequest { container_id, exec_id } = self.process(who);
                let request = ResizePtyRequest { container_id, exec_id, width: *width, height: *height };
                self.plain_call(&format!("resize {who}"), "ResizePty", request).await;
            }
            Step::CloseIo(who) => {
                let ProcessRequest { container_id, exec_id } = self.process(who);
                let request = CloseIoRequest { container_id, exec_id, stdin: true };
                self.plain_call(&format!("closeio {who}"), "CloseIO", request).await;
            }
            Step::Checkpoint => {
                let request = CheckpointTaskRequest { container_id: self.id.clone() };
                self.plain_call("checkpoint", "Checkpoint", request).await;
            }
            Step::Until(who, state) => self.until(who, state).await,
            Step::Events(last) => {
                let told = self.bench.events.of(&self.id, last).await;
                // How often the kernel tells of it differs between versions of cgroups.
                let mut told = told;
                told.dedup_by(|one, before| one == "oom" && before == "oom");
                self.lines.push(format!("events: {}", told.join(", ")));
            }
            on_streams => self.stream_step(on_streams).await,
        }
    }

    async fn stream_step(&mut self, step: &Step) {
        let (Step::Write(who, _)
        | Step::EndInput(who)
        | Step::BeginInput(who)
        | Step::Expect(who, _)
        | Step::Release(who)
        | Step::Leave(who)
        | Step::Output(who)) = step
        else {
            unreachable!("the other steps are dealt with above")
        };
        let Some(streams) = self.streams.get_mut(who) else {
            self.lines.push(format!("{who} has no streams"));
            return;
        };
        let failed = match step {
            Step::Write(_, bytes) => streams.write(bytes).await.err(),
            Step::Expect(_, words) => streams.expect(words).await.err(),
            Step::EndInput(_) => streams.end_input().await.err(),
            Step::BeginInput(_) => {
                streams.begin_input();
                None
            }
            Step::Release(_) => {
                streams.release();
                None
            }
            Step::Leave(_) => {
                streams.leave();
                None
            }
            _ if self.failed.contains(who) => None,
            _ => {
                let outputs = streams.outputs().await;
                self.lines.extend(outputs.into_iter().map(|line| format!("{who} {line}")));
                None
            }
        };
        self.lines.extend(failed.map(|error| format!("{who} {error}")));
    }

    fn mark(&mut self, who: Who, answer: &Answer) {
        if answer.is_err() {
            self.failed.insert(who);
        } else {
            self.failed.remove(who);
        }
    }

    fn note(&mut self, what: String, answer: Answer) {
        self.lines.push(match answer {
            Ok(answer) => format!("{what}: {answer}"),
            Err(status) => format!("{what}: {}", refusal(&status, self.naming)),
        });
    }

    async fn tasks<Q, A>(&self, name: &str, question: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.bench.client.call(&method(name), question).await
    }

    async fn plain_call<Q: Message + 'static>(&mut self, what: &str, name: &str, question: Q) {
        let answer = self.tasks(name, question).await;
        self.note(what.to_owned(), answer.map(|_: Empty| "ok".into()));
    }

    async fn create(&mut self, creation: &Creation) -> Answer {
        let bench = &self.bench;
        let prepare = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: self.id.clone(),
            parent: bench.image.clone(),
            // Else containerd may collect it before the container names it.
            labels: HashMap::from([("containerd.io/gc.root".to_owned(), "compare".to_owned())]),
        };
        let snapshot: PrepareSnapshotResponse =
            bench.client.call("containerd.services.snapshots.v1.Snapshots/Prepare", prepare).await?;
        let cgroup = format!("/{}/{}", bench.namespace, self.id);
        let mut spec = spec::container(creation.script, creation.wiring.terminal(), &cgroup);
        spec::change(&mut spec, &creation.changes);
        let container = Container {
            id: self.id.clone(),
            labels: HashMap::new(),
            image: String::new(),
            runtime: Some(bench.runtime.clone()),
            spec: Some(any("Spec", &spec)),
            snapshotter: SNAPSHOTTER.into(),
            snapshot_key: self.id.clone(),
        };
        let request = CreateContainerRequest { container: Some(container) };
        let _: Empty =
            bench.client.call("containerd.services.containers.v1.Containers/Create", request).await?;
        self.open(INIT, creation.wiring);
        let rootfs = match creation.rootfs {
            Rootfs::Snapshot => snapshot.mounts,
            Rootfs::Missing => Vec::new(),
            Rootfs::Broken => vec![Mount {
                kind: "bind".into(),
                source: "/there/is/no/such/folder".into(),
                target: String::new(),
                options: vec!["rbind".into(), "rw".into()],
            }],
        };
        self.create_task(rootfs, INIT).await
    }

    async fn create_task(&self, rootfs: Vec<Mount>, who: Who) -> Answer {
        let (stdin, stdout, stderr) = self.paths(who);
        let terminal = self.streams.get(who).is_some_and(|streams| streams.terminal);
        let container_id = self.id.clone();
        let request = CreateTaskRequest { container_id, rootfs, stdin, stdout, stderr, terminal };
        let created: CreateTaskResponse = self.tasks("Create", request).await?;
        Ok(if created.pid > 0 { "ok".into() } else { "ok, but no pid".into() })
    }

    async fn exec(&mut self, who: Who, addition: &Addition) -> Answer {
        let mut spec = spec::process(addition.script, addition.wiring.terminal());
        spec::change(&mut spec, &addition.changes);
        self.open(who, addition.wiring);
        let (stdin, stdout, stderr) = self.paths(who);
        let request = ExecProcessRequest {
            container_id: self.id.clone(),
            stdin,
            stdout,
            stderr,
            terminal: addition.wiring.terminal(),
            spec: Some(any("Process", &spec)),
            exec_id: self.exec_id(who),
        };
        let _: Empty = self.tasks("Exec", request).await?;
        Ok("ok".into())
    }

    async fn exec_many(&mut self, count: usize, script: &'static str) {
        let one = |number: usize| {
            let mut driver = Self::new(self.bench.clone(), &self.id, &format!("{}{number}-", self.prefix));
            let addition = Addition { script, wiring: super::streams::Wiring::Pipes, changes: Vec::new() };
            async move {
                driver.drive(&[Step::Exec("e", addition)]).await;
                driver.drive(&super::row::to_the_end("e")).await;
                driver.outcome()
            }
        };
        let outcomes = join_all((0..count).map(one)).await;
        for outcome in &outcomes {
            let known = self.lines.iter().any(|line| line == outcome);
            if !known {
                let same = outcomes.iter().filter(|other| *other == outcome).count();
                self.lines.push(outcome.clone());
                self.lines.push(format!("so {same} times"));
            }
        }
    }

    async fn kill(&mut self, who: Who, signal: u32, all: bool) {
        let ProcessRequest { container_id, exec_id } = self.process(who);
        let request = KillRequest { container_id, exec_id, signal, all };
        let what = if all { format!("kill all {signal}") } else { format!("kill {who} {signal}") };
        self.plain_call(&what, "Kill", request).await;
    }

    async fn delete(&mut self, who: Who) -> Answer {
        let deleted: DeleteResponse = if who == INIT {
            self.tasks("Delete", self.container()).await?
        } else {
            self.tasks("DeleteProcess", self.process(who)).await?
        };
        let exited = deleted.exited_at.is_some_and(|at| at.seconds > 0);
        Ok(format!("{}{}", deleted.exit_status, if exited { "" } else { " (no time of exit)" }))
    }

    async fn state(&self, who: Who) -> Answer {
        let got: GetResponse = self.tasks("Get", self.process(who)).await?;
        let process = got.process.unwrap_or_default();
        let name = match process.status {
            1 => "created".to_owned(),
            2 => "running".to_owned(),
            3 => format!("stopped {}", process.exit_status),
            4 => "paused".to_owned(),
            5 => "pausing".to_owned(),
            other => format!("status {other}"),
        };
        let pid = if process.pid > 0 { "" } else { ", no pid" };
        Ok(format!("{name}{pid}"))
    }

    async fn until(&mut self, who: Who, wanted: &str) {
        let began = Instant::now();
        loop {
            let answer = self.state(who).await;
            if answer.as_ref().is_ok_and(|state| state.starts_with(wanted)) || began.elapsed() > PATIENCE {
                return self.note(format!("state {who}"), answer);
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn stats(&self) -> Answer {
        let request = MetricsRequest { filters: vec![format!("id=={}", self.id)] };
        let mut answer: MetricsResponse = self.tasks("Metrics", request).await?;
        let Some(metric) = answer.metrics.pop() else { return Ok("none".into()) };
        let data = metric.data.unwrap_or_default();
        Ok(format!("{} with {}", data.type_url, statistics(&data.value)))
    }

    async fn end_waits(&mut self) {
        for (who, wait) in std::mem::take(&mut self.waits) {
            let answer = wait.await.expect("a wait does not panic");
            self.note(format!("begun wait {who}"), answer.map(|w| w.exit_status.to_string()));
        }
    }

    /// Takes everything away, whatever state it is in. Not part of the outcome.
    pub async fn clear(&mut self) {
        let kill =
            KillRequest { container_id: self.id.clone(), exec_id: String::new(), signal: 9, all: true };
        let _: Result<Empty, _> = self.tasks("Resume", self.container()).await; // Most are not paused.
        let _: Result<Empty, _> = self.tasks("Kill", kill).await; // Most have ended.
        let began = Instant::now();
        loop {
            match self.tasks::<_, DeleteResponse>("Delete", self.container()).await {
                Ok(_) => break,
                Err(status) if status.code() == Code::NotFound || began.elapsed() > PATIENCE => break,
                // It has not ended yet, which each runtime says in another way.
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
        let client = &self.bench.client;
        let container = DeleteContainerRequest { id: self.id.clone() };
        let _: Result<Empty, _> =
            client.call("containerd.services.containers.v1.Containers/Delete", container).await;
        let snapshot = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: self.id.clone() };
        let _: Result<Empty, _> =
            client.call("containerd.services.snapshots.v1.Snapshots/Remove", snapshot).await;
    }

    fn open(&mut self, who: Who, wiring: super::streams::Wiring) {
        self.made += 1;
        let name = format!("{}-{}{who}-{}", self.id, self.prefix, self.made);
        self.streams.insert(who, Streams::open(&self.bench.dir, &name, wiring));
    }

    fn paths(&self, who: Who) -> (String, String, String) {
        self.streams.get(who).map_or_else(Default::default, |streams| {
            (streams.stdin.clone(), streams.stdout.clone(), streams.stderr.clone())
        })
    }

    fn exec_id(&self, who: Who) -> String {
        if who == INIT { String::new() } else { format!("{}{who}", self.prefix) }
    }

    fn process(&self, who: Who) -> ProcessRequest {
        ProcessRequest { container_id: self.id.clone(), exec_id: self.exec_id(who) }
    }

    fn container(&self) -> ProcessRequest {
        self.process(INIT)
    }
}

fn method(name: &str) -> String {
    format!("containerd.services.tasks.v1.Tasks/{name}")
}

fn any(kind: &str, value: &Value) -> Any {
    Any { type_url: format!("{SPEC_TYPE}{kind}"), value: value.to_string().into_bytes() }
}

/// The parts of a cgroup's metrics that are there, by the field numbers of `io.containerd.cgroups.v1.Metrics`.
fn statistics(bytes: &[u8]) -> String {
    #[derive(Clone, PartialEq, Message)]
    struct Parts {
        #[prost(bytes = "vec", optional, tag = "2")]
        pids: Option<Vec<u8>>,
        #[prost(bytes = "vec", optional, tag = "3")]
        cpu: Option<Vec<u8>>,
        #[prost(bytes = "vec", optional, tag = "4")]
        memory: Option<Vec<u8>>,
    }
    let parts = Parts::decode(bytes).unwrap_or_default();
    let there = [("pids", parts.pids), ("cpu", parts.cpu), ("memory", parts.memory)];
    let names: Vec<_> = there.iter().filter(|(_, part)| part.is_some()).map(|(name, _)| *name).collect();
    names.join(", ")
}

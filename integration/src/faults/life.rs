//! One life of a container, call by call as containerd makes them, and what containerd does when a call fails.

use std::{
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

use containerd_shim_protos::{
    api::{
        CreateTaskRequest, DeleteRequest, ExecProcessRequest, KillRequest, Mount, PauseRequest, PidsRequest,
        ResumeRequest, ShutdownRequest, StartRequest, StatsRequest, UpdateTaskRequest, WaitRequest,
    },
    protobuf::well_known_types::any::Any,
    shim_async::{Client, TaskClient},
};
use serde_json::json;
use tokio::time::{sleep, timeout};
use ttrpc::{Code, context};

use super::{
    Outcome,
    place::{ID, Place},
};
use crate::workshop::options;

/// For each answer, whatever has happened. What waits for a guest waits for a second in these tests, a few times over.
const ANSWER: Duration = Duration::from_secs(30);
/// For a shim to end that was told to.
const END: Duration = Duration::from_secs(30);
const EXEC: &str = "e1";

/// A shim and its client.
pub struct Life<'a> {
    place: &'a Place,
    shim: Child,
    task: TaskClient,
}

type Answer<T> = Result<T, Outcome>;

impl<'a> Life<'a> {
    /// Starts the shim.
    pub async fn begin(place: &'a Place) -> Self {
        let shim = place.serve();
        let address = format!("unix://{}", place.socket().display());
        let client = Client::connect(&address).await.expect("connect to the shim");
        Self { place, shim, task: TaskClient::new(client) }
    }

    /// Lives, and ends in whatever way; returns how it went, and what should not be.
    pub async fn live(self) -> (Outcome, Vec<String>) {
        let mut problems = Vec::new();
        let outcome = self.calls().await.err().unwrap_or(Outcome::Whole);
        if outcome != Outcome::Whole {
            self.give_up(&mut problems).await;
        }
        let place = self.place;
        self.clean_up(&mut problems).await;
        let left = place.leftovers();
        if !left.0.is_empty() {
            problems.push(format!("left: {left}"));
        }
        (outcome, problems)
    }

    /// The whole life.
    async fn calls(&self) -> Answer<()> {
        self.answered("create", self.task.create(within(), &self.create())).await?;
        self.start("start", "").await?;
        let spec = json!({
            "args": ["sh", "-c", "exit 4"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/usr/bin:/bin"]
        });
        let spec = any("types.containerd.io/opencontainers/runtime-spec/1/Process", &spec);
        let exec = ExecProcessRequest {
            id: ID.into(),
            exec_id: EXEC.into(),
            spec: Some(spec).into(),
            ..Default::default()
        };
        self.answered("exec", self.task.exec(within(), &exec)).await?;
        self.start("start exec", EXEC).await?;
        self.wait("wait exec", EXEC).await?;
        self.delete("delete exec", EXEC).await?;
        let stats = StatsRequest { id: ID.into(), ..Default::default() };
        self.answered("stats", self.task.stats(within(), &stats)).await?;
        let pids = PidsRequest { id: ID.into(), ..Default::default() };
        self.answered("pids", self.task.pids(within(), &pids)).await?;
        let pause = PauseRequest { id: ID.into(), ..Default::default() };
        self.answered("pause", self.task.pause(within(), &pause)).await?;
        let resume = ResumeRequest { id: ID.into(), ..Default::default() };
        self.answered("resume", self.task.resume(within(), &resume)).await?;
        let limits = any(
            "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources",
            &json!({"pids": {"limit": 99}}),
        );
        let update =
            UpdateTaskRequest { id: ID.into(), resources: Some(limits).into(), ..Default::default() };
        self.answered("update", self.task.update(within(), &update)).await?;
        self.kill("kill").await?;
        self.wait("wait", "").await?;
        self.delete("delete", "").await
    }

    /// After a failure: what `ctr task rm --force` and a kubelet do, which has to work as long as there is a shim.
    async fn give_up(&self, problems: &mut Vec<String>) {
        let mut last = None;
        // A kubelet tries again.
        for _ in 0..3 {
            // It may have ended, and then there is nothing to kill.
            let _ = self.kill("kill").await;
            let _ = self.wait("wait", "").await;
            match self.delete("delete", "").await {
                Ok(()) | Err(Outcome::Lost { .. }) => return,
                Err(refused) => last = Some(refused),
            }
        }
        if let Some(Outcome::Refused { words, .. }) = last
            && !words.starts_with("NOT_FOUND")
        {
            problems.push(format!("delete is refused: {words}"));
        }
    }

    /// The end of the shim, and the clean-up after it.
    async fn clean_up(self, problems: &mut Vec<String>) {
        let Self { place, mut shim, task } = self;
        let shutdown = ShutdownRequest { id: ID.into(), ..Default::default() };
        let _ = task.shutdown(within(), &shutdown).await; // The answer may be lost with the shim.
        drop(task); // As containerd does, for which the shim waits.
        if ended(&mut shim, END).await.is_none() {
            problems.push("the shim stays".into());
            let _ = shim.kill();
            let _ = shim.wait();
        }
        let mut delete = place.delete();
        let first = run(&mut delete).await;
        // What went wrong may have done so here; it does so once.
        if !first && !run(&mut delete).await {
            problems.push("the clean-up fails twice".into());
        }
    }

    async fn start(&self, call: &'static str, exec: &str) -> Answer<()> {
        let request = StartRequest { id: ID.into(), exec_id: exec.into(), ..Default::default() };
        self.answered(call, self.task.start(within(), &request)).await
    }

    async fn wait(&self, call: &'static str, exec: &str) -> Answer<()> {
        let request = WaitRequest { id: ID.into(), exec_id: exec.into(), ..Default::default() };
        self.answered(call, self.task.wait(within(), &request)).await
    }

    async fn kill(&self, call: &'static str) -> Answer<()> {
        let request = KillRequest { id: ID.into(), signal: 9, all: true, ..Default::default() };
        self.answered(call, self.task.kill(within(), &request)).await
    }

    async fn delete(&self, call: &'static str, exec: &str) -> Answer<()> {
        let request = DeleteRequest { id: ID.into(), exec_id: exec.into(), ..Default::default() };
        self.answered(call, self.task.delete(within(), &request)).await
    }

    async fn answered<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = ttrpc::Result<T>>,
    ) -> Answer<()> {
        let answer = timeout(ANSWER + Duration::from_secs(5), answer).await;
        let answer = answer.unwrap_or_else(|_| panic!("{call}: the client does not keep its deadline"));
        match answer {
            Ok(_) => Ok(()),
            Err(ttrpc::Error::RpcStatus(status)) if status.code() == Code::DEADLINE_EXCEEDED => {
                Err(Outcome::Refused { call, words: format!("DEADLINE_EXCEEDED {}", status.message) })
            }
            Err(ttrpc::Error::RpcStatus(status)) => {
                Err(Outcome::Refused { call, words: format!("{:?} {}", status.code(), status.message) })
            }
            Err(_) => Err(Outcome::Lost { call }),
        }
    }

    fn create(&self) -> CreateTaskRequest {
        let root = self.place.path();
        let rootfs = Mount {
            type_: "bind".into(),
            source: root.join("image").display().to_string(),
            options: vec!["rbind".into(), "rw".into()],
            ..Default::default()
        };
        CreateTaskRequest {
            id: ID.into(),
            bundle: root.join("bundle").display().to_string(),
            rootfs: vec![rootfs],
            options: Some(options(&root.join("configuration.toml"))).into(),
            ..Default::default()
        }
    }
}

fn within() -> context::Context {
    context::with_duration(ANSWER)
}

fn any(type_url: &str, value: &serde_json::Value) -> Any {
    Any { type_url: type_url.into(), value: value.to_string().into_bytes(), ..Default::default() }
}

/// Whether a command ends well, and in time.
async fn run(command: &mut Command) -> bool {
    let mut child = command.spawn().expect("start a command");
    let status = ended(&mut child, END).await;
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    status.is_some_and(|status| status.success())
}

async fn ended(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let began = Instant::now();
    while began.elapsed() < within {
        if let Some(status) = child.try_wait().expect("wait for a child of ours") {
            return Some(status);
        }
        sleep(Duration::from_millis(5)).await;
    }
    None
}

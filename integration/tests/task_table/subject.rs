//! A shim under test, ours or the reference, driven over its socket: containers are brought into a state, and each call
//! is made as containerd makes it.

use std::{path::PathBuf, time::Duration};

use containerd_shim_protos::{
    api::{
        CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
        CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
        PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
        StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse, Status,
        UpdateTaskRequest, WaitRequest, WaitResponse,
    },
    protobuf::{Message, well_known_types::any::Any},
};
use tokio::time::timeout;
use ttrpc::{r#async::Client, proto::Request};

use super::table::Answer;

/// For an answer that comes.
const PATIENCE: Duration = Duration::from_secs(30);
/// For one that does not.
const SILENCE: Duration = Duration::from_millis(400);
const SIGKILL: u32 = 9;
const SIGTERM: u32 = 15;

/// A shim and the container that the table is about: its init sleeps, and so does each exec.
pub struct Subject {
    client: Client,
    service: &'static str,
    id: String,
    bundle: PathBuf,
    options: Option<Any>,
}

impl Subject {
    pub fn new(
        client: Client,
        service: &'static str,
        id: &str,
        bundle: PathBuf,
        options: Option<Any>,
    ) -> Self {
        Self { client, service, id: id.into(), bundle, options }
    }

    async fn call<T: Message>(&self, method: &str, message: &impl Message) -> Result<T, Answer> {
        let mut request = Request::new();
        request.service = self.service.into();
        request.method = method.into();
        request.timeout_nano = PATIENCE.as_nanos() as i64;
        request.payload = message.write_to_bytes().expect("a good message");
        match self.client.request(request).await {
            Ok(response) => Ok(T::parse_from_bytes(&response.payload).expect("a known message")),
            Err(ttrpc::Error::RpcStatus(status)) => {
                let code = format!("{:?}", status.code());
                Err(Answer::new(code, status.message.replace(&self.id, "<id>")))
            }
            Err(error) => Err(Answer::new("CLOSED", error.to_string())),
        }
    }

    async fn done(&self, method: &str, message: &impl Message) -> Answer {
        match self.call::<Empty>(method, message).await {
            Ok(_) => Answer::new("OK", ""),
            Err(answer) => answer,
        }
    }

    /// Brings the container from nothing into a state of the table.
    pub async fn bring(&self, state: &str) {
        let steps: &[&str] = match state {
            "none" => &[],
            "created" => &["Create"],
            "running" => &["Create", "Start"],
            "paused" => &["Create", "Start", "Pause"],
            "stopped" => &["Create", "Start", "Kill", "Wait"],
            "deleted" => &["Create", "Start", "Kill", "Wait", "Delete"],
            "no exec" => &["Create", "Start"],
            "exec created" => &["Create", "Start", "Exec"],
            "exec running" => &["Create", "Start", "Exec", "Start exec"],
            "exec stopped" => &["Create", "Start", "Exec", "Start exec", "Kill exec", "Wait exec"],
            "exec deleted" => {
                &["Create", "Start", "Exec", "Start exec", "Kill exec", "Wait exec", "Delete exec"]
            }
            "exec created, container created" => &["Create", "Exec"],
            "exec created, container paused" => &["Create", "Start", "Exec", "Pause"],
            "exec created, container stopped" => &["Create", "Start", "Exec", "Kill", "Wait"],
            "exec running, container paused" => &["Create", "Start", "Exec", "Start exec", "Pause"],
            "exec killed, container paused" => {
                &["Create", "Start", "Exec", "Start exec", "Pause", "Kill exec"]
            }
            other => panic!("no such state: {other}"),
        };
        for step in steps {
            let answer = self.make(step).await;
            assert_eq!(answer.code, "OK", "{state}: {step}: {answer}");
        }
    }

    /// Takes away what there is of the container, whatever state it is in.
    pub async fn clear(&self) {
        if self.make("State").await.code != "OK" {
            return;
        }
        self.make("Resume").await;
        self.make("Kill").await;
        if self.state("").await != Ok(Status::CREATED) {
            let ended = self.make("Wait").await;
            assert_eq!(ended.code, "OK", "{ended}");
        }
        let deleted = self.make("Delete").await;
        assert_eq!(deleted.code, "OK", "{deleted}");
    }

    /// The shim's own process.
    pub async fn shim_pid(&self) -> u32 {
        let request = ConnectRequest { id: self.id.clone(), ..Default::default() };
        let connected: Result<ConnectResponse, _> = self.call("Connect", &request).await;
        connected.expect("connected").shim_pid
    }

    async fn state(&self, exec: &str) -> Result<Status, Answer> {
        let request = StateRequest { id: self.id.clone(), exec_id: exec.into(), ..Default::default() };
        let state: StateResponse = self.call("State", &request).await?;
        Ok(state.status.enum_value().expect("a known status"))
    }

    /// Makes a call of the table.
    pub async fn make(&self, call: &str) -> Answer {
        let (method, exec) = match call.split_once(' ') {
            Some((method, "exec")) => (method, "e1"),
            Some((method, _)) => (method, ""),
            None => (call, ""),
        };
        let (id, exec_id) = (self.id.clone(), exec.to_owned());
        match (method, call) {
            ("State", _) => match self.state(exec).await {
                Ok(status) => Answer::new("OK", format!("{status:?}").to_lowercase()),
                Err(answer) => answer,
            },
            ("Create", _) => {
                let bundle = self.bundle.display().to_string();
                let options = self.options.clone().into();
                let request = CreateTaskRequest { id, bundle, options, ..Default::default() };
                fact(self.call(method, &request).await, |_: CreateTaskResponse| String::new())
            }
            ("Start", _) => {
                let request = StartRequest { id, exec_id, ..Default::default() };
                fact(self.call(method, &request).await, |_: StartResponse| String::new())
            }
            ("Delete", _) => {
                let request = DeleteRequest { id, exec_id, ..Default::default() };
                fact(self.call(method, &request).await, |gone: DeleteResponse| gone.exit_status.to_string())
            }
            ("Wait", _) => {
                let request = WaitRequest { id, exec_id, ..Default::default() };
                match timeout(SILENCE, self.call(method, &request)).await {
                    Ok(ended) => fact(ended, |ended: WaitResponse| ended.exit_status.to_string()),
                    Err(_) => Answer::new("WAITS", ""),
                }
            }
            ("Kill", _) => {
                let signal = if call == "Kill TERM" { SIGTERM } else { SIGKILL };
                let all = call == "Kill all";
                let request = KillRequest { id, exec_id, signal, all, ..Default::default() };
                let answer = self.done(method, &request).await;
                // What follows is about the state after it.
                if answer.code == "OK" && signal == SIGKILL {
                    let request =
                        WaitRequest { id: self.id.clone(), exec_id: exec.into(), ..Default::default() };
                    let ended = timeout(Duration::from_secs(10), self.call::<WaitResponse>("Wait", &request));
                    match ended.await {
                        Ok(Ok(_)) => {}
                        Ok(Err(answer)) => return Answer::new("OK", format!("then wait: {answer}")),
                        Err(_) => return Answer::new("OK", "it does not end"),
                    }
                }
                answer
            }
            ("Exec", _) => {
                let process = serde_json::json!({
                    "args": ["sleep", "1000"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/usr/bin:/bin"]
                });
                let spec = Any {
                    type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
                    value: process.to_string().into_bytes(),
                    ..Default::default()
                };
                let spec = Some(spec).into();
                let request = ExecProcessRequest { id, exec_id: "e1".into(), spec, ..Default::default() };
                self.done(method, &request).await
            }
            ("ResizePty", _) => {
                let request = ResizePtyRequest { id, exec_id, width: 80, height: 24, ..Default::default() };
                self.done(method, &request).await
            }
            ("CloseIO", _) => {
                let request = CloseIORequest { id, exec_id, stdin: true, ..Default::default() };
                self.done(method, &request).await
            }
            ("Pids", _) => {
                let request = PidsRequest { id, ..Default::default() };
                fact(self.call(method, &request).await, |pids: PidsResponse| pids.processes.len().to_string())
            }
            ("Pause", _) => self.done(method, &PauseRequest { id, ..Default::default() }).await,
            ("Resume", _) => self.done(method, &ResumeRequest { id, ..Default::default() }).await,
            ("Checkpoint", _) => self.done(method, &CheckpointTaskRequest { id, ..Default::default() }).await,
            ("Update", _) => {
                let value = match call {
                    "Update with rubbish" => "{",
                    _ => r#"{"pids":{"limit":100}}"#,
                };
                let resources = Any {
                    type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
                    value: value.into(),
                    ..Default::default()
                };
                let resources = Some(resources).into();
                self.done(method, &UpdateTaskRequest { id, resources, ..Default::default() }).await
            }
            ("Stats", _) => {
                let stats: Result<StatsResponse, _> =
                    self.call(method, &StatsRequest { id, ..Default::default() }).await;
                fact(stats, |stats| stats.stats.type_url.clone())
            }
            ("Connect", _) => {
                let request = ConnectRequest { id, ..Default::default() };
                let connected: Result<ConnectResponse, _> = self.call(method, &request).await;
                fact(connected, |connected| if connected.task_pid == 0 { "no pid" } else { "a pid" }.into())
            }
            ("Shutdown", _) => match self.done(method, &ShutdownRequest { id, ..Default::default() }).await {
                // It may be gone before its answer.
                Answer { code, .. } if code == "CLOSED" => Answer::new("OK", ""),
                answer => answer,
            },
            _ => panic!("no such call: {call}"),
        }
    }
}

fn fact<T>(result: Result<T, Answer>, words: impl FnOnce(T) -> String) -> Answer {
    result.map_or_else(|answer| answer, |response| Answer::new("OK", words(response)))
}

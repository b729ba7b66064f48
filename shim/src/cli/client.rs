//! The Task service of a container's server, for commands that ask one thing after another.

use std::time::Duration;

use containerd_shim_protos::{
    api::{
        CreateTaskRequest, DeleteRequest, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest,
        ResumeRequest, ShutdownRequest, StartRequest, StateRequest, StateResponse, StatsRequest,
        Status as WireStatus, UpdateTaskRequest, WaitRequest,
    },
    shim_async::{Client as Connection, TaskClient},
};
use protobuf::well_known_types::any::Any;
use runtime::{
    error::{Context, Error, ErrorKind, Result},
    process::Status,
};
use tokio::{net::UnixStream, runtime::Runtime};
use ttrpc::{
    asynchronous::transport::Socket,
    context::{self, Context as Deadline},
};

use super::record::{Home, Record};
use crate::executor;

/// A VM's start; the server has deadlines of its own for its steps.
const CREATE: Duration = Duration::from_secs(600);
/// Hooks may take their time.
const CALL: Duration = Duration::from_secs(120);
/// A guest that does not hear of a signal for so long hears nothing.
const KILL: Duration = Duration::from_secs(10);
/// What only looks something up.
const LOOK: Duration = Duration::from_secs(10);

/// A connection that asks about one container.
pub struct Client {
    executor: Runtime,
    task: TaskClient,
    id: String,
}

fn connect(home: &Home) -> Result<TaskClient> {
    let stream = home.call()?;
    stream.set_nonblocking(true).context("connect")?;
    let stream = UnixStream::from_std(stream).context("connect")?;
    Ok(TaskClient::new(Connection::new(Socket::new(stream))))
}

impl Client {
    /// Unavailable if nobody serves the container.
    pub fn connect(home: &Home, id: &str) -> Result<Self> {
        let executor = executor::small()?;
        let task = {
            let _within = executor.enter();
            connect(home)?
        };
        Ok(Self { executor, task, id: id.into() })
    }

    pub fn create(&self, request: CreateTaskRequest) -> Result<()> {
        self.call(self.task.create(within(CREATE), &request)).map(drop)
    }

    pub fn start(&self, exec: &str) -> Result<()> {
        let request = StartRequest { id: self.id.clone(), exec_id: exec.into(), ..Default::default() };
        self.call(self.task.start(within(CALL), &request)).map(drop)
    }

    pub fn exec(&self, mut request: ExecProcessRequest) -> Result<()> {
        request.id = self.id.clone();
        self.call(self.task.exec(within(CALL), &request)).map(drop)
    }

    pub fn status(&self) -> Result<Status> {
        self.call(state(&self.task, &self.id))
    }

    pub fn kill(&self, signal: u32, all: bool) -> Result<()> {
        let request = KillRequest { id: self.id.clone(), signal, all, ..Default::default() };
        self.call(self.task.kill(within(KILL), &request)).map(drop)
    }

    /// Waits for the end of the container, but no longer than that.
    pub fn wait(&self, patience: Duration) -> Result<()> {
        let request = WaitRequest { id: self.id.clone(), ..Default::default() };
        self.call(self.task.wait(within(patience), &request)).map(drop)
    }

    pub fn delete(&self) -> Result<()> {
        let request = DeleteRequest { id: self.id.clone(), ..Default::default() };
        self.call(self.task.delete(within(CALL), &request)).map(drop)
    }

    /// Ends the server, and the sandbox if nothing is in it.
    pub fn shut_down(&self) -> Result<()> {
        let request = ShutdownRequest { id: self.id.clone(), ..Default::default() };
        self.call(self.task.shutdown(within(CALL), &request)).map(drop)
    }

    pub fn pause(&self) -> Result<()> {
        let request = PauseRequest { id: self.id.clone(), ..Default::default() };
        self.call(self.task.pause(within(CALL), &request)).map(drop)
    }

    pub fn resume(&self) -> Result<()> {
        let request = ResumeRequest { id: self.id.clone(), ..Default::default() };
        self.call(self.task.resume(within(CALL), &request)).map(drop)
    }

    pub fn pids(&self) -> Result<Vec<u32>> {
        let request = PidsRequest { id: self.id.clone(), ..Default::default() };
        let listed = self.call(self.task.pids(within(CALL), &request))?;
        Ok(listed.processes.into_iter().map(|process| process.pid).collect())
    }

    /// The OCI's resources as JSON.
    pub fn update(&self, resources: Vec<u8>) -> Result<()> {
        let resources = Any { type_url: "LinuxResources".into(), value: resources, ..Default::default() };
        let request = UpdateTaskRequest {
            id: self.id.clone(),
            resources: Some(resources).into(),
            ..Default::default()
        };
        self.call(self.task.update(within(CALL), &request)).map(drop)
    }

    pub fn stats(&self) -> Result<Any> {
        let request = StatsRequest { id: self.id.clone(), ..Default::default() };
        let answer = self.call(self.task.stats(within(CALL), &request))?;
        answer.stats.into_option().ok_or_else(|| Error::internal("the server tells no figures"))
    }

    fn call<T>(&self, call: impl Future<Output = ttrpc::Result<T>>) -> Result<T> {
        self.executor.block_on(call).map_err(error)
    }
}

/// The status of each of these containers, all asked at once. Who is not served has ended.
pub fn statuses(containers: &[(Home, Record)]) -> Result<Vec<Result<Status>>> {
    let executor = executor::small()?;
    let answers = executor.block_on(async {
        let ask = |(home, record): &(Home, Record)| {
            let task = connect(home);
            let id = record.id.clone();
            tokio::spawn(async move { state(&task?, &id).await.map_err(error) })
        };
        let mut answers = Vec::new();
        for asked in containers.iter().map(ask).collect::<Vec<_>>() {
            answers.push(asked.await.unwrap_or_else(|error| Err(Error::internal(error.to_string()))));
        }
        answers
    });
    Ok(answers)
}

async fn state(task: &TaskClient, id: &str) -> ttrpc::Result<Status> {
    let request = StateRequest { id: id.into(), ..Default::default() };
    task.state(within(LOOK), &request).await.map(|state: StateResponse| match state.status.enum_value() {
        Ok(WireStatus::CREATED) => Status::Created,
        Ok(WireStatus::RUNNING) => Status::Running,
        Ok(WireStatus::PAUSING) => Status::Pausing,
        Ok(WireStatus::PAUSED) => Status::Paused,
        Ok(WireStatus::STOPPED | WireStatus::UNKNOWN) | Err(_) => Status::Stopped,
    })
}

fn within(deadline: Duration) -> Deadline {
    context::with_duration(deadline)
}

/// The server's error as it was before it was sent.
fn error(error: ttrpc::Error) -> Error {
    let ttrpc::Error::RpcStatus(status) = error else {
        return Error::unavailable(format!("the server does not answer: {error}"));
    };
    let kind = match status.code() {
        ttrpc::Code::INVALID_ARGUMENT => ErrorKind::InvalidArgument,
        ttrpc::Code::NOT_FOUND => ErrorKind::NotFound,
        ttrpc::Code::ALREADY_EXISTS => ErrorKind::AlreadyExists,
        ttrpc::Code::FAILED_PRECONDITION => ErrorKind::FailedPrecondition,
        ttrpc::Code::UNAVAILABLE => ErrorKind::Unavailable,
        ttrpc::Code::DEADLINE_EXCEEDED => ErrorKind::DeadlineExceeded,
        ttrpc::Code::UNIMPLEMENTED => ErrorKind::Unimplemented,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, crate::convert::plain_words(kind, status.message()))
}

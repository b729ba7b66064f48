//! Typed guest calls, each with a deadline. Keeps no state besides the connection.

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use oci_spec::runtime as oci;
use protocols::{
    agent as wire, agent_ttrpc::AgentServiceClient, guest::AGENT_PORT, health::CheckRequest,
    health_ttrpc::HealthClient,
};
use tokio::time::timeout;
use ttrpc::{
    Code,
    r#async::{Client, transport::Socket},
    context::{self, Context as Deadline},
};

use super::{address::AgentAddr, link::AgentLink, template};
use crate::{
    config::AgentConfig,
    error::{Error, ErrorKind, Result},
};

/// For calls that do a bounded piece of work in the guest.
const CALL: Duration = Duration::from_secs(60);
/// From a clone's first instruction to its agent's readiness: less than 0.1 s on a quiet machine.
const WAKE: Duration = Duration::from_secs(15);
/// The agent's farewell; the VM is ended by force afterwards anyway.
const FAREWELL: Duration = Duration::from_secs(3);

/// One process in the guest: the container's init, or an exec.
#[derive(Debug, Clone)]
pub struct GuestProcess {
    pub container: String,
    /// The agent's name of the process: the container's id for its init.
    pub exec: String,
}

impl GuestProcess {
    pub fn init(container: &str) -> Self {
        Self { container: container.into(), exec: container.into() }
    }
}

/// Which process a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalScope {
    One,
    /// Every process of the container.
    All,
}

/// Which output of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Stdout,
    Stderr,
}

/// The agent of one sandbox.
pub struct AgentClient {
    agent: AgentServiceClient,
    create: Duration,
    /// Keeps the multiplexed channel open.
    _link: AgentLink,
}

impl AgentClient {
    /// Waits until the agent answers its health check, for as long as the configuration lets a guest boot.
    pub async fn connect(address: AgentAddr, config: &AgentConfig) -> Result<Self> {
        let shown = address.to_string();
        let answer = async {
            let link = AgentLink::open(address).await?;
            let client = Client::new(Socket::new(link.connect_when_up(AGENT_PORT).await));
            let health = HealthClient::new(client.clone());
            health
                .check(within(config.health_deadline()), &CheckRequest::new())
                .await
                .map_err(rpc("Check"))?;
            Ok(Self { agent: AgentServiceClient::new(client), create: config.create_deadline(), _link: link })
        };
        let deadline = config.boot_deadline();
        timeout(deadline, answer).await.unwrap_or_else(|_| {
            Err(Error::deadline(format!(
                "the guest's agent at {shown} did not answer within {deadline:?}; see the guest's console with \
                 enable_debug = true, or raise agent.kata.dial_timeout"
            )))
        })
    }

    /// Wakes a clone by its serial port and reaches its agent, which has been up for long. `rescan` tells it that it has
    /// devices that its template had not.
    pub async fn wake(port: &Path, address: AgentAddr, rescan: bool, config: &AgentConfig) -> Result<Self> {
        let woken = async {
            let port = template::wake(port, &address, rescan).await?;
            let link = AgentLink::of_clone(address, port).await?;
            let client = Client::new(Socket::new(link.connect_when_up(AGENT_PORT).await));
            Ok(Self { agent: AgentServiceClient::new(client), create: config.create_deadline(), _link: link })
        };
        let deadline = WAKE.min(config.boot_deadline());
        timeout(deadline, woken)
            .await
            .unwrap_or_else(|_| Err(Error::deadline(format!("the clone did not wake within {deadline:?}"))))
    }

    pub async fn create_sandbox(&self, request: &wire::CreateSandboxRequest) -> Result<()> {
        self.agent.create_sandbox(within(CALL), request).await.map(drop).map_err(rpc("CreateSandbox"))
    }

    /// Sets the guest's wall clock to the host's.
    pub async fn set_time(&self) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let request = wire::SetGuestDateTimeRequest {
            Sec: now.as_secs() as i64,
            Usec: i64::from(now.subsec_micros()),
            ..Default::default()
        };
        self.agent
            .set_guest_date_time(within(CALL), &request)
            .await
            .map(drop)
            .map_err(rpc("SetGuestDateTime"))
    }

    /// Puts vCPUs to use until there are `total`, and all memory.
    pub async fn online(&self, total: u32) -> Result<()> {
        let request = wire::OnlineCPUMemRequest { wait: true, nb_cpus: total, ..Default::default() };
        self.agent.online_cpu_mem(within(CALL), &request).await.map(drop).map_err(rpc("OnlineCPUMem"))
    }

    /// Asks the guest to end everything. It may be gone already, so failure is only logged.
    pub async fn destroy_sandbox(&self) {
        if let Err(error) =
            self.agent.destroy_sandbox(within(FAREWELL), &wire::DestroySandboxRequest::new()).await
        {
            tracing::debug!(%error, "the guest did not say farewell");
        }
    }

    pub async fn create_container(&self, request: &wire::CreateContainerRequest) -> Result<()> {
        self.agent
            .create_container(within(self.create), request)
            .await
            .map(drop)
            .map_err(rpc("CreateContainer"))
    }

    pub async fn start_container(&self, container: &str) -> Result<()> {
        let request = wire::StartContainerRequest { container_id: container.into(), ..Default::default() };
        self.agent.start_container(within(CALL), &request).await.map(drop).map_err(rpc("StartContainer"))
    }

    pub async fn remove_container(&self, container: &str) -> Result<()> {
        let request = wire::RemoveContainerRequest { container_id: container.into(), ..Default::default() };
        self.agent.remove_container(within(CALL), &request).await.map(drop).map_err(rpc("RemoveContainer"))
    }

    pub async fn exec(&self, process: &GuestProcess, spec: &oci::Process) -> Result<()> {
        let spec =
            protocols::oci::process_to_wire(spec).map_err(|error| Error::invalid(error.to_string()))?;
        let request = wire::ExecProcessRequest {
            container_id: process.container.clone(),
            exec_id: process.exec.clone(),
            process: Some(spec).into(),
            ..Default::default()
        };
        self.agent.exec_process(within(self.create), &request).await.map(drop).map_err(rpc("ExecProcess"))
    }

    /// [`ErrorKind::NotFound`] when the process has ended.
    pub async fn signal(&self, process: &GuestProcess, signal: u32, scope: SignalScope) -> Result<()> {
        let exec_id = match scope {
            SignalScope::One => process.exec.clone(),
            // With SIGKILL an empty exec id reaches every process of the container.
            SignalScope::All => String::new(),
        };
        let request = wire::SignalProcessRequest {
            container_id: process.container.clone(),
            exec_id,
            signal,
            ..Default::default()
        };
        self.agent.signal_process(within(CALL), &request).await.map(drop).map_err(rpc("SignalProcess"))
    }

    /// Waits, without a deadline, until the process has ended; the agent then forgets it. Returns its exit code.
    pub async fn wait(&self, process: &GuestProcess) -> Result<i32> {
        let request = wire::WaitProcessRequest {
            container_id: process.container.clone(),
            exec_id: process.exec.clone(),
            ..Default::default()
        };
        let response =
            self.agent.wait_process(Deadline::default(), &request).await.map_err(rpc("WaitProcess"))?;
        Ok(response.status)
    }

    /// Writes all of `data`; waits, without a deadline, while the process does not read.
    pub async fn write_stdin(&self, process: &GuestProcess, data: Vec<u8>) -> Result<()> {
        let request = wire::WriteStreamRequest {
            container_id: process.container.clone(),
            exec_id: process.exec.clone(),
            data,
            ..Default::default()
        };
        self.agent.write_stdin(Deadline::default(), &request).await.map(drop).map_err(rpc("WriteStdin"))
    }

    pub async fn close_stdin(&self, process: &GuestProcess) -> Result<()> {
        let request = wire::CloseStdinRequest {
            container_id: process.container.clone(),
            exec_id: process.exec.clone(),
            ..Default::default()
        };
        self.agent.close_stdin(within(CALL), &request).await.map(drop).map_err(rpc("CloseStdin"))
    }

    /// Waits, without a deadline, for output. Empty is the end.
    pub async fn read(&self, process: &GuestProcess, output: Output, limit: u32) -> Result<Vec<u8>> {
        let request = wire::ReadStreamRequest {
            container_id: process.container.clone(),
            exec_id: process.exec.clone(),
            len: limit,
            ..Default::default()
        };
        let response = match output {
            Output::Stdout => {
                self.agent.read_stdout(Deadline::default(), &request).await.map_err(rpc("ReadStdout"))?
            }
            Output::Stderr => {
                self.agent.read_stderr(Deadline::default(), &request).await.map_err(rpc("ReadStderr"))?
            }
        };
        if response.data.len() > limit as usize {
            return Err(Error::internal(format!(
                "the guest sent {} bytes where {limit} were asked",
                response.data.len()
            )));
        }
        Ok(response.data)
    }

    pub async fn resize(&self, process: &GuestProcess, width: u32, height: u32) -> Result<()> {
        let request = wire::TtyWinResizeRequest {
            container_id: process.container.clone(),
            exec_id: process.exec.clone(),
            row: height,
            column: width,
            ..Default::default()
        };
        self.agent.tty_win_resize(within(CALL), &request).await.map(drop).map_err(rpc("TtyWinResize"))
    }
}

fn within(deadline: Duration) -> Deadline {
    context::with_duration(deadline)
}

/// The guest's answer as an error of ours. Its text is the guest's word, so it is cut.
fn rpc(call: &'static str) -> impl Fn(ttrpc::Error) -> Error {
    move |error| {
        let (kind, text) = match &error {
            ttrpc::Error::RpcStatus(status) => (kind_of(status.code()), status.message.clone()),
            other => (ErrorKind::Unavailable, other.to_string()),
        };
        Error::new(kind, text.chars().take(2000).collect::<String>()).context(format!("agent {call}"))
    }
}

fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::INVALID_ARGUMENT => ErrorKind::InvalidArgument,
        Code::NOT_FOUND => ErrorKind::NotFound,
        Code::ALREADY_EXISTS => ErrorKind::AlreadyExists,
        Code::FAILED_PRECONDITION => ErrorKind::FailedPrecondition,
        Code::UNAVAILABLE => ErrorKind::Unavailable,
        Code::DEADLINE_EXCEEDED => ErrorKind::DeadlineExceeded,
        Code::UNIMPLEMENTED => ErrorKind::Unimplemented,
        _ => ErrorKind::Internal,
    }
}

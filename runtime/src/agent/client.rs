//! Typed guest calls, each with a deadline. Keeps no state besides the connection.

use std::{
    io,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use oci_spec::runtime as oci;
use protocols::{
    agent as wire,
    agent_ttrpc::AgentServiceClient,
    extras::{ListProcessesRequest, ProcessEntry, RemoveInterfaceRequest},
    extras_ttrpc::ExtrasClient,
    guest::{AGENT_PORT, FEATURE_EXTRAS, STREAM_PORT},
    health::CheckRequest,
    health_ttrpc::HealthClient,
};
use tokio::{sync::OnceCell, time::timeout};
use ttrpc::{
    Code,
    r#async::{Client, transport::Socket},
    context,
};

use super::{
    address::AgentAddr,
    link::{AgentLink, GuestStream},
    template,
};
use crate::{
    config::AgentConfig,
    error::{Error, ErrorKind, Result},
    fault::{self, Side},
};

/// For calls that do a bounded piece of work in the guest.
const CALL: Duration = Duration::from_secs(60);
/// For a driver to let go of its device.
const REMOVE: Duration = Duration::from_secs(10);
/// From a clone's first instruction to its agent's readiness: less than 0.1 s on a quiet machine.
const WAKE: Duration = Duration::from_secs(15);
/// A back end may lose a connection on its way.
const STREAM_CONNECT: Duration = Duration::from_secs(2);
/// The agent's farewell; the VM is ended by force afterwards anyway.
const FAREWELL: Duration = Duration::from_secs(3);

const SIGKILL: u32 = 9;

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

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestExit {
    /// 0 to 255; 128 + n after signal n.
    pub code: u32,
    /// How many processes of its container the guest had killed by then for want of memory.
    pub oom_kills: u64,
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
    extras: ExtrasClient,
    health: HealthClient,
    health_deadline: Duration,
    /// Whether the agent has those; asked when first needed.
    has_extras: OnceCell<bool>,
    create: Duration,
    link: AgentLink,
    /// Whether the agent serves streams on connections of their own, as far as is known.
    streams: AtomicBool,
}

impl AgentClient {
    /// Waits until the agent answers its health check, for as long as the configuration lets a guest boot.
    pub async fn connect(address: AgentAddr, config: &AgentConfig) -> Result<Self> {
        let shown = address.to_string();
        let answer = async {
            let link = AgentLink::open(address).await?;
            let client = Client::new(Socket::new(link.connect_when_up(AGENT_PORT).await));
            let client = Self::new(client, link, config);
            client.check().await?;
            Ok(client)
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
            Ok(Self::new(client, link, config))
        };
        let deadline = WAKE.min(config.boot_deadline());
        timeout(deadline, woken)
            .await
            .unwrap_or_else(|_| Err(Error::deadline(format!("the clone did not wake within {deadline:?}"))))
    }

    fn new(client: Client, link: AgentLink, config: &AgentConfig) -> Self {
        Self {
            agent: AgentServiceClient::new(client.clone()),
            extras: ExtrasClient::new(client.clone()),
            health: HealthClient::new(client),
            health_deadline: config.health_deadline(),
            has_extras: OnceCell::new(),
            create: config.create_deadline(),
            streams: AtomicBool::new(true),
            link,
        }
    }

    /// A connection for a standard stream; `None` if the agent serves none, or not now.
    pub(super) async fn connect_stream(&self) -> Option<GuestStream> {
        if !self.streams.load(Ordering::Relaxed) {
            return None;
        }
        match timeout(STREAM_CONNECT, self.link.try_connect(STREAM_PORT)).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                tracing::debug!(%error, "streams go by calls");
                self.streams.store(false, Ordering::Relaxed);
                None
            }
            Err(_) => None,
        }
    }

    /// A connection to a port that agents may lack.
    pub async fn connect_beside(&self, port: u32) -> io::Result<GuestStream> {
        self.link.try_connect(port).await
    }

    /// Whether output goes on after the end of its process has been asked for.
    pub fn serves_streams(&self) -> bool {
        self.streams.load(Ordering::Relaxed)
    }

    /// Whether the agent answers at all.
    pub async fn check(&self) -> Result<()> {
        let request = CheckRequest::new();
        called("Check", self.health_deadline, self.health.check(untold(), &request)).await.map(drop)
    }

    pub async fn create_sandbox(&self, request: &wire::CreateSandboxRequest) -> Result<()> {
        called("CreateSandbox", CALL, self.agent.create_sandbox(untold(), request)).await.map(drop)
    }

    /// Sets the guest's wall clock to the host's.
    pub async fn set_time(&self) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let request = wire::SetGuestDateTimeRequest {
            Sec: now.as_secs() as i64,
            Usec: i64::from(now.subsec_micros()),
            ..Default::default()
        };
        called("SetGuestDateTime", CALL, self.agent.set_guest_date_time(untold(), &request)).await.map(drop)
    }

    /// Puts vCPUs to use until there are `total`, and all memory.
    pub async fn online(&self, total: u32) -> Result<()> {
        let request = wire::OnlineCPUMemRequest { wait: true, nb_cpus: total, ..Default::default() };
        called("OnlineCPUMem", CALL, self.agent.online_cpu_mem(untold(), &request)).await.map(drop)
    }

    /// Makes the interface with that hardware address the one described; waits for it to come.
    pub async fn update_interface(&self, request: &wire::UpdateInterfaceRequest) -> Result<()> {
        called("UpdateInterface", CALL, self.agent.update_interface(untold(), request)).await.map(drop)
    }

    /// Lets the guest let go of a card. False if the agent cannot.
    pub async fn remove_interface(&self, hw_addr: String, name: String) -> Result<bool> {
        if !self.has_extras().await? {
            return Ok(false);
        }
        let request = RemoveInterfaceRequest { hw_addr, name, ..Default::default() };
        let removed = self.extras.remove_interface(untold(), &request);
        called("RemoveInterface", REMOVE, removed).await.map(|_| true)
    }

    pub async fn update_routes(&self, request: &wire::UpdateRoutesRequest) -> Result<()> {
        called("UpdateRoutes", CALL, self.agent.update_routes(untold(), request)).await.map(drop)
    }

    pub async fn add_arp_neighbors(&self, request: &wire::AddARPNeighborsRequest) -> Result<()> {
        called("AddARPNeighbors", CALL, self.agent.add_arp_neighbors(untold(), request)).await.map(drop)
    }

    /// Asks the guest to end everything. It may be gone already, so failure is only logged.
    pub async fn destroy_sandbox(&self) {
        let request = wire::DestroySandboxRequest::new();
        let farewell = self.agent.destroy_sandbox(untold(), &request);
        if let Err(error) = called("DestroySandbox", FAREWELL, farewell).await {
            tracing::debug!(%error, "the guest did not say farewell");
        }
    }

    pub async fn create_container(&self, request: &wire::CreateContainerRequest) -> Result<()> {
        let created = self.agent.create_container(untold(), request);
        passed("CreateContainer", Some(self.create), created, during("OCI runtime create failed"))
            .await
            .map(drop)
    }

    pub async fn start_container(&self, container: &str) -> Result<()> {
        let request = wire::StartContainerRequest { container_id: container.into(), ..Default::default() };
        called("StartContainer", CALL, self.agent.start_container(untold(), &request)).await.map(drop)
    }

    pub async fn remove_container(&self, container: &str) -> Result<()> {
        let request = wire::RemoveContainerRequest { container_id: container.into(), ..Default::default() };
        called("RemoveContainer", CALL, self.agent.remove_container(untold(), &request)).await.map(drop)
    }

    pub async fn exec(&self, process: &GuestProcess, spec: &oci::Process) -> Result<()> {
        let fault = |error: protocols::oci::OciError| Error::invalid(error.to_string());
        let request = wire::ExecProcessRequest {
            container_id: process.container.clone(),
            exec_id: process.exec.clone(),
            process: Some(protocols::oci::process_to_wire(spec).map_err(fault)?).into(),
            // Has what the wire's own form has no field for.
            process_json: protocols::oci::process_to_json(spec).map_err(fault)?,
            ..Default::default()
        };
        let started = self.agent.exec_process(untold(), &request);
        passed("ExecProcess", Some(self.create), started, during("OCI runtime exec failed: exec failed"))
            .await
            .map(drop)
    }

    /// [`ErrorKind::NotFound`] when the process has ended.
    pub async fn signal(&self, process: &GuestProcess, signal: u32, scope: SignalScope) -> Result<()> {
        let exec_id = match scope {
            SignalScope::One => process.exec.clone(),
            // Where `all` is not known, with SIGKILL an empty exec id reaches every process of the container.
            SignalScope::All if signal == SIGKILL => String::new(),
            SignalScope::All => process.container.clone(),
        };
        let request = wire::SignalProcessRequest {
            container_id: process.container.clone(),
            exec_id,
            signal,
            all: scope == SignalScope::All,
            ..Default::default()
        };
        called("SignalProcess", CALL, self.agent.signal_process(untold(), &request)).await.map(drop)
    }

    /// Waits, without a deadline, until the process has ended; the agent then forgets it.
    pub async fn wait(&self, process: &GuestProcess) -> Result<GuestExit> {
        let request = wire::WaitProcessRequest {
            container_id: process.container.clone(),
            exec_id: process.exec.clone(),
            ..Default::default()
        };
        let response = endless("WaitProcess", self.agent.wait_process(untold(), &request)).await?;
        Ok(GuestExit { code: response.status as u32 & 0xff, oom_kills: response.oom_kills })
    }

    /// Writes all of `data`; waits, without a deadline, while the process does not read.
    pub async fn write_stdin(&self, process: &GuestProcess, data: Vec<u8>) -> Result<()> {
        let request = wire::WriteStreamRequest {
            container_id: process.container.clone(),
            exec_id: process.exec.clone(),
            data,
            ..Default::default()
        };
        endless("WriteStdin", self.agent.write_stdin(untold(), &request)).await.map(drop)
    }

    pub async fn close_stdin(&self, process: &GuestProcess) -> Result<()> {
        let request = wire::CloseStdinRequest {
            container_id: process.container.clone(),
            exec_id: process.exec.clone(),
            ..Default::default()
        };
        called("CloseStdin", CALL, self.agent.close_stdin(untold(), &request)).await.map(drop)
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
            Output::Stdout => endless("ReadStdout", self.agent.read_stdout(untold(), &request)).await?,
            Output::Stderr => endless("ReadStderr", self.agent.read_stderr(untold(), &request)).await?,
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
        called("TtyWinResize", CALL, self.agent.tty_win_resize(untold(), &request)).await.map(drop)
    }

    /// Returns when every process of the container stands still.
    pub async fn pause_container(&self, container: &str) -> Result<()> {
        let request = wire::PauseContainerRequest { container_id: container.into(), ..Default::default() };
        called("PauseContainer", CALL, self.agent.pause_container(untold(), &request)).await.map(drop)
    }

    pub async fn resume_container(&self, container: &str) -> Result<()> {
        let request = wire::ResumeContainerRequest { container_id: container.into(), ..Default::default() };
        called("ResumeContainer", CALL, self.agent.resume_container(untold(), &request)).await.map(drop)
    }

    /// Sets new limits; what is not named stays.
    pub async fn update_container(&self, container: &str, resources: &oci::LinuxResources) -> Result<()> {
        let json =
            serde_json::to_vec(resources).map_err(|error| Error::invalid(format!("resources: {error}")))?;
        let request = wire::UpdateContainerRequest {
            container_id: container.into(),
            resources: Some(for_upstream(resources.clone())?).into(),
            resources_json: json,
            ..Default::default()
        };
        called("UpdateContainer", CALL, self.agent.update_container(untold(), &request)).await.map(drop)
    }

    pub async fn stats_container(&self, container: &str) -> Result<wire::StatsContainerResponse> {
        let request = wire::StatsContainerRequest { container_id: container.into(), ..Default::default() };
        called("StatsContainer", CALL, self.agent.stats_container(untold(), &request)).await
    }

    /// Whether [`Self::signal`] reaches every process of a container whatever the signal.
    pub async fn signals_all(&self) -> Result<bool> {
        self.has_extras().await
    }

    async fn has_extras(&self) -> Result<bool> {
        let ask = || async {
            let request = wire::GuestDetailsRequest::new();
            let details = self.agent.get_guest_details(untold(), &request);
            let details = called("GetGuestDetails", CALL, details).await?;
            Ok(details.agent_details.extra_features.iter().any(|feature| feature == FEATURE_EXTRAS))
        };
        self.has_extras.get_or_try_init(ask).await.copied()
    }

    /// The container's processes; `None` if the agent cannot list them.
    pub async fn list_processes(&self, container: &str) -> Result<Option<Vec<ProcessEntry>>> {
        if !self.has_extras().await? {
            return Ok(None);
        }
        let request = ListProcessesRequest { container_id: container.into(), ..Default::default() };
        let listed = self.extras.list_processes(untold(), &request);
        Ok(Some(called("ListProcesses", CALL, listed).await?.processes))
    }

    /// Waits, without a deadline, until the guest runs out of memory and kills. Returns the container, and how many of
    /// its processes were killed so far if the agent says so.
    pub async fn oom_kill(&self) -> Result<(String, Option<u64>)> {
        let request = wire::GetOOMEventRequest::new();
        let event = endless("GetOOMEvent", self.agent.get_oom_event(untold(), &request)).await?;
        Ok((event.container_id, Some(event.oom_kills).filter(|kills| *kills > 0)))
    }
}

/// What an agent without our additions is told: without the host's numbers of CPUs and devices, which it would take for
/// the guest's.
fn for_upstream(mut resources: oci::LinuxResources) -> Result<protocols::wire_oci::LinuxResources> {
    resources.set_devices(None).set_block_io(None).set_network(None);
    if let Some(cpu) = resources.cpu_mut() {
        cpu.set_cpus(None).set_mems(None);
    }
    protocols::oci::resources_to_wire(&resources).map_err(|error| Error::invalid(error.to_string()))
}

/// What the guest is told of a deadline: nothing. It would count by its own clock, which may run faster than the host's.
fn untold() -> context::Context {
    context::Context::default()
}

/// Makes one call of the agent's.
async fn called<T>(
    name: &'static str,
    deadline: Duration,
    call: impl Future<Output = ttrpc::Result<T>>,
) -> Result<T> {
    passed(name, Some(deadline), call, during_call(name)).await
}

/// The same of one that may take for ever.
async fn endless<T>(name: &'static str, call: impl Future<Output = ttrpc::Result<T>>) -> Result<T> {
    passed(name, None, call, during_call(name)).await
}

/// The same, with words of its own for a refusal.
async fn passed<T>(
    name: &'static str,
    deadline: Option<Duration>,
    call: impl Future<Output = ttrpc::Result<T>>,
    refusal: impl Fn(Error) -> Error,
) -> Result<T> {
    fault::point("agent", name, Side::Before)?;
    let answer = match deadline {
        Some(deadline) => timeout(fault::patience(deadline), call)
            .await
            .map_err(|_| Error::deadline("the guest did not answer in time"))
            .and_then(|answer| answer.map_err(told)),
        None => call.await.map_err(told),
    };
    fault::point("agent", name, Side::After)?;
    answer.map_err(refusal)
}

fn during_call(name: &'static str) -> impl Fn(Error) -> Error {
    move |error| error.context(format!("agent {name}"))
}

/// An error under the words that users know from other runtimes.
fn during(words: &'static str) -> impl Fn(Error) -> Error {
    move |error| error.context(words)
}

/// What the guest said; it may be hostile, so not at any length.
fn told(error: ttrpc::Error) -> Error {
    let (kind, text) = match &error {
        ttrpc::Error::RpcStatus(status) => (kind_of(status.code()), status.message.clone()),
        other => (ErrorKind::Unavailable, other.to_string()),
    };
    Error::new(kind, text.chars().take(2000).collect::<String>())
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

//! One process of a container: its init, or an exec. Knows its streams and its end, and nothing of storage.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use oci_spec::runtime as oci;
use tokio::{
    sync::{Mutex as AsyncMutex, watch},
    time::timeout,
};

use crate::{
    agent::{AgentClient, GuestExit, GuestProcess, SignalScope},
    error::{Error, ErrorKind, Result},
    stdio::{Copying, HostStreams, InputKeeper, Stdio},
};

/// How much later than the end of its connections the end of a VM may be known.
const NEWS_OF_DEATH: Duration = Duration::from_secs(5);
/// How long the news of an end waits for more output when none comes.
const STRAGGLERS: Duration = Duration::from_millis(500);
/// What a process that could not be waited for is said to have returned.
const UNKNOWN_EXIT: u32 = 255;
/// From the loss of the guest to the records of its processes' ends: what a QEMU takes to die.
const GUEST_END: Duration = Duration::from_secs(10);
const SIGINT: u32 = 2;
pub(crate) const SIGKILL: u32 = 9;
const SIGTERM: u32 = 15;
/// In seconds.
const YEAR_1_TO_1970: u64 = 62_135_596_800;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Created,
    Running,
    /// On its way to [`Self::Paused`].
    Pausing,
    Paused,
    Stopped,
}

/// How and when a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255; 128 + n after signal n.
    pub code: u32,
    pub at: SystemTime,
}

impl Exit {
    /// The end of a process that was deleted before it ran: 0, in Go's year 1, as runc's shim tells it.
    pub fn never_ran() -> Self {
        let at = SystemTime::UNIX_EPOCH.checked_sub(Duration::from_secs(YEAR_1_TO_1970));
        Self { code: 0, at: at.unwrap_or(SystemTime::UNIX_EPOCH) }
    }
}

/// Whether an end of the input pipe means an end of input.
#[derive(Debug)]
enum Input {
    /// Not yet: clients may come and go.
    Open(Option<InputKeeper>),
    Closed,
}

/// A process in the guest; or, of a pod's own container, none at all.
pub struct Process {
    guest: GuestProcess,
    /// Of what only waits, and is in no guest: the code of its end, once there is one.
    waiting: Option<watch::Sender<Option<u32>>>,
    stdio: Stdio,
    agent: Arc<AgentClient>,
    status: Mutex<Status>,
    exit: watch::Sender<Option<Exit>>,
    copying: AsyncMutex<Option<Copying>>,
    input: Mutex<Input>,
    /// A terminal size that was asked for before there was a terminal.
    size: Mutex<Option<(u32, u32)>>,
    /// What an exec will run.
    spec: Option<oci::Process>,
    pid: u32,
}

impl Process {
    /// The container's init, which exists in the guest and waits for its start.
    pub(crate) fn init(agent: Arc<AgentClient>, container: &str, stdio: Stdio, pid: u32) -> Self {
        Self::new(agent, GuestProcess::init(container), stdio, None, pid)
    }

    /// What stands for an init that only waits for a signal to end it. The guest knows nothing of it.
    pub(crate) fn waiting(agent: Arc<AgentClient>, container: &str, stdio: Stdio, pid: u32) -> Self {
        Self { waiting: Some(watch::Sender::new(None)), ..Self::init(agent, container, stdio, pid) }
    }

    /// An exec, which the guest knows nothing of before its start.
    pub(crate) fn exec(
        agent: Arc<AgentClient>,
        container: &str,
        id: &str,
        spec: oci::Process,
        stdio: Stdio,
        pid: u32,
    ) -> Self {
        let guest = GuestProcess { container: container.into(), exec: id.into() };
        Self::new(agent, guest, stdio, Some(spec), pid)
    }

    fn new(
        agent: Arc<AgentClient>,
        guest: GuestProcess,
        stdio: Stdio,
        spec: Option<oci::Process>,
        pid: u32,
    ) -> Self {
        Self {
            guest,
            waiting: None,
            stdio,
            agent,
            status: Mutex::new(Status::Created),
            exit: watch::Sender::new(None),
            copying: AsyncMutex::new(None),
            input: Mutex::new(Input::Open(None)),
            size: Mutex::new(None),
            spec,
            pid,
        }
    }

    pub fn status(&self) -> Status {
        *lock(&self.status)
    }

    /// What is told as its pid: none for an exec that was not started.
    pub fn pid(&self) -> u32 {
        if self.spec.is_some() && self.status() == Status::Created { 0 } else { self.pid }
    }

    /// The same of one that was started; takes no lock.
    pub(crate) fn started_pid(&self) -> u32 {
        self.pid
    }

    pub fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    pub fn stdio(&self) -> &Stdio {
        &self.stdio
    }

    pub(crate) fn is_in_guest(&self) -> bool {
        self.waiting.is_none()
    }

    /// Waits for its end, however long that takes.
    pub async fn wait(&self) -> Result<Exit> {
        let mut exit = self.exit.subscribe();
        let exit =
            exit.wait_for(Option::is_some).await.map_err(|_| Error::internal("the process was dropped"))?;
        Ok((*exit).expect("wait_for returned on Some"))
    }

    /// [`crate::error::ErrorKind::NotFound`] when it has ended, FailedPrecondition when it does not run yet.
    pub async fn kill(&self, signal: u32) -> Result<()> {
        self.signal(signal, SignalScope::One).await
    }

    /// Sends `signal` to every process of the container, if it is SIGKILL; any other reaches the init alone.
    pub(crate) async fn kill_all(&self, signal: u32) -> Result<()> {
        self.signal(signal, SignalScope::All).await
    }

    async fn signal(&self, signal: u32, scope: SignalScope) -> Result<()> {
        self.check_alive()?;
        let Some(waiting) = &self.waiting else {
            let sent = self.agent.signal(&self.guest, signal, scope).await;
            let lost = sent.as_ref().is_err_and(|error| error.kind() == ErrorKind::Unavailable);
            if lost
                && signal == SIGKILL
                && timeout(GUEST_END, self.wait()).await.is_ok_and(|exit| exit.is_ok())
            {
                return Ok(()); // The guest ended meanwhile, and killed it with that.
            }
            return sent;
        };
        // Kubernetes' pause ends in order on the second two, and being a first process hears no others.
        let code = match signal {
            SIGKILL => 128 + SIGKILL,
            SIGINT | SIGTERM if self.status() == Status::Running => 0,
            _ => return Ok(()),
        };
        waiting.send_if_modified(|end| end.is_none() && end.replace(code).is_none());
        Ok(())
    }

    fn check_alive(&self) -> Result<()> {
        match self.status() {
            Status::Stopped => Err(Error::not_found("process already finished")),
            Status::Created if self.spec.is_some() => Err(Error::precondition("process not created")),
            _ => Ok(()),
        }
    }

    /// Sizes its terminal; before the start, remembers the size for it.
    pub async fn resize(&self, width: u32, height: u32) -> Result<()> {
        match self.status() {
            // runc lets the terminal of an init be resized for ever.
            Status::Stopped if self.spec.is_none() => Ok(()),
            Status::Stopped => Err(Error::wrong_state("cannot resize a stopped container")),
            _ if !self.stdio.terminal || !self.is_in_guest() => Ok(()),
            Status::Created if self.spec.is_some() => {
                *lock(&self.size) = Some((width, height));
                Ok(())
            }
            _ => self.agent.resize(&self.guest, width, height).await,
        }
    }

    /// The engine sends no more input. What is on its way is still read; then the process finds the end.
    pub fn close_stdin(&self) {
        *lock(&self.input) = Input::Closed;
    }

    /// Runs an exec in the guest.
    pub(crate) async fn launch_exec(&self) -> Result<()> {
        let spec = self.spec.as_ref().ok_or_else(|| Error::internal("an init is not launched as an exec"))?;
        self.agent.exec(&self.guest, spec).await
    }

    /// Changes its status, if it is `from`.
    pub(crate) fn change(&self, from: Status, to: Status) -> bool {
        let mut status = lock(&self.status);
        let is_so = *status == from;
        if is_so {
            *status = to;
        }
        is_so
    }

    /// From now on it runs: applies a remembered size.
    pub(crate) async fn mark_running(&self) {
        self.change(Status::Created, Status::Running);
        if !self.is_in_guest() {
            return;
        }
        let size = lock(&self.size).take();
        if let Some((width, height)) = size
            && let Err(error) = self.agent.resize(&self.guest, width, height).await
        {
            tracing::debug!(%error, "the terminal keeps its size");
        }
    }

    /// Connects its streams.
    pub(crate) async fn attach(&self, mut streams: HostStreams) {
        if !self.is_in_guest() {
            return; // Readers find the end at once.
        }
        {
            let mut input = lock(&self.input);
            if let Input::Open(keeper) = &mut *input {
                *keeper = streams.take_keeper();
            }
        }
        // A keeper that is still there belongs to an input that was closed before it came.
        drop(streams.take_keeper());
        *self.copying.lock().await = Some(Copying::start(&self.agent, &self.guest, streams));
    }

    /// Waits for its end in the guest and for its output; a guest that is gone gives 255. Does not record it.
    pub(crate) async fn ended(&self) -> GuestExit {
        if let Some(waiting) = &self.waiting {
            let mut end = waiting.subscribe();
            let code = end.wait_for(Option::is_some).await.ok().and_then(|code| *code);
            return GuestExit { code: code.unwrap_or(UNKNOWN_EXIT), oom_kills: 0 };
        }
        // An agent that gives output only by calls may forget a process once it was waited for, so its output is read
        // first; unless nobody on the host takes it, for then the process may sit before a full pipe, or be long dead.
        if !self.agent.serves_streams()
            && let Some(copying) = self.copying.lock().await.as_mut()
        {
            copying.settled().await;
        }
        let exit = match self.agent.wait(&self.guest).await {
            Ok(exit) => exit,
            Err(error) => {
                tracing::debug!(%error, container = self.guest.container, exec = self.guest.exec, "wait ended");
                if error.kind() == ErrorKind::Unavailable {
                    // The connection broke, most likely because the VM has died; whoever watches it knows the code.
                    let _ = timeout(NEWS_OF_DEATH, self.wait()).await;
                }
                GuestExit { code: UNKNOWN_EXIT, oom_kills: 0 }
            }
        };
        if let Some(copying) = self.copying.lock().await.as_mut() {
            copying.end_input();
            // What it has started may go on writing: that is taken until it is deleted, but not waited for.
            copying.settled_or_quiet(STRAGGLERS).await;
        }
        exit
    }

    /// Records its end, once; whoever comes later finds the first. `tell` is called before anybody can see the end, so
    /// that what follows from it is told after it.
    pub(crate) fn record(&self, code: u32, tell: impl FnOnce(Exit)) -> Exit {
        let mut status = lock(&self.status);
        if let Some(known) = self.exit() {
            return known;
        }
        let exit = Exit { code, at: SystemTime::now() };
        tell(exit);
        self.exit.send_replace(Some(exit));
        *status = Status::Stopped;
        exit
    }

    /// Waits, after its end, until its output is taken, however long its reader takes for that. Returns when its streams
    /// are let go.
    pub async fn output_taken(&self) {
        let outlook = self.copying.lock().await.as_ref().map(Copying::outlook);
        if let Some(outlook) = outlook {
            outlook.taken_or_quiet(STRAGGLERS).await;
        }
    }

    /// Lets go of its streams, after what is still on its way.
    pub(crate) async fn detach(&self, patience: Duration) {
        if let Some(copying) = self.copying.lock().await.take() {
            copying.drain(patience).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain values: a panic elsewhere leaves none of them half-written.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

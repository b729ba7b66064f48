//! One OCI container: its processes, its storage, its life. Never talks to the VM.

mod control;
pub(crate) mod guest_spec;
mod open_files;
pub(crate) mod sizing;
mod wording;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex as SyncMutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use oci_spec::runtime as oci;
use protocols::agent::{CreateContainerRequest, Device};
use tokio::{sync::Mutex, task::spawn_blocking, time::timeout};

pub use open_files::raise as raise_open_files;
pub use protocols::agent::{BlkioStats, BlkioStatsEntry, HugetlbStats, StatsContainerResponse as Stats};

use crate::{
    agent::AgentClient,
    bundle::Bundle,
    error::{Context, Error, ErrorKind, Result},
    events::{self, Event},
    hooks::{HostHooks, Phase},
    ids::{ContainerId, ExecId},
    ledger::Ledger,
    process::{Exit, Process, SIGKILL, Status},
    stdio::Stdio,
    storage::Storage,
};

/// How long the execs of a container whose init has ended may take to be told, after they were killed.
const EXEC_END: Duration = Duration::from_secs(5);
/// How long a deleted process's reader may take nothing before what is left is dropped. runc's shim waits as long.
const READER_PATIENCE: Duration = Duration::from_secs(2);
/// Pids of execs count from here: numbers that no process of any host has. They differ from the init's, for Docker 20.10
/// takes whatever ends with the init's pid for the init.
const EXEC_PIDS: u32 = 2_000_000_000;
/// Pids are signed.
const EXEC_PIDS_RANGE: u32 = 100_000_000;
/// Up to this size a spec goes in both of its forms: a message has 4 MiB.
const BOTH_FIT: usize = 3 << 19;

/// A container in the guest.
pub struct Container {
    id: ContainerId,
    bundle: PathBuf,
    /// The hypervisor's, reported for the init.
    pid: u32,
    agent: Arc<AgentClient>,
    events: events::Sender,
    ledger: Ledger,
    hooks: HostHooks,
    init: Arc<Process>,
    execs: SyncMutex<HashMap<String, Arc<Process>>>,
    exec_count: AtomicU32,
    storage: SyncMutex<Option<Storage>>,
    /// Its limits, as far as they shape the VM.
    workload: SyncMutex<sizing::Workload>,
    /// How many kills for want of memory were told.
    oom_kills: SyncMutex<u64>,
    /// Orders start and delete, and says whether it is deleted. `wait`, `kill` and `resize` never take it.
    lifecycle: Mutex<bool>,
}

impl Container {
    /// Makes the container in the guest; its init waits for [`Self::start`]. What it is to find there, `ready` sees to, after
    /// the hooks. On failure the caller releases `storage`, which is handed back.
    pub(crate) async fn create(
        id: ContainerId,
        bundle: &Bundle,
        stdio: Stdio,
        mut storage: Storage,
        seccomp: bool,
        owner: Owner,
        ready: impl Future<Output = Result<()>>,
    ) -> Result<Arc<Self>, (Error, Storage)> {
        let given = storage.mounts.clone();
        let decided = guest_spec::Decided {
            root: storage.guest_root.clone(),
            mounts: std::mem::take(&mut storage.mounts),
            disks: std::mem::take(&mut storage.disks),
            seccomp,
        };
        let hooks = HostHooks::new(&id, bundle, owner.pid, owner.hook_deadline, &owner.ledger);
        let made = async {
            let streams = stdio.open(id.as_str(), &owner.ledger).await?;
            // What cannot be served is refused, whether or not the guest hears of it.
            let devices = std::mem::take(&mut storage.devices);
            let request = create_request(&id, bundle, decided, devices)?;
            let request = (!bundle.only_waits()).then_some(request);
            let hooked = async {
                hooks.before_create().await?;
                ready.await?;
                let Some(request) = &request else { return Ok(()) };
                let created = owner.agent.create_container(request).await;
                created.map_err(|error| {
                    let spec = bundle.spec.mounts().as_deref().unwrap_or_default();
                    wording::in_the_specs_words(error, spec, &given)
                })
            };
            if let Err(error) = hooked.await {
                hooks.after(Phase::Poststop).await;
                return Err(error);
            }
            Ok(streams)
        };
        let streams = match made.await {
            Ok(streams) => streams,
            Err(error) => return Err((error, storage)),
        };
        let Owner { agent, events, ledger, pid, .. } = owner;
        let init = if bundle.only_waits() { Process::waiting } else { Process::init };
        let init = Arc::new(init(agent.clone(), id.as_str(), stdio, pid));
        init.attach(streams).await;
        let container = Arc::new(Self {
            id,
            bundle: bundle.dir.clone(),
            pid,
            agent,
            events,
            ledger,
            hooks,
            init,
            execs: SyncMutex::default(),
            exec_count: AtomicU32::default(),
            storage: SyncMutex::new(Some(storage)),
            workload: SyncMutex::new(sizing::Workload::of(&bundle.spec)),
            oom_kills: SyncMutex::default(),
            lifecycle: Mutex::default(),
        });
        // From here on, for an init can be killed before it is started.
        tokio::spawn(container.clone().watch_init());
        Ok(container)
    }

    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    pub fn bundle(&self) -> &Path {
        &self.bundle
    }

    /// Not so for what [`Bundle::only_waits`].
    fn is_in_guest(&self) -> bool {
        self.init.is_in_guest()
    }

    /// Its init's.
    pub fn status(&self) -> Status {
        self.init.status()
    }

    /// The init, or the exec of that name.
    pub fn process(&self, exec: Option<&str>) -> Result<Arc<Process>> {
        match exec.filter(|exec| !exec.is_empty()) {
            None => Ok(self.init.clone()),
            Some(exec) => lock(&self.execs)
                .get(exec)
                .cloned()
                .ok_or_else(|| Error::not_found(format!("process does not exist {exec}"))),
        }
    }

    /// Runs the init.
    pub async fn start(&self) -> Result<()> {
        let _order = self.lifecycle.lock().await;
        match self.init.status() {
            Status::Created => {}
            Status::Running => return Err(Error::wrong_state("cannot start a running process")),
            Status::Pausing | Status::Paused => {
                return Err(Error::wrong_state("cannot start a paused process"));
            }
            Status::Stopped => return Err(Error::wrong_state("cannot start a stopped process")),
        }
        if self.is_in_guest() {
            self.agent.start_container(self.id.as_str()).await?;
        }
        self.init.mark_running().await;
        // The watcher takes the same lock before it tells the end, so the end cannot overtake this.
        self.tell(Event::Started { container: self.id.to_string(), pid: self.pid });
        self.hooks.after(Phase::Poststart).await;
        Ok(())
    }

    /// Registers an exec; the guest hears of it when it is started.
    pub async fn exec(&self, id: ExecId, mut process: oci::Process, stdio: Stdio) -> Result<()> {
        match self.init.status() {
            Status::Created | Status::Running => {}
            Status::Pausing | Status::Paused => {
                return Err(Error::wrong_state("cannot exec in a paused state"));
            }
            Status::Stopped => return Err(Error::wrong_state("cannot exec in a stopped state")),
        }
        if !self.is_in_guest() {
            return Err(Error::unimplemented(
                "a pod's own container has no files and no processes: exec into another one of the pod",
            ));
        }
        open_files::inherit(&mut process);
        let pid = EXEC_PIDS + self.exec_count.fetch_add(1, Ordering::Relaxed) % EXEC_PIDS_RANGE;
        let exec = Process::exec(self.agent.clone(), self.id.as_str(), id.as_str(), process, stdio, pid);
        {
            let mut execs = lock(&self.execs);
            if id.as_str() == self.id.as_str() || execs.contains_key(id.as_str()) {
                return Err(Error::already_exists(format!("id {id}")));
            }
            execs.insert(id.to_string(), Arc::new(exec));
        }
        self.tell(Event::ExecAdded { container: self.id.to_string(), exec: id.to_string() });
        Ok(())
    }

    /// Runs a registered exec.
    pub async fn start_exec(self: &Arc<Self>, id: &str) -> Result<()> {
        let process = self.process(Some(id))?;
        match process.status() {
            Status::Created => {}
            Status::Stopped => return Err(Error::wrong_state("cannot start a stopped process")),
            _ => return Err(Error::wrong_state("cannot start a running process")),
        }
        match self.init.status() {
            Status::Created | Status::Running => {}
            Status::Pausing | Status::Paused => {
                return Err(Error::wrong_state("cannot exec in a paused container"));
            }
            Status::Stopped => return Err(Error::wrong_state("cannot exec in a stopped container")),
        }
        let started = async {
            let streams = process.stdio().open(id, &self.ledger).await?;
            process.launch_exec().await?;
            process.attach(streams).await;
            Ok(())
        };
        if let Err(error) = started.await {
            // What never ran has ended: waiters are told, and it can be deleted.
            process.record(UNSTARTED, |_| ());
            return Err(error);
        }
        process.mark_running().await;
        self.tell(Event::ExecStarted { container: self.id.to_string(), exec: id.into(), pid: process.pid() });
        tokio::spawn(self.clone().watch_exec(id.to_owned(), process));
        Ok(())
    }

    /// Sends `signal` to every process of the container; where the agent cannot, to all that were asked for.
    pub async fn kill_all(&self, signal: u32) -> Result<()> {
        if self.init.status() == Status::Stopped {
            // Nothing is left to be killed, and for runc that is no error.
            return Ok(());
        }
        if signal == SIGKILL || !self.is_in_guest() || self.agent.signals_all().await? {
            return self.init.kill_all(signal).await;
        }
        let execs: Vec<_> = lock(&self.execs).values().cloned().collect();
        for exec in execs.iter().filter(|exec| exec.status() == Status::Running) {
            match exec.kill(signal).await {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.init.kill(signal).await
    }

    /// Forgets an exec that has ended or never ran.
    pub async fn delete_exec(&self, id: &str) -> Result<Exit> {
        let process = self.process(Some(id))?;
        let exit = match process.status() {
            Status::Created => {
                process.record(0, |_| ());
                Exit::never_ran()
            }
            Status::Stopped => process.wait().await?,
            _ => return Err(Error::wrong_state("cannot delete a running process")),
        };
        process.detach(READER_PATIENCE).await;
        lock(&self.execs).remove(id);
        Ok(exit)
    }

    /// Takes the container out of the guest and off the host. One that was never started is killed first.
    pub(crate) async fn delete(&self) -> Result<Exit> {
        let mut deleted = self.lifecycle.lock().await;
        if *deleted {
            return Err(Error::not_found("another delete was quicker"));
        }
        match self.init.status() {
            Status::Created | Status::Stopped => {}
            Status::Running => return Err(Error::wrong_state("cannot delete a running process")),
            Status::Pausing | Status::Paused => {
                return Err(Error::wrong_state("cannot delete a paused process"));
            }
        }
        let exit = if self.init.status() == Status::Created {
            // It waits before its program, and would for ever. The watcher cannot tell its end: it waits for our lock.
            if let Err(error) = self.init.kill_all(SIGKILL).await {
                tracing::debug!(%error, container = %self.id, "not killed in the guest");
            }
            self.init.record(128 + SIGKILL, |exit| self.tell_exit(self.id.as_str(), &self.init, exit));
            Exit::never_ran()
        } else {
            self.init.wait().await?
        };
        self.init.detach(READER_PATIENCE).await;
        if self.is_in_guest()
            && let Err(error) = self.agent.remove_container(self.id.as_str()).await
        {
            // A guest that died took the container with it.
            tracing::debug!(%error, container = %self.id, "not removed in the guest");
        }
        self.release_storage().await?;
        *deleted = true;
        self.hooks.after(Phase::Poststop).await;
        self.tell(Event::Deleted { container: self.id.to_string(), pid: self.pid, exit });
        Ok(exit)
    }

    /// The guest is gone: every process that had not ended has, with `code`.
    pub(crate) fn guest_died(&self, code: u32) {
        let execs: Vec<_> = lock(&self.execs).iter().map(|(id, exec)| (id.clone(), exec.clone())).collect();
        for (id, exec) in execs.iter().filter(|(_, exec)| exec.status() == Status::Running) {
            exec.record(code, |exit| self.tell_exit(id, exec, exit));
        }
        self.init.record(code, |exit| self.tell_exit(self.id.as_str(), &self.init, exit));
    }

    pub(crate) async fn release_storage(&self) -> Result<()> {
        let Some(mut storage) = lock(&self.storage).take() else {
            return Ok(());
        };
        let (storage, released) = spawn_blocking(move || {
            let released = storage.release();
            (storage, released)
        })
        .await
        .map_err(|error| Error::internal(error.to_string()))?;
        if released.is_err() {
            *lock(&self.storage) = Some(storage);
        }
        released.with_context(|| format!("release the storage of container {}", self.id))
    }

    async fn watch_init(self: Arc<Self>) {
        let code = self.end_of(&self.init).await;
        let _order = self.lifecycle.lock().await;
        self.end_execs().await;
        self.init.record(code, |exit| self.tell_exit(self.id.as_str(), &self.init, exit));
    }

    async fn watch_exec(self: Arc<Self>, id: String, process: Arc<Process>) {
        let code = self.end_of(&process).await;
        process.record(code, |exit| self.tell_exit(&id, &process, exit));
    }

    /// Waits for the end in the guest, or for the end of the guest.
    async fn end_of(&self, process: &Process) -> u32 {
        tokio::select! {
            ended = process.ended() => {
                // Before the end is told: engines look for the reason when they hear of the end.
                self.ran_out_of_memory(Some(ended.oom_kills));
                ended.code
            }
            exit = process.wait() => exit.map_or(UNSTARTED, |exit| exit.code),
        }
    }

    /// The execs of a container go with its init; they are told first.
    async fn end_execs(&self) {
        let execs: Vec<_> =
            lock(&self.execs).values().filter(|exec| exec.status() == Status::Running).cloned().collect();
        if execs.is_empty() {
            return;
        }
        if let Err(error) = self.init.kill_all(SIGKILL).await {
            tracing::debug!(%error, container = %self.id, "no process is left to be killed");
        }
        let told = async {
            for exec in &execs {
                let _ = exec.wait().await; // Only its end matters.
            }
        };
        if timeout(EXEC_END, told).await.is_err() {
            tracing::warn!(container = %self.id, "an exec outlives its container");
        }
    }

    fn tell_exit(&self, name: &str, process: &Process, exit: Exit) {
        self.tell(Event::Exited {
            container: self.id.to_string(),
            process: name.into(),
            pid: process.started_pid(),
            exit,
        });
    }

    fn tell(&self, event: Event) {
        let _ = self.events.send(event); // Nobody may be listening any more.
    }
}

/// One process of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The hypervisor's for the init, that which was told for an exec; for any other 1000000000 and its number in the
    /// container.
    pub pid: u32,
    /// The exec whose process it is.
    pub exec: Option<String>,
}

/// What a process that could not be started is said to have returned.
const UNSTARTED: u32 = 255;

/// The spec, both as every agent knows it and as JSON, which has fields that the former has not.
fn create_request(
    id: &ContainerId,
    bundle: &Bundle,
    decided: guest_spec::Decided,
    devices: Vec<Device>,
) -> Result<CreateContainerRequest> {
    let spec = guest_spec::translate(bundle, decided)?;
    let fault = |error: protocols::oci::OciError| Error::invalid(error.to_string());
    let spec_json = protocols::oci::spec_to_json(&spec).map_err(fault)?;
    let both_fit = spec_json.len() < BOTH_FIT;
    let wire = both_fit.then(|| protocols::oci::spec_to_wire(&spec).map_err(fault)).transpose()?;
    Ok(CreateContainerRequest {
        container_id: id.to_string(),
        exec_id: id.to_string(),
        OCI: wire.into(),
        sandbox_pidns: guest_spec::shares_sandbox_pids(bundle),
        spec_json,
        devices,
        ..Default::default()
    })
}

/// What every container of a sandbox works with.
#[derive(Clone)]
pub(crate) struct Owner {
    pub agent: Arc<AgentClient>,
    pub events: events::Sender,
    pub ledger: Ledger,
    pub pid: u32,
    /// For a hook that names no time of its own.
    pub hook_deadline: Duration,
}

fn lock<T>(mutex: &SyncMutex<T>) -> MutexGuard<'_, T> {
    // Maps and options that every user leaves whole: a panic elsewhere is no reason to stop here.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Life of one container.

mod bpf;
mod cgroup;
mod complaints;
mod copy_up;
mod cpuset;
mod devices;
mod executor;
mod filled_in;
mod fork;
mod freezer;
pub mod hold;
mod join;
pub mod launch;
pub mod launcher;
mod make;
mod nodes;
pub mod oom;
mod plain;
mod plan;
mod plan_mounts;
mod plan_process;
mod processes;
mod resources;
mod scheduling;
mod stats;
mod update;
mod wording;

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::{errno::Errno, sys::signal::Signal};
use oci_spec::runtime as oci;
use protocols::{agent as wire, extras::ProcessEntry};
use tokio::{
    sync::{RwLock as AsyncRwLock, mpsc},
    task::spawn_blocking,
};

use crate::{
    disks::Disk,
    error::{Context, Error, Result},
    process::Process,
};
pub use cgroup::make_parent as make_cgroup_parent;
pub use make::{Isolation, Surroundings};
use make::{streams_wanted, write_json};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Created,
    Running,
}

/// A container with its init, from creation on.
pub struct Container {
    id: String,
    bundle: PathBuf,
    isolation: Arc<Isolation>,
    pipe_size: u32,
    init: Arc<Process>,
    inherited: plan::Inherited,
    execs: Mutex<HashMap<String, Arc<Process>>>,
    state: Mutex<State>,
    /// Whether it stands still. Held while that changes, and shared by those who add a process meanwhile.
    paused: AsyncRwLock<bool>,
    oom_watch: Mutex<Option<oom::OomWatch>>,
    /// Storages of its own, to be given back.
    pub storages: Vec<PathBuf>,
    /// Where its bind mounts are from.
    sources: Vec<PathBuf>,
    /// Disks that it has, to be given back.
    disks: Mutex<Vec<Disk>>,
}

impl Container {
    /// Makes the container; its init waits for [`Self::start`]. What a failure leaves is taken away.
    pub async fn create(
        id: &str,
        bundle: PathBuf,
        spec: oci::Spec,
        isolation: Arc<Isolation>,
        around: Surroundings,
        storages: Vec<PathBuf>,
    ) -> Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            // Root in a user namespace must pass to what is mounted in it.
            .mode(0o711)
            .create(&bundle)
            .context(format!("create {}", bundle.display()))?;
        let sources = spec.mounts().as_deref().map(filled_in::sources).unwrap_or_default();
        let made = make::init(id, &bundle, spec, &isolation, &around).await;
        match made {
            Ok((init, inherited)) => Ok(Self {
                inherited,
                id: id.to_owned(),
                bundle,
                isolation,
                pipe_size: around.pipe_size,
                init: Arc::new(init),
                execs: Mutex::default(),
                state: Mutex::new(State::Created),
                paused: AsyncRwLock::default(),
                oom_watch: Mutex::default(),
                storages,
                sources,
                disks: Mutex::default(),
            }),
            Err(error) => {
                clean(id, &bundle, &isolation).await;
                Err(error)
            }
        }
    }

    /// Runs the init. A second time is an error and changes nothing.
    pub async fn start(&self) -> Result<()> {
        {
            let mut state = lock(&self.state);
            if *state != State::Created {
                return Err(Error::internal(format!("container {} was started already", self.id)));
            }
            *state = State::Running;
        }
        match &*self.isolation {
            Isolation::Full(launcher) => {
                // A thread of its own costs a start that has nothing to ask for.
                if !self.sources.is_empty() {
                    let sources = self.sources.clone();
                    spawn_blocking(move || filled_in::look_again(&sources))
                        .await
                        .map_err(|error| Error::internal(error.to_string()))?;
                }
                launcher.start(&self.id).await
            }
            Isolation::PlainChildren => {
                let bundle = self.bundle.clone();
                spawn_blocking(move || plain::start(&bundle))
                    .await
                    .map_err(|error| Error::internal(error.to_string()))?
            }
        }
    }

    /// Adds a running process under a name of its own.
    pub async fn exec(&self, exec_id: &str, mut spec: oci::Process) -> Result<()> {
        // It would stand still before it has begun, and whoever waits for it with it; so no pause comes before that.
        let paused = self.paused.read().await;
        if *paused {
            return Err(Error::internal(format!("container {} is paused", self.id)));
        }
        // The host uses a name again once it has everything of the process that had it.
        let in_use =
            |execs: &HashMap<_, Arc<Process>>| execs.get(exec_id).is_some_and(|process| !process.has_ended());
        if exec_id.is_empty() || exec_id == self.id || in_use(&lock(&self.execs)) {
            return Err(Error::internal(format!("exec_id '{exec_id}' already exists")));
        }
        if spec.capabilities().is_none() {
            // As with runc; a container that named none has an empty set here.
            spec.set_capabilities(self.inherited.capabilities.clone());
        }
        plan_process::plan_process(&mut spec)?;
        let process = match &*self.isolation {
            Isolation::Full(launcher) => {
                // A request to the launcher is short, so this goes by a file. The exec's name is the host's and must not
                // lead elsewhere.
                let file = tempname(&self.bundle);
                let streams = streams_wanted(&spec, &self.inherited, self.pipe_size);
                let plan::Inherited { seccomp, personality, .. } = self.inherited.clone();
                let joining = join::Joining { process: spec, seccomp, personality, init: self.init.pid() };
                write_json(&file, &joining)?;
                let started = launcher.exec(&self.id, &file, streams).await;
                let _ = fs::remove_file(&file); // The bundle goes with the container anyway.
                started?
            }
            Isolation::PlainChildren => plain::exec(&spec, self.pipe_size)?,
        };
        lock(&self.execs).insert(exec_id.to_owned(), Arc::new(process));
        Ok(())
    }

    /// It has these as long as it is there.
    pub fn keep_disks(&self, disks: Vec<Disk>) {
        *lock(&self.disks) = disks;
    }

    pub fn give_up_disks(&self) -> Vec<Disk> {
        std::mem::take(&mut *lock(&self.disks))
    }

    /// The init's process id, for its namespaces.
    pub fn init_pid(&self) -> i32 {
        self.init.pid()
    }

    /// The process of that name; the init by an empty one or the container's own.
    pub fn process(&self, exec_id: &str) -> Result<Arc<Process>> {
        if exec_id.is_empty() || exec_id == self.id {
            return Ok(self.init.clone());
        }
        lock(&self.execs).get(exec_id).cloned().ok_or_else(|| Error::not_found("InvalidExecId"))
    }

    /// Forgets an exec of which the host has everything. What nobody has read yet stays, whoever waited meanwhile.
    pub fn forget_if_done(&self, exec_id: &str) {
        let mut execs = lock(&self.execs);
        if execs.get(exec_id).is_some_and(|process| process.is_done()) {
            execs.remove(exec_id);
        }
    }

    /// Sends a signal to one process. One that has ended is left in peace.
    pub fn signal(&self, exec_id: &str, signal: i32) -> Result<()> {
        let process = self.process(exec_id)?;
        if process.has_ended() {
            return Err(Error::not_found("the process has ended: ESRCH: No such process"));
        }
        send(process.pid(), signal)?;
        // An exec ends without that, and the others stand still as before.
        if signal == Signal::SIGKILL as i32 && Arc::ptr_eq(&process, &self.init) {
            self.release_killed();
        }
        Ok(())
    }

    /// Lets the host know of processes that are killed for want of memory, from now on.
    pub fn watch_memory(&self, kills: mpsc::Sender<oom::OomKill>) {
        if let Isolation::Full(_) = &*self.isolation {
            *lock(&self.oom_watch) = oom::watch(&self.id, kills);
        }
    }

    /// How many processes were killed for want of memory so far.
    pub fn oom_kills(&self) -> u64 {
        match &*self.isolation {
            Isolation::Full(_) => oom::kills(&self.id),
            Isolation::PlainChildren => 0,
        }
    }

    /// Makes every process stand still.
    pub async fn pause(&self) -> Result<()> {
        let mut paused = self.paused.write().await;
        if *paused {
            return Err(Error::internal(format!("container {} is paused already", self.id)));
        }
        match &*self.isolation {
            Isolation::Full(_) => freezer::freeze(&self.id).await?,
            Isolation::PlainChildren => self.signal_known(Signal::SIGSTOP as i32)?,
        }
        *paused = true;
        Ok(())
    }

    /// Lets a paused container go on.
    pub async fn resume(&self) -> Result<()> {
        let mut paused = self.paused.write().await;
        if !*paused {
            return Err(Error::internal(format!("container {} is not paused", self.id)));
        }
        match &*self.isolation {
            Isolation::Full(_) => freezer::thaw(&self.id).await?,
            Isolation::PlainChildren => self.signal_known(Signal::SIGCONT as i32)?,
        }
        *paused = false;
        Ok(())
    }

    /// What was killed does not stand still any more, and what remains of the container goes on, as with runc.
    fn release_killed(&self) {
        // Locked, somebody is at it, and a killed process leaves a freezing group all the same.
        if let Ok(mut paused) = self.paused.try_write()
            && *paused
        {
            match &*self.isolation {
                Isolation::Full(_) => cgroup::release(&self.id),
                Isolation::PlainChildren => drop(self.signal_known(Signal::SIGCONT as i32)),
            }
            *paused = false;
        }
    }

    /// Sets new limits.
    pub fn update(&self, resources: &oci::LinuxResources) -> Result<()> {
        match &*self.isolation {
            Isolation::Full(_) => update::update(&self.id, resources),
            // Without cgroups there is nothing to limit.
            Isolation::PlainChildren => Ok(()),
        }
    }

    pub fn stats(&self) -> Result<wire::StatsContainerResponse> {
        match &*self.isolation {
            Isolation::Full(_) => stats::stats(&self.id),
            Isolation::PlainChildren => Ok(plain::stats(&self.known())),
        }
    }

    /// Its processes, by the numbers that its init knows them by.
    pub fn processes(&self) -> Result<Vec<ProcessEntry>> {
        let pids = match &*self.isolation {
            Isolation::Full(_) => cgroup::processes(&self.id)?,
            Isolation::PlainChildren => self.known(),
        };
        let execs = lock(&self.execs);
        let named = [(&self.id, &self.init)].into_iter().chain(execs.iter());
        let names = named
            .filter(|(_, process)| !process.has_ended())
            .map(|(name, process)| (process.pid(), name.clone()))
            .collect();
        Ok(processes::entries(&pids, self.init.pid(), &names))
    }

    /// The living processes that the agent started itself: all there is of a container of plain children.
    fn known(&self) -> Vec<i32> {
        let execs = lock(&self.execs);
        let all = [&self.init].into_iter().chain(execs.values());
        all.filter(|process| !process.has_ended()).map(|process| process.pid()).collect()
    }

    fn signal_known(&self, signal: i32) -> Result<()> {
        self.known().into_iter().try_for_each(|pid| send(pid, signal))
    }

    /// Sends a signal to every process. None is success.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        if signal == Signal::SIGKILL as i32 {
            return self.kill_all();
        }
        let pids = match &*self.isolation {
            Isolation::Full(_) => cgroup::processes(&self.id)?,
            Isolation::PlainChildren => self.known(),
        };
        pids.into_iter().try_for_each(|pid| send(pid, signal))
    }

    /// Kills every process.
    pub fn kill_all(&self) -> Result<()> {
        match &*self.isolation {
            Isolation::Full(_) => cgroup::kill_all(&self.id),
            Isolation::PlainChildren => self.signal_known(Signal::SIGKILL as i32),
        }?;
        self.release_killed();
        Ok(())
    }

    /// Kills what is left of it and takes everything away.
    pub async fn remove(&self) -> Result<()> {
        self.kill_all()?;
        self.init.wait().await?;
        clean(&self.id, &self.bundle, &self.isolation).await;
        Ok(())
    }
}

/// Takes away what a container has outside its processes. Failures are only logged: the guest ends with its sandbox.
async fn clean(id: &str, bundle: &Path, isolation: &Isolation) {
    if let Isolation::Full(_) = isolation {
        if let Err(error) = cgroup::remove(id).await {
            tracing::warn!(container = id, %error, "a cgroup stays");
        }
        launcher::forget(id);
    }
    if let Err(error) = fs::remove_dir_all(bundle) {
        tracing::warn!(container = id, %error, bundle = %bundle.display(), "a bundle stays");
    }
}

fn send(pid: i32, signal: i32) -> Result<()> {
    // 0 only asks whether the process is there; real-time signals are no `Signal`.
    // SAFETY: kill takes two integers.
    match Errno::result(unsafe { nix::libc::kill(pid, signal) }) {
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(Errno::EINVAL) => Err(Error::invalid(format!("{signal} is no signal"))),
        Err(errno) => Err(Error::from(errno).context(format!("signal {signal} to process {pid}"))),
    }
}

fn tempname(dir: &Path) -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    dir.join(format!("exec-{}.json", COUNT.fetch_add(1, Ordering::Relaxed)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Maps and plain values, changed in single steps.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Life of one container.

mod cgroup;
mod executor;
mod fork;
pub mod launch;
pub mod launcher;
mod plain;
mod plan;

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::{errno::Errno, sys::signal::Signal};
use oci_spec::runtime as oci;
use tokio::task::spawn_blocking;

use crate::{
    error::{Context, Error, Result},
    namespaces::SharedNamespaces,
    process::Process,
    safe_path,
};
use launch::Launcher;

/// How a guest's containers are kept apart.
pub enum Isolation {
    /// Namespaces, cgroups and a root file system of their own, made by the launcher.
    Full(Launcher),
    /// Plain child processes, for tests without a guest.
    PlainChildren,
}

/// What the sandbox has for a container.
pub struct Surroundings {
    pub shared: Option<SharedNamespaces>,
    /// The process namespace to join.
    pub pid_namespace: Option<PathBuf>,
    pub pipe_size: u32,
}

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
    execs: Mutex<HashMap<String, Arc<Process>>>,
    state: Mutex<State>,
    /// Storages of its own, to be given back.
    pub storages: Vec<PathBuf>,
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
            .mode(0o700)
            .create(&bundle)
            .context(format!("create {}", bundle.display()))?;
        let made = make_init(id, &bundle, spec, &isolation, &around).await;
        match made {
            Ok(init) => Ok(Self {
                id: id.to_owned(),
                bundle,
                isolation,
                pipe_size: around.pipe_size,
                init: Arc::new(init),
                execs: Mutex::default(),
                state: Mutex::new(State::Created),
                storages,
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
            Isolation::Full(launcher) => launcher.start(&self.id).await,
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
        // The host uses a name again once it has everything of the process that had it.
        let in_use =
            |execs: &HashMap<_, Arc<Process>>| execs.get(exec_id).is_some_and(|process| !process.has_ended());
        if exec_id.is_empty() || exec_id == self.id || in_use(&lock(&self.execs)) {
            return Err(Error::internal(format!("exec_id '{exec_id}' already exists")));
        }
        plan::plan_process(&mut spec)?;
        let terminal = spec.terminal().unwrap_or(false);
        let process = match &*self.isolation {
            Isolation::Full(launcher) => {
                // libcontainer reads it from a file; the name is the host's and must not lead elsewhere.
                let file = tempname(&self.bundle);
                write_json(&file, &spec)?;
                let started = launcher.exec(&self.id, &file, terminal, self.pipe_size).await;
                let _ = fs::remove_file(&file); // The bundle goes with the container anyway.
                started?
            }
            Isolation::PlainChildren => plain::exec(&spec, self.pipe_size)?,
        };
        lock(&self.execs).insert(exec_id.to_owned(), Arc::new(process));
        Ok(())
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
        send(process.pid(), signal)
    }

    /// Kills every process.
    pub fn kill_all(&self) -> Result<()> {
        match &*self.isolation {
            Isolation::Full(_) => cgroup::kill_all(&self.id),
            Isolation::PlainChildren => {
                let execs: Vec<_> = lock(&self.execs).values().cloned().collect();
                for process in execs.iter().chain([&self.init]).filter(|process| !process.has_ended()) {
                    send(process.pid(), Signal::SIGKILL as i32)?;
                }
                Ok(())
            }
        }
    }

    /// Kills what is left of it and takes everything away.
    pub async fn remove(&self) -> Result<()> {
        self.kill_all()?;
        self.init.wait().await?;
        clean(&self.id, &self.bundle, &self.isolation).await;
        Ok(())
    }
}

async fn make_init(
    id: &str,
    bundle: &Path,
    spec: oci::Spec,
    isolation: &Isolation,
    around: &Surroundings,
) -> Result<Process> {
    match isolation {
        Isolation::Full(launcher) => {
            let shared =
                around.shared.as_ref().ok_or_else(|| Error::internal("the sandbox has no namespaces"))?;
            let planned = plan::plan(
                id,
                spec,
                &plan::Surroundings { shared, pid_namespace: around.pid_namespace.clone() },
            )?;
            let terminal = planned.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
            make_cwd(&planned)?;
            write_json(&bundle.join("config.json"), &planned)?;
            launcher.create(id, bundle, terminal, around.pipe_size).await
        }
        Isolation::PlainChildren => {
            let process = spec.process().as_ref().ok_or_else(|| Error::invalid("process: is missing"))?;
            plain::create(bundle, process, around.pipe_size)
        }
    }
}

/// Images name working directories that they do not have; every engine expects the runtime to make them.
fn make_cwd(spec: &oci::Spec) -> Result<()> {
    let (Some(root), Some(process)) = (spec.root(), spec.process()) else {
        return Ok(());
    };
    safe_path::create_dir_all(root.path(), process.cwd())
        .context(format!("process.cwd: create {}", process.cwd().display()))
}

/// Takes away what a container has outside its processes. Failures are only logged: the guest ends with its sandbox.
async fn clean(id: &str, bundle: &Path, isolation: &Isolation) {
    if let Isolation::Full(_) = isolation {
        if let Err(error) = cgroup::remove(id).await {
            tracing::warn!(%error, "a cgroup stays");
        }
        launcher::forget(id);
    }
    if let Err(error) = fs::remove_dir_all(bundle) {
        tracing::warn!(%error, bundle = %bundle.display(), "a bundle stays");
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

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_vec(value).map_err(|error| Error::internal(error.to_string()))?;
    fs::write(path, text).context(format!("write {}", path.display()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Maps and plain values, changed in single steps.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Helper processes on the host: QEMU, virtiofsd, a vsock back end, a logger.
//!
//! A child dies with its owner (`PR_SET_PDEATHSIG`), is known by pidfd, is claimed in the ledger as soon as it has a
//! pid, and its last words are kept for error messages. Whoever holds the [`Child`] hears how it ended.

mod birth;
mod spawn;

use std::{
    io::PipeReader,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    process::ExitStatus,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, unix::AsyncFd},
    net::unix::pipe,
    sync::watch,
    time::timeout,
};

pub use spawn::Launch;
use {birth::Newborn, spawn::Started};

use crate::{
    error::{Context, Error, Result},
    fault::{self, Side},
    journal::Journal,
    ledger::{Ledger, Resource},
    oom::{Kills, Want},
    state::{ProcessId, pidfd_signal, watch_pidfd},
    words::{Lines, Tail},
};

/// How many of the last lines are kept for error messages.
const LAST_WORDS: usize = 12;
/// And how many bytes of them: the helper may be fed by a hostile guest.
const BYTES_KEPT: usize = 8 << 10;
/// How long a killed process may take to vanish.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// A running helper process.
#[derive(Debug)]
pub struct Child {
    role: &'static str,
    pid: u32,
    pidfd: OwnedFd,
    exited: watch::Receiver<Option<ExitStatus>>,
    last_words: Arc<Mutex<Tail>>,
    /// Whether its SIGKILL was ours.
    killed: Arc<AtomicBool>,
    want: Arc<OnceLock<Want>>,
}

impl Child {
    /// Starts `launch` as the helper `role` and claims it. Its standard output and error become log lines.
    pub async fn spawn(role: &'static str, launch: Launch, ledger: &Ledger) -> Result<Self> {
        let (program, journal) = (launch.program(), launch.journal());
        fault::point("start", role, Side::Before)?;
        let kills = Kills::now();
        let group = if launch.is_grouped() { ledger.group() } else { None };
        let Started { newborn, stdout, stderr } =
            launch.start(group).await.with_context(|| format!("start {role} {program}"))?;
        let pid = newborn.pid;
        fault::started(role, pid);
        let claim = ProcessId::of(pid).map(|id| Resource::Process { id, role: role.into() });
        let claimed = claim.and_then(|claim| ledger.claim(claim.clone()).map(|()| claim));
        let claim = match claimed {
            Ok(claim) => claim,
            Err(error) => {
                newborn.discard(); // Unclaimed.
                return Err(error);
            }
        };
        let shared = newborn.pidfd.try_clone().and_then(|fd| Ok((fd.try_clone()?, watch_pidfd(fd)?)));
        let (pidfd, watched) = shared.with_context(|| format!("watch {role}"))?;

        let last_words = Arc::new(Mutex::new(Tail::new(LAST_WORDS, BYTES_KEPT)));
        let ear = Ear { role, last_words: last_words.clone(), journal };
        let speech = listen(&ear, stdout, stderr);
        let (sender, exited) = watch::channel(None);
        let ledger = ledger.clone();
        let (killed, want) = <(Arc<AtomicBool>, Arc<OnceLock<Want>>)>::default();
        let (was_killed, wanted) = (killed.clone(), want.clone());
        tokio::spawn(async move {
            let status = wait(watched, newborn).await;
            if status.signal() == Some(nix::libc::SIGKILL)
                && !was_killed.load(Ordering::Relaxed)
                && let Some(found) = kills.since()
            {
                let _ = wanted.set(found); // Nobody else does.
            }
            // The words before the end belong to the end; a grandchild that keeps the pipe must not delay it.
            let _ = timeout(Duration::from_millis(200), speech).await;
            if let Err(error) = ledger.forget(&claim) {
                tracing::debug!(%error, role, "the record of an ended process stays");
            }
            tracing::debug!(role, pid, %status, "helper ended");
            let _ = sender.send(Some(status)); // Nobody may be left to hear it.
        });
        Ok(Self { role, pid, pidfd, exited, last_words, killed, want })
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Becomes `Some` when the process has ended; stays so.
    pub fn exited(&self) -> watch::Receiver<Option<ExitStatus>> {
        self.exited.clone()
    }

    /// Why it ended, for an error message: status and last words.
    pub fn epitaph(&self) -> String {
        let status = self.exited.borrow().map_or_else(|| "still running".into(), |status| status.to_string());
        let status = self.want.get().map_or_else(|| status.clone(), |want| format!("{status}, {want}"));
        let words = lock(&self.last_words).joined(LAST_WORDS);
        if words.is_empty() {
            format!("{} ended: {status}", self.role)
        } else {
            format!("{} ended: {status}: {words}", self.role)
        }
    }

    /// Whether the host has killed it for want of memory, as its epitaph says then.
    pub fn wanted_memory(&self) -> bool {
        self.want.get().is_some()
    }

    /// The last lines that it said.
    pub fn last_words(&self) -> Vec<String> {
        lock(&self.last_words).lines()
    }

    /// Waits until it has ended by itself.
    pub async fn wait(&self, deadline: Duration) -> Result<ExitStatus> {
        let mut exited = self.exited.clone();
        let status = timeout(deadline, exited.wait_for(Option::is_some))
            .await
            .map_err(|_| {
                Error::deadline(format!("{} (pid {}) still runs after {deadline:?}", self.role, self.pid))
            })?
            .map_err(|_| Error::internal(format!("the watch of {} ended", self.role)))?;
        Ok((*status).expect("wait_for returned on Some"))
    }

    /// Sends a signal; a process that has ended is left in peace.
    pub fn signal(&self, signal: i32) {
        if signal == nix::libc::SIGKILL {
            self.killed.store(true, Ordering::Relaxed);
        }
        if let Err(error) = pidfd_signal(&self.pidfd, signal) {
            tracing::debug!(%error, role = self.role, signal, "signal not sent");
        }
    }

    /// Ends the process: SIGTERM, then after `grace` SIGKILL.
    pub async fn end(&self, grace: Duration) -> Result<()> {
        if !grace.is_zero() {
            self.signal(nix::libc::SIGTERM);
            if self.wait(grace).await.is_ok() {
                return Ok(());
            }
        }
        self.signal(nix::libc::SIGKILL);
        self.wait(KILL_DEADLINE).await.map(drop)
    }
}

impl AsFd for Child {
    /// The pidfd.
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

async fn wait(pidfd: AsyncFd<OwnedFd>, newborn: Newborn) -> ExitStatus {
    // An error here would mean a closed epoll instance, that is the end of the runtime; wait() then says the rest.
    let _ = pidfd.readable().await;
    newborn.wait().expect("a child of ours that nobody else waits for")
}

/// Who hears what a process says.
#[derive(Clone)]
struct Ear {
    role: &'static str,
    last_words: Arc<Mutex<Tail>>,
    journal: Option<Journal>,
}

impl Ear {
    /// Logs what is said and keeps the last of it; ends when nobody can speak any more.
    async fn listen_to(self, mut pipe: impl AsyncRead + Unpin) {
        let (mut lines, mut buffer) = (Lines::default(), [0; 4096]);
        while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
            lines.push(&buffer[..count], |line| self.hear(line));
        }
        lines.finish(|line| self.hear(line));
    }

    fn hear(&self, line: String) {
        tracing::debug!(role = self.role, line, "helper says");
        if let Some(journal) = &self.journal {
            journal.helper(self.role, &line);
        }
        lock(&self.last_words).push(line);
    }
}

fn listen(ear: &Ear, stdout: PipeReader, stderr: PipeReader) -> impl Future<Output = ()> + use<> {
    let out = pipe::Receiver::from_owned_fd(stdout.into()).ok();
    let err = pipe::Receiver::from_owned_fd(stderr.into()).ok();
    let (ear, other) = (ear.clone(), ear.clone());
    let out = tokio::spawn(async move {
        if let Some(pipe) = out {
            ear.listen_to(pipe).await;
        }
    });
    let err = tokio::spawn(async move {
        if let Some(pipe) = err {
            other.listen_to(pipe).await;
        }
    });
    async move {
        let _ = tokio::join!(out, err); // Neither panics nor is cancelled.
    }
}

fn lock(words: &Mutex<Tail>) -> MutexGuard<'_, Tail> {
    // Lines, whole after each step.
    words.lock().unwrap_or_else(PoisonError::into_inner)
}

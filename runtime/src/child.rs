//! Helper processes on the host: QEMU, virtiofsd, a vsock back end, a logger.
//!
//! A child dies with its owner (`PR_SET_PDEATHSIG`), is known by pidfd, is claimed in the ledger as soon as it has a
//! pid, and its last words are kept for error messages. Whoever holds the [`Child`] hears how it ended.

mod spawn;

use std::{
    collections::VecDeque,
    os::fd::{AsFd, OwnedFd},
    process::{self, ExitStatus},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader, unix::AsyncFd},
    sync::watch,
    time::timeout,
};

pub use spawn::Launch;

use crate::{
    error::{Context, Error, Result},
    fault::{self, Side},
    ledger::{Ledger, Resource},
    state::{ProcessId, pidfd_open, pidfd_signal, watch_pidfd},
};

/// How many of the last lines are kept for error messages.
const LAST_WORDS: usize = 12;
/// A longer line is cut: the helper may be fed by a hostile guest.
const LINE_LIMIT: usize = 2000;
/// How long a killed process may take to vanish.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// A running helper process.
#[derive(Debug)]
pub struct Child {
    role: &'static str,
    pid: u32,
    pidfd: OwnedFd,
    exited: watch::Receiver<Option<ExitStatus>>,
    last_words: Arc<Mutex<VecDeque<String>>>,
}

impl Child {
    /// Starts `launch` as the helper `role` and claims it. Its standard output and error become log lines.
    pub async fn spawn(role: &'static str, launch: Launch, ledger: &Ledger) -> Result<Self> {
        let program = launch.program();
        fault::point("start", role, Side::Before)?;
        let mut process = launch.start().await.with_context(|| format!("start {role} {program}"))?;
        let pid = process.id();
        fault::started(role, pid);
        let claim = ProcessId::of(pid).map(|id| Resource::Process { id, role: role.into() });
        let claimed = claim.and_then(|claim| ledger.claim(claim.clone()).map(|()| claim));
        let claim = match claimed {
            Ok(claim) => claim,
            Err(error) => {
                let _ = process.kill(); // Unclaimed, so it must not live; gone already is as good.
                let _ = process.wait();
                return Err(error);
            }
        };
        let pidfd = pidfd_open(pid).with_context(|| format!("open a pidfd of {role}"))?;
        let watched = pidfd.try_clone().and_then(watch_pidfd).with_context(|| format!("watch {role}"))?;

        let last_words = Arc::new(Mutex::new(VecDeque::new()));
        let speech = listen(role, &mut process, &last_words);
        let (sender, exited) = watch::channel(None);
        let ledger = ledger.clone();
        tokio::spawn(async move {
            let status = wait(watched, process).await;
            // The words before the end belong to the end; a grandchild that keeps the pipe must not delay it.
            let _ = timeout(Duration::from_millis(200), speech).await;
            if let Err(error) = ledger.forget(&claim) {
                tracing::debug!(%error, role, "the record of an ended process stays");
            }
            tracing::debug!(role, pid, %status, "helper ended");
            let _ = sender.send(Some(status)); // Nobody may be left to hear it.
        });
        Ok(Self { role, pid, pidfd, exited, last_words })
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
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        let words = Vec::from_iter(words.iter().map(String::as_str)).join(" | ");
        if words.is_empty() {
            format!("{} ended: {status}", self.role)
        } else {
            format!("{} ended: {status}: {words}", self.role)
        }
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

async fn wait(pidfd: AsyncFd<OwnedFd>, mut process: process::Child) -> ExitStatus {
    // An error here would mean a closed epoll instance, that is the end of the runtime; wait() then says the rest.
    let _ = pidfd.readable().await;
    process.wait().expect("a child of ours that nobody else waits for")
}

/// Logs what the process says and keeps the last of it; ends when nobody can speak any more.
async fn listen_to(
    role: &'static str,
    pipe: impl AsyncRead + Unpin,
    last_words: Arc<Mutex<VecDeque<String>>>,
) {
    let mut lines = BufReader::new(pipe).split(b'\n');
    while let Ok(Some(mut line)) = lines.next_segment().await {
        line.truncate(LINE_LIMIT);
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        tracing::debug!(role, line, "helper says");
        let mut words = last_words.lock().unwrap_or_else(PoisonError::into_inner);
        if words.len() == LAST_WORDS {
            words.pop_front();
        }
        words.push_back(line);
    }
}

fn listen(
    role: &'static str,
    process: &mut process::Child,
    last_words: &Arc<Mutex<VecDeque<String>>>,
) -> impl Future<Output = ()> + use<> {
    let out = process.stdout.take().and_then(|pipe| tokio::process::ChildStdout::from_std(pipe).ok());
    let err = process.stderr.take().and_then(|pipe| tokio::process::ChildStderr::from_std(pipe).ok());
    let (words, more_words) = (last_words.clone(), last_words.clone());
    let out = tokio::spawn(async move {
        if let Some(pipe) = out {
            listen_to(role, pipe, words).await;
        }
    });
    let err = tokio::spawn(async move {
        if let Some(pipe) = err {
            listen_to(role, pipe, more_words).await;
        }
    });
    async move {
        let _ = tokio::join!(out, err); // Neither panics nor is cancelled.
    }
}

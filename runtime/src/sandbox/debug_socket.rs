//! The socket in a sandbox's directory for people who look into it: `kata-runtime logs` and `console`.
//!
//! A connection begins with a line that says what is wanted. `logs` is answered by the sandbox's report as JSON; `console` by
//! `OK` or `NO <why>` and, if the answer is `OK`, by the guest's debug console: bytes in both directions, until either side
//! closes.

use std::{
    fs::File,
    io,
    os::{
        fd::AsRawFd,
        unix::net::{UnixListener as StdListener, UnixStream as StdStream},
    },
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use protocols::guest::DEBUG_CONSOLE_PORT;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy, split},
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};

use super::{Sandbox, lock};
use crate::{
    agent::GuestStream,
    error::{Context, Error, Result},
};

const NAME: &str = "debug.sock";
/// People at a time.
const MOST: usize = 16;
/// Of the line that says what is wanted, and for it to come.
const LINE_LIMIT: u64 = 64;
const PATIENCE: Duration = Duration::from_secs(5);
/// A back end may lose a connection on its way.
const CONNECT: Duration = Duration::from_secs(5);

/// What is wanted of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Logs,
    Console,
}

impl Wanted {
    const ALL: [(Self, &str); 2] = [(Self::Logs, "logs"), (Self::Console, "console")];

    /// The line that says so.
    pub fn line(self) -> &'static str {
        Self::ALL.iter().find(|(wanted, _)| *wanted == self).map_or("", |(_, line)| line)
    }

    fn parse(line: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == line).map(|(wanted, _)| *wanted)
    }
}

impl Sandbox {
    /// Lets people look into it. It lives as well without.
    pub(super) fn serve_debug(self: &Arc<Self>) {
        match listen(&self.setup.paths.sandbox(&self.id())) {
            Ok(listener) => {
                *lock(&self.debug) = Some(tokio::spawn(serve(listener, Arc::downgrade(self))));
            }
            Err(error) => tracing::warn!(%error, "nobody can look into this sandbox"),
        }
    }

    /// A shell in the guest, beside its containers, if the configuration lets it have one.
    async fn debug_console(&self) -> Result<GuestStream> {
        let running = self.running()?;
        let config = self.config();
        if !config.agent.debug_console_enabled {
            return Err(Error::precondition(format!(
                "the guest has no debug console: set debug_console_enabled = true in [agent.kata] of {} and make the \
                 sandbox anew",
                config.path.display()
            )));
        }
        let connection = timeout(CONNECT, running.agent.connect_beside(DEBUG_CONSOLE_PORT)).await;
        connection
            .map_err(|_| {
                Error::deadline(format!("the guest's debug console does not answer within {CONNECT:?}"))
            })?
            .map_err(|error| Error::unavailable(format!("the guest's debug console: {error}")))
    }
}

/// Connects to the socket of the sandbox whose directory that is.
pub fn connect(dir: &Path) -> io::Result<StdStream> {
    let (path, _dir) = reach(dir)?;
    StdStream::connect(path)
}

/// Listens in the sandbox's directory, and goes with it.
fn listen(dir: &Path) -> io::Result<UnixListener> {
    let (path, _dir) = reach(dir)?;
    let listener = StdListener::bind(path)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// A way to the socket that is short enough whatever the sandbox's name. Holds as long as what comes with it.
fn reach(dir: &Path) -> io::Result<(PathBuf, File)> {
    let dir = File::open(dir)?;
    Ok((format!("/proc/self/fd/{}/{NAME}", dir.as_raw_fd()).into(), dir))
}

/// Serves those who connect, for as long as there is the sandbox.
async fn serve(listener: UnixListener, sandbox: Weak<Sandbox>) {
    let mut served = JoinSet::new();
    loop {
        tokio::select! {
            connection = listener.accept(), if served.len() < MOST => {
                let Ok((connection, _)) = connection else { return };
                let sandbox = sandbox.clone();
                served.spawn(async move { attend(connection, &sandbox).await });
            }
            Some(ended) = served.join_next() => {
                if let Ok(Err(error)) = ended {
                    tracing::debug!(%error, "somebody who looked into the sandbox");
                }
            }
        }
    }
}

async fn attend(connection: UnixStream, sandbox: &Weak<Sandbox>) -> Result<()> {
    let mut connection = BufReader::new(connection);
    let mut line = String::new();
    let read = async { (&mut connection).take(LINE_LIMIT).read_line(&mut line).await };
    timeout(PATIENCE, read)
        .await
        .map_err(|_| Error::deadline("nothing is asked"))?
        .context("read what is wanted")?;
    let Some(sandbox) = sandbox.upgrade() else { return Ok(()) };
    match Wanted::parse(line.trim_end()) {
        Some(Wanted::Logs) => {
            let report = serde_json::to_vec(&sandbox.report()).context("encode the report")?;
            connection.write_all(&report).await.context("send the report")
        }
        Some(Wanted::Console) => match sandbox.debug_console().await {
            Ok(guest) => {
                drop(sandbox); // It may end meanwhile.
                connection.write_all(b"OK\n").await.context("answer")?;
                // Each direction ends the other: not every channel to the guest knows half an end.
                let (mut from_guest, mut to_guest) = split(guest);
                let (mut from_user, mut to_user) = split(connection);
                tokio::select! {
                    done = copy(&mut from_guest, &mut to_user) => done,
                    done = copy(&mut from_user, &mut to_guest) => done,
                }
                .context("the console")
                .map(drop)
            }
            Err(error) => connection.write_all(format!("NO {error}\n").as_bytes()).await.context("answer"),
        },
        None => Err(Error::invalid(format!("{line:?} is nothing that is served"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_one_thing() {
        for (wanted, line) in Wanted::ALL {
            assert_eq!((Wanted::parse(line), wanted.line()), (Some(wanted), line));
        }
        assert_eq!(Wanted::parse(""), None);
    }

    #[tokio::test]
    async fn a_socket_is_reached_however_long_its_path() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("long".repeat(50));
        std::fs::create_dir(&dir).unwrap();
        assert_eq!(connect(&dir).unwrap_err().kind(), io::ErrorKind::NotFound);
        let _listener = listen(&dir).unwrap();
        connect(&dir).unwrap();
    }
}

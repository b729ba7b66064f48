//! One process of a container, from its launch until the host has fetched its end and its output.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::sleep};
use ttrpc::Code;

use crate::{
    error::{Context, Error, Result},
    reaper::ExitWatch,
    stdio::{AgentStreams, Reader, Terminal, Writer},
};

/// After a process's end, how long its output is waited for: a daemon that inherited the pipe may keep it open for ever.
const DRAIN: Duration = Duration::from_millis(500);
/// The most that one read returns, well below a message's 4 MiB.
const READ_LIMIT: usize = 1 << 20;

/// Which output of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Stdout,
    Stderr,
}

/// A running or ended process.
pub struct Process {
    pid: i32,
    exit: ExitWatch,
    stdin: Mutex<Option<Writer>>,
    stdout: Mutex<Option<Reader>>,
    stderr: Mutex<Option<Reader>>,
    terminal: Option<Arc<Terminal>>,
}

impl Process {
    pub fn new(pid: i32, exit: ExitWatch, streams: AgentStreams) -> Self {
        Self {
            pid,
            exit,
            stdin: Mutex::new(streams.stdin),
            stdout: Mutex::new(streams.stdout),
            stderr: Mutex::new(streams.stderr),
            terminal: streams.terminal,
        }
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    pub fn has_ended(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// Its exit code, once it has ended. Any number may wait.
    pub async fn wait(&self) -> Result<i32> {
        let mut exit = self.exit.clone();
        let code = exit
            .wait_for(Option::is_some)
            .await
            .map_err(|_| Error::internal("nobody waits for the process"))?;
        Ok((*code).expect("wait_for returned on Some"))
    }

    /// Reads some output; none is the end.
    pub async fn read(&self, output: Output, limit: usize) -> Result<Vec<u8>> {
        let reader = match output {
            Output::Stdout => &self.stdout,
            Output::Stderr => &self.stderr,
        };
        let mut reader = reader.lock().await;
        let reader = reader.as_mut().ok_or_else(|| Error::internal("cannot get stream reader"))?;
        let ended = async {
            if self.wait().await.is_ok() {
                sleep(DRAIN).await;
            }
        };
        tokio::select! {
            biased;
            data = reader.read(limit.min(READ_LIMIT)) => data.context("read the process's output"),
            () = ended => Ok(Vec::new()),
        }
    }

    /// Writes all of `data`, as fast as the process reads.
    pub async fn write(&self, data: &[u8]) -> Result<()> {
        let mut writer = self.stdin.lock().await;
        let writer = writer.as_mut().ok_or_else(|| Error::internal("Cannot get writer"))?;
        writer.write_all(data).await.context("write the process's input")
    }

    /// Ends its input. On a terminal that would be a hang-up, which nobody means by it, so nothing happens there.
    pub async fn close_stdin(&self) {
        if self.terminal.is_none() {
            self.stdin.lock().await.take();
        }
    }

    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let terminal = self.terminal.as_ref().ok_or_else(|| Error::new(Code::UNAVAILABLE, "no tty"))?;
        terminal.resize(rows, columns).context("resize the terminal")
    }
}

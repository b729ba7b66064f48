//! One process of a container, from its launch until the host has fetched its end and its output.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

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
    /// What of it the host has fetched: its end, and each output up to its own end.
    fetched: Fetched,
}

struct Fetched {
    exit: AtomicBool,
    stdout: AtomicBool,
    stderr: AtomicBool,
}

impl Process {
    pub fn new(pid: i32, exit: ExitWatch, streams: AgentStreams) -> Self {
        let fetched = Fetched {
            exit: AtomicBool::new(false),
            stdout: AtomicBool::new(streams.stdout.is_none()),
            stderr: AtomicBool::new(streams.stderr.is_none()),
        };
        Self {
            fetched,
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

    /// Notes that the host has its exit code.
    pub fn exit_fetched(&self) {
        self.fetched.exit.store(true, Ordering::Relaxed);
    }

    /// Whether the host has its exit code.
    pub fn is_exit_fetched(&self) -> bool {
        self.fetched.exit.load(Ordering::Relaxed)
    }

    /// Whether the host has everything there is to have of it.
    pub fn is_done(&self) -> bool {
        let Fetched { exit, stdout, stderr } = &self.fetched;
        [exit, stdout, stderr].iter().all(|fact| fact.load(Ordering::Relaxed))
    }

    /// Reads some output; none is the end, or that there was nothing for a while after the process's end.
    pub async fn read(&self, output: Output, limit: usize) -> Result<Vec<u8>> {
        let mut data = vec![0; limit.min(READ_LIMIT)];
        let ended = async {
            if self.wait().await.is_ok() {
                sleep(DRAIN).await;
            }
        };
        let length = tokio::select! {
            biased;
            length = self.read_into(output, &mut data) => length?,
            () = ended => {
                self.output_fetched(output);
                0
            }
        };
        data.truncate(length);
        Ok(data)
    }

    /// Reads some output; none is the end. Cancel-safe.
    pub async fn read_into(&self, output: Output, buffer: &mut [u8]) -> Result<usize> {
        let reader = match output {
            Output::Stdout => &self.stdout,
            Output::Stderr => &self.stderr,
        };
        let mut reader = reader.lock().await;
        let reader = reader.as_mut().ok_or_else(|| Error::internal("cannot get stream reader"))?;
        let length = reader.read(buffer).await;
        if matches!(length, Ok(0) | Err(_)) && !buffer.is_empty() {
            self.output_fetched(output);
        }
        length.context("read the process's output")
    }

    /// Notes that the host has all that it wants of an output.
    pub fn output_fetched(&self, output: Output) {
        let fetched = match output {
            Output::Stdout => &self.fetched.stdout,
            Output::Stderr => &self.fetched.stderr,
        };
        fetched.store(true, Ordering::Relaxed);
    }

    /// The host takes no more of an output: whoever goes on writing finds that nobody reads. A terminal stays, for its
    /// input.
    pub async fn close_output(&self, output: Output) {
        if self.terminal.is_none() {
            let reader = match output {
                Output::Stdout => &self.stdout,
                Output::Stderr => &self.stderr,
            };
            reader.lock().await.take();
        }
        self.output_fetched(output);
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

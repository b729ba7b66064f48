//! The copy loops between the host's streams and a guest process.
//!
//! Output is pulled: a block is asked for when the one before it has been written, so a slow reader on the host slows
//! the process in the guest and nothing piles up between them.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use super::{
    HostStreams,
    logger::Logger,
    stream::{InputStream, OutputStream},
};
use crate::agent::{AgentClient, GuestInput, GuestOutput, GuestProcess, Output};

/// One write to the guest's stdin.
const INPUT_BLOCK: usize = 64 << 10;
/// A reader on the host that takes nothing for so long does not hold back the news of a process's end.
const STALL: Duration = Duration::from_secs(1);

/// How far the output of a process has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Flowing,
    /// Nobody on the host reads.
    Stalled,
    Drained,
}

/// The running copy loops of one process. Dropping them ends them.
#[derive(Debug)]
pub(crate) struct Copying {
    outputs: Vec<watch::Receiver<Progress>>,
    input: Option<JoinHandle<()>>,
    tasks: JoinSet<()>,
    /// Blocks that have come from the guest.
    blocks: Arc<AtomicU64>,
    /// Those of them that wait to be taken.
    waiting: Arc<AtomicU64>,
    logger: Option<Logger>,
}

impl Copying {
    pub fn start(agent: &Arc<AgentClient>, process: &GuestProcess, streams: HostStreams) -> Self {
        let mut copying = Self {
            outputs: Vec::new(),
            input: None,
            tasks: JoinSet::new(),
            blocks: Arc::default(),
            waiting: Arc::default(),
            logger: streams.logger,
        };
        let outputs = [(Output::Stdout, Some(streams.stdout)), (Output::Stderr, streams.stderr)];
        for (output, stream) in outputs.into_iter().filter_map(|(output, stream)| Some((output, stream?))) {
            let (sender, progress) = watch::channel(Progress::Flowing);
            copying.outputs.push(progress);
            let counts = (copying.blocks.clone(), copying.waiting.clone());
            copying.tasks.spawn(copy_out(agent.clone(), process.clone(), output, stream, sender, counts));
        }
        let (agent, process) = (agent.clone(), process.clone());
        copying.input = match streams.stdin {
            Some(stdin) => Some(tokio::spawn(copy_in(agent, process, stdin))),
            // As from /dev/null; but the end of a terminal's input would hang it up.
            None if !streams.terminal => Some(tokio::spawn(async move { end_input(&agent, &process).await })),
            None => None,
        };
        copying
    }

    /// Ends the input loop: the process reads no more.
    pub fn end_input(&mut self) {
        if let Some(input) = self.input.take() {
            input.abort();
        }
    }

    /// Waits until each output is drained or has nobody who takes it.
    pub async fn settled(&mut self) {
        for progress in &mut self.outputs {
            // An error means that the loop is gone, and with it all that could still come.
            let _ = progress.wait_for(|progress| *progress != Progress::Flowing).await;
        }
    }

    /// The same, or until nothing has come from the guest for `quiet`.
    pub async fn settled_or_quiet(&mut self, quiet: Duration) {
        let mut before = self.blocks.load(Ordering::Relaxed);
        while timeout(quiet, self.settled()).await.is_err() {
            let now = self.blocks.load(Ordering::Relaxed);
            if now == before {
                return;
            }
            before = now;
        }
    }

    /// What tells how far each output has come, to be waited for without a lock.
    pub fn outlook(&self) -> Outlook {
        let (blocks, waiting) = (self.blocks.clone(), self.waiting.clone());
        Outlook { outputs: self.outputs.clone(), blocks, waiting }
    }

    /// Waits for what is still on its way, but not for a reader that takes nothing.
    pub async fn drain(mut self, patience: Duration) {
        let _ = timeout(patience, async { while self.tasks.join_next().await.is_some() {} }).await;
        self.tasks.shutdown().await;
        if let Some(logger) = self.logger.take() {
            logger.finish().await;
        }
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.end_input();
    }
}

/// How far the output of a process has come, for those who look on.
#[derive(Debug)]
pub(crate) struct Outlook {
    outputs: Vec<watch::Receiver<Progress>>,
    blocks: Arc<AtomicU64>,
    waiting: Arc<AtomicU64>,
}

impl Outlook {
    /// Waits until all is taken, however long its reader takes; or, where nothing waits to be taken, until nothing has
    /// come from the guest for `quiet`. The end of the copying is the end of the wait.
    pub async fn taken_or_quiet(mut self, quiet: Duration) {
        loop {
            let before = self.blocks.load(Ordering::Relaxed);
            let drained = async {
                for progress in &mut self.outputs {
                    let _ = progress.wait_for(|progress| *progress == Progress::Drained).await;
                }
            };
            if timeout(quiet, drained).await.is_ok() {
                return;
            }
            let waits = self.waiting.load(Ordering::Relaxed) > 0;
            if !waits && before == self.blocks.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

async fn copy_out(
    agent: Arc<AgentClient>,
    process: GuestProcess,
    output: Output,
    mut stream: OutputStream,
    progress: watch::Sender<Progress>,
    (blocks, waiting): (Arc<AtomicU64>, Arc<AtomicU64>),
) {
    let container = process.container.clone();
    let mut source = GuestOutput::open(agent, process, output).await;
    loop {
        let block = match source.read().await {
            Ok([]) => break,
            Ok(block) => block,
            // The end as well: a process that was forgotten, a guest that died.
            Err(error) => {
                tracing::debug!(%error, container, ?output, "no more output comes");
                break;
            }
        };
        waiting.fetch_add(1, Ordering::Relaxed);
        blocks.fetch_add(1, Ordering::Relaxed);
        let written = write_all(&mut stream, block, &progress).await;
        waiting.fetch_sub(1, Ordering::Relaxed);
        if let Err(error) = written {
            tracing::warn!(%error, container, ?output, "output is lost: the stream is broken");
            break;
        }
    }
    stream.taken().await;
    let _ = progress.send(Progress::Drained);
}

async fn write_all(
    stream: &mut OutputStream,
    mut bytes: &[u8],
    progress: &watch::Sender<Progress>,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = {
            let write = stream.write(bytes);
            tokio::pin!(write);
            tokio::select! {
                written = &mut write => written?,
                () = sleep(STALL) => {
                    let _ = progress.send(Progress::Stalled);
                    let written = write.await?;
                    let _ = progress.send(Progress::Flowing);
                    written
                }
            }
        };
        bytes = &bytes[written..];
    }
    Ok(())
}

async fn copy_in(agent: Arc<AgentClient>, process: GuestProcess, mut stream: InputStream) {
    let container = process.container.clone();
    let mut input = GuestInput::open(agent, process).await;
    let mut buffer = vec![0; INPUT_BLOCK];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => break,
            Ok(length) => {
                if let Err(error) = input.write(&buffer[..length]).await {
                    tracing::debug!(%error, container, "the process takes no more input");
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, container, "input ends: the stream is broken");
                break;
            }
        }
    }
    if let Err(error) = input.end().await {
        tracing::debug!(%error, container, "the process had no input to end");
    }
}

async fn end_input(agent: &AgentClient, process: &GuestProcess) {
    if let Err(error) = agent.close_stdin(process).await {
        tracing::debug!(%error, container = process.container, "the process had no input to close");
    }
}

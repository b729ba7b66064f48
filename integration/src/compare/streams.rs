//! The named pipes of one process, as a client of containerd has them: what is written goes in, what comes out is kept.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{sys::stat::Mode, unistd::mkfifo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// How long a stream may take to bring what is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Which streams a process has, and how they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wiring {
    /// All three.
    Pipes,
    /// A terminal.
    Terminal,
    /// A terminal nobody writes to.
    TerminalWithoutInput,
    /// None at all.
    Nothing,
    /// No input.
    OutputOnly,
    /// All three, read only when told.
    Held,
}

impl Wiring {
    pub fn terminal(self) -> bool {
        matches!(self, Self::Terminal | Self::TerminalWithoutInput)
    }
}

/// The paths that containerd is told, and our ends.
pub struct Streams {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
    input: Input,
    output: Option<Collected>,
    errors: Option<Collected>,
}

/// Our end of the input.
enum Input {
    /// The process has none.
    None,
    /// Not yet opened: opening it proves that somebody is there to read.
    At(PathBuf),
    Open(pipe::Sender),
    Ended,
}

/// What one stream brought so far.
struct Collected {
    state: watch::Receiver<Seen>,
    hold: watch::Sender<bool>,
    reader: JoinHandle<()>,
    /// How much of it a wait has consumed.
    passed: usize,
}

#[derive(Default)]
struct Seen {
    bytes: Vec<u8>,
    ended: bool,
}

impl Streams {
    /// Makes the pipes in `dir`; their names begin with `name`.
    pub fn open(dir: &Path, name: &str, wiring: Wiring) -> Self {
        let path = |stream: &str| dir.join(format!("{name}.{stream}"));
        let (has_input, has_output, has_errors) = match wiring {
            Wiring::Pipes | Wiring::Held => (true, true, true),
            Wiring::Terminal => (true, true, false),
            Wiring::TerminalWithoutInput => (false, true, false),
            Wiring::Nothing => (false, false, false),
            Wiring::OutputOnly => (false, true, true),
        };
        let named = |has: bool, stream: &str| has.then(|| fifo(path(stream)));
        let (stdin, stdout, stderr) =
            (named(has_input, "in"), named(has_output, "out"), named(has_errors, "err"));
        let held = wiring == Wiring::Held;
        let text = |path: &Option<PathBuf>| path.as_ref().map_or(String::new(), |p| p.display().to_string());
        Self {
            stdin: text(&stdin),
            stdout: text(&stdout),
            stderr: text(&stderr),
            terminal: wiring.terminal(),
            input: stdin.map_or(Input::None, Input::At),
            output: stdout.map(|path| Collected::begin(&path, held)),
            errors: stderr.map(|path| Collected::begin(&path, held)),
        }
    }

    /// Writes all of it.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        let input = self.open_input().await?;
        match timeout(PATIENCE, input.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("write: {error}")),
            Err(_) => Err("nobody reads the input".to_owned()),
        }
    }

    /// Closes the input. What ends before somebody has it open would be lost, with any runtime.
    pub async fn end_input(&mut self) -> Result<(), String> {
        self.open_input().await?;
        self.input = Input::Ended;
        Ok(())
    }

    /// Forgets our end, to open it anew with the next write.
    pub fn begin_input(&mut self) {
        self.input = Input::At(self.stdin.clone().into());
    }

    /// The input, once there is a reader.
    async fn open_input(&mut self) -> Result<&mut pipe::Sender, String> {
        if let Input::At(path) = &self.input {
            let began = Instant::now();
            let sender = loop {
                match pipe::OpenOptions::new().open_sender(path) {
                    Ok(sender) => break sender,
                    // Opening without a reader cannot be waited for without a thread.
                    Err(_) if began.elapsed() < PATIENCE => sleep(Duration::from_millis(3)).await,
                    Err(error) => return Err(format!("nobody opens the input: {error}")),
                }
            };
            self.input = Input::Open(sender);
        }
        match &mut self.input {
            Input::Open(sender) => Ok(sender),
            _ => Err("it has no input".to_owned()),
        }
    }

    /// Waits until standard output has brought `words` after what earlier waits have seen.
    pub async fn expect(&mut self, words: &str) -> Result<(), String> {
        let output = self.output.as_mut().ok_or("it has no output")?;
        let from = output.passed;
        let find = |seen: &Seen| {
            let at = seen.bytes[from..].windows(words.len()).position(|part| part == words.as_bytes());
            at.map(|at| from + at + words.len())
        };
        let mut state = output.state.clone();
        let found = match timeout(PATIENCE, state.wait_for(|seen| find(seen).is_some() || seen.ended)).await {
            Ok(Ok(seen)) => find(&seen),
            _ => None,
        };
        match found {
            Some(end) => {
                output.passed = end;
                Ok(())
            }
            None => {
                let seen = output.state.borrow();
                Err(format!("never showed {words:?} but {}", brief(&seen.bytes[from..])))
            }
        }
    }

    /// What standard output has brought so far.
    pub fn brought(&self) -> Vec<u8> {
        self.output.as_ref().map_or_else(Vec::new, |output| output.state.borrow().bytes.clone())
    }

    /// Lets a held reader read.
    pub fn release(&self) {
        for stream in self.output.iter().chain(&self.errors) {
            stream.hold.send_replace(false);
        }
    }

    /// Closes our end of the outputs.
    pub fn leave(&mut self) {
        for stream in self.output.take().into_iter().chain(self.errors.take()) {
            stream.reader.abort();
        }
    }

    /// Waits for the end of both outputs, and tells what they brought in all.
    pub async fn outputs(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, stream) in [("stdout", &self.output), ("stderr", &self.errors)] {
            let Some(stream) = stream else { continue };
            let mut state = stream.state.clone();
            let ended = timeout(PATIENCE, state.wait_for(|seen| seen.ended)).await.is_ok();
            let seen = stream.state.borrow();
            if !seen.bytes.is_empty() || !ended {
                let note = if ended { "" } else { " (not ended)" };
                lines.push(format!("{name}{note} {}", brief(&seen.bytes)));
            }
        }
        lines
    }
}

impl Collected {
    fn begin(path: &Path, held: bool) -> Self {
        let receiver = pipe::OpenOptions::new().open_receiver(path).expect("open a named pipe");
        let (sender, state) = watch::channel(Seen::default());
        let (hold, held) = watch::channel(held);
        let reader = tokio::spawn(collect(receiver, held, sender));
        Self { state, hold, reader, passed: 0 }
    }
}

impl Drop for Collected {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn collect(mut from: pipe::Receiver, mut held: watch::Receiver<bool>, seen: watch::Sender<Seen>) {
    if held.wait_for(|held| !held).await.is_err() {
        return;
    }
    let mut buffer = vec![0; 65536];
    // An end is only seen after somebody has had the other side open.
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        seen.send_modify(|seen| seen.bytes.extend_from_slice(&buffer[..length]));
    }
    seen.send_modify(|seen| seen.ended = true);
}

fn fifo(path: PathBuf) -> PathBuf {
    mkfifo(&path, Mode::S_IRWXU).unwrap_or_else(|error| panic!("make {}: {error}", path.display()));
    path
}

/// Text in full, as long as it is short and text; else its length and a sum.
fn brief(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.len() <= 6000 => format!("{text:?}"),
        _ => format!("{} bytes, CRC-32 {:08x}", bytes.len(), crc32fast::hash(bytes)),
    }
}

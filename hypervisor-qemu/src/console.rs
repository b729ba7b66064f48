//! What the guest prints on its console: into the log, and the last of it kept for error messages.
//!
//! The guest is hostile: lines are cut, control characters dropped, and what is kept is bounded.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{io::AsyncReadExt, net::UnixStream, task::JoinHandle};

const LINES_KEPT: usize = 8;
const LINE_LIMIT: usize = 400;
/// What a kernel prints when it gives up; the registers and stack that follow tell less.
const HEADLINE: &str = "Kernel panic";

/// The host's end of the console. Dropping it stops listening, after which the guest's output is held up.
#[derive(Debug)]
pub(crate) struct Console {
    words: Arc<Mutex<LastWords>>,
    reader: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct LastWords {
    headline: Option<String>,
    tail: VecDeque<String>,
}

impl Console {
    /// Reads until QEMU closes its end.
    pub(crate) fn listen(stream: UnixStream) -> Self {
        let words = Arc::new(Mutex::new(LastWords::default()));
        let reader = tokio::spawn(read(stream, words.clone()));
        Self { words, reader }
    }

    /// Waits until everything is read. Only once: what has ended must not be awaited again.
    pub(crate) async fn drain(&mut self) {
        let _ = (&mut self.reader).await; // It does not panic, and is aborted by nobody but drop.
    }

    /// How it ends, for an error message: the kernel's panic if there was one, else the last lines. Empty if the
    /// guest said nothing.
    pub(crate) fn last_words(&self) -> String {
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        match &words.headline {
            Some(headline) => headline.clone(),
            None => Vec::from_iter(words.tail.iter().map(String::as_str)).join(" | "),
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read(mut stream: UnixStream, words: Arc<Mutex<LastWords>>) {
    let mut buffer = [0; 4096];
    let mut lines = Lines::default();
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        lines.push(&buffer[..count], |line| keep(&words, line));
    }
    lines.finish(|line| keep(&words, line));
}

fn keep(words: &Mutex<LastWords>, line: String) {
    tracing::debug!(line, "guest console");
    let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
    if line.contains(HEADLINE) {
        words.headline = Some(line.clone());
    }
    if words.tail.len() == LINES_KEPT {
        words.tail.pop_front();
    }
    words.tail.push_back(line);
}

/// Cuts bytes into printable lines of bounded length; empty ones are dropped.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    fn push(&mut self, bytes: &[u8], mut each: impl FnMut(String)) {
        for byte in bytes {
            if *byte == b'\n' || self.partial.len() == LINE_LIMIT {
                self.finish(&mut each);
            }
            if *byte != b'\n' {
                self.partial.push(*byte);
            }
        }
    }

    fn finish(&mut self, mut each: impl FnMut(String)) {
        let line = printable(&self.partial);
        self.partial.clear();
        if !line.is_empty() {
            each(line);
        }
    }
}

/// Text without control characters: it ends up in terminals and log files.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).replace('\t', " ");
    text.chars().filter(|c| !c.is_control()).collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// What is kept of `output`.
    async fn kept(output: &[&[u8]]) -> String {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut console = Console::listen(ours);
        for bytes in output {
            theirs.write_all(bytes).await.unwrap();
        }
        drop(theirs);
        console.drain().await;
        console.last_words()
    }

    #[tokio::test]
    async fn hostile_output_is_cut_cleaned_and_forgotten() {
        let endless = vec![b'a'; 1 << 20];
        let words =
            kept(&[&endless, b"\x1b[2J\xff\xfe\x00\r\n\n\n", b"one\ttwo\r\nno newline at the end"]).await;
        assert!(words.ends_with("one two | no newline at the end"), "{words}");
        assert!(words.len() < LINES_KEPT * (LINE_LIMIT + 3), "{}", words.len());
        assert!(!words.chars().any(char::is_control), "{words:?}");
    }

    #[tokio::test]
    async fn a_panic_is_not_lost_behind_its_registers() {
        let registers = b"RAX: 0000\n".repeat(100);
        let words = kept(&[b"[ 1.0] Kernel panic - not syncing: no init\r\n", &registers]).await;
        assert_eq!(words, "[ 1.0] Kernel panic - not syncing: no init");
    }
}

//! What the guest prints on its console: into the log, and the last of it kept for error messages.
//!
//! The guest is hostile: lines are cut, control characters dropped, and what is kept is bounded.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{io::AsyncReadExt, net::UnixStream, task::AbortHandle};

/// Enough for a kernel panic's headline and the lines around it.
const LINES_KEPT: usize = 8;
const LINE_LIMIT: usize = 400;

/// The host's end of the console. Dropping it stops listening, after which the guest's output is held up.
#[derive(Debug)]
pub(crate) struct Console {
    tail: Arc<Mutex<VecDeque<String>>>,
    reader: AbortHandle,
}

impl Console {
    /// Reads until QEMU closes its end.
    pub(crate) fn listen(stream: UnixStream) -> Self {
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let reader = tokio::spawn(read(stream, tail.clone())).abort_handle();
        Self { tail, reader }
    }

    /// The last lines, for an error message; empty if the guest said nothing.
    pub(crate) fn tail(&self) -> String {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        Vec::from_iter(tail.iter().map(String::as_str)).join(" | ")
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read(mut stream: UnixStream, tail: Arc<Mutex<VecDeque<String>>>) {
    let mut buffer = [0; 4096];
    let mut lines = Lines::default();
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        lines.push(&buffer[..count], |line| keep(&tail, line));
    }
    lines.finish(|line| keep(&tail, line));
}

fn keep(tail: &Mutex<VecDeque<String>>, line: String) {
    tracing::debug!(line, "guest console");
    let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
    if tail.len() == LINES_KEPT {
        tail.pop_front();
    }
    tail.push_back(line);
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

    #[tokio::test]
    async fn hostile_output_is_cut_cleaned_and_forgotten() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let console = Console::listen(ours);
        let reader = console.reader.clone();
        theirs.write_all(&vec![b'a'; 1 << 20]).await.unwrap();
        theirs.write_all(b"\x1b[2J\xff\xfe\x00\r\n\n\n").await.unwrap();
        theirs.write_all(b"Kernel panic\tnot syncing\r\nno newline at the end").await.unwrap();
        drop(theirs);
        while !reader.is_finished() {
            tokio::task::yield_now().await;
        }
        let tail = console.tail();
        assert!(tail.ends_with("Kernel panic not syncing | no newline at the end"), "{tail}");
        assert!(tail.len() < LINES_KEPT * (LINE_LIMIT + 3), "{}", tail.len());
        assert!(!tail.chars().any(char::is_control), "{tail:?}");
    }
}

//! The host's end of the guest's console, which is heard by the VM's journal.

use runtime::vm::Journal;
use tokio::{io::AsyncReadExt, net::UnixStream, task::JoinHandle};

/// Dropping it stops listening, after which the guest's output is held up.
#[derive(Debug)]
pub(crate) struct Console {
    journal: Journal,
    reader: JoinHandle<()>,
}

impl Console {
    /// Reads until QEMU closes its end.
    pub(crate) fn listen(stream: UnixStream, journal: Journal) -> Self {
        journal.begin();
        let reader = tokio::spawn(read(stream, journal.clone()));
        Self { journal, reader }
    }

    /// Waits until everything is read. Only once: what has ended must not be awaited again.
    pub(crate) async fn drain(&mut self) {
        let _ = (&mut self.reader).await; // It does not panic, and is aborted by nobody but drop.
    }

    /// How it ends, for an error message. Empty if the guest said nothing.
    pub(crate) fn last_words(&self) -> String {
        self.journal.last_words()
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read(mut stream: UnixStream, journal: Journal) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        journal.hear(&buffer[..count]);
    }
    journal.finish();
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn what_is_drained_is_all_that_was_said() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut console = Console::listen(ours, Journal::default());
        theirs.write_all(b"one\r\ntwo\nno newline at the end").await.unwrap();
        drop(theirs);
        console.drain().await;
        assert_eq!(console.last_words(), "one | two | no newline at the end");
    }
}

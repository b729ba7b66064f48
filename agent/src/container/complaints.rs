//! What libcontainer says in its log while it makes a container: the errors that it returns leave out the cause. What its
//! init says after that, as of a hook that fails before the program, goes to the container's standard error.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::Arc,
};

use tracing::Level;

use super::wording;

/// Of what is kept.
const LIMIT: usize = 4000;

/// Runs `work`, here and in the processes that it forks, and returns what it logged of errors as well.
pub fn heard<T>(work: impl FnOnce() -> T) -> (T, Option<String>) {
    let Ok((reader, writer)) = pair() else {
        return (work(), None);
    };
    let log = tracing_subscriber::fmt()
        .with_max_level(Level::ERROR)
        .with_ansi(false)
        .with_level(false)
        .with_target(false)
        .without_time()
        .with_writer(Arc::new(Words(writer)))
        .finish();
    let done = tracing::subscriber::with_default(log, work);
    (done, read(reader))
}

/// Neither end ever waits: a full one swallows what comes later.
fn pair() -> io::Result<(UnixStream, UnixStream)> {
    let (reader, writer) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    writer.set_nonblocking(true)?;
    Ok((reader, writer))
}

/// Goes to who hears it, or to standard error when nobody does any more.
struct Words(UnixStream);

impl Write for &Words {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match (&self.0).write(text) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => io::stderr().write(text),
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn read(mut reader: UnixStream) -> Option<String> {
    let mut text = [0; LIMIT];
    let length = reader.read(&mut text);
    // Forked processes have both ends too, so closing this one would not tell them.
    let _ = reader.shutdown(Shutdown::Both); // Fails only if there is no other end.
    let text = String::from_utf8_lossy(&text[..length.ok()?]).into_owned();
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    wording::of(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_logged_of_errors_is_heard() {
        let (done, cause) = heard(|| {
            tracing::warn!("harmless");
            tracing::error!(path = "/x", "the cause");
            tracing::error!("its consequence");
            7
        });
        assert_eq!(done, 7);
        assert_eq!(cause.as_deref(), Some("the cause path=\"/x\"; its consequence"));
        assert_eq!(heard(|| ()), ((), None));
    }
}

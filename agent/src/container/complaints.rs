//! What libcontainer says in its log while it makes a container: the errors that it returns leave out the cause.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    sync::Arc,
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tracing::Level;

use super::wording;

/// Of what is kept.
const LIMIT: usize = 4000;

/// Runs `work`, here and in the processes that it forks, and returns what it logged of errors as well.
pub fn heard<T>(work: impl FnOnce() -> T) -> (T, Option<String>) {
    let Ok((reader, writer)) = pipe() else {
        return (work(), None);
    };
    let log = tracing_subscriber::fmt()
        .with_max_level(Level::ERROR)
        .with_ansi(false)
        .with_level(false)
        .with_target(false)
        .without_time()
        .with_writer(Arc::new(writer))
        .finish();
    let done = tracing::subscriber::with_default(log, work);
    (done, read(reader))
}

/// Neither end ever waits: a full pipe swallows what comes later.
fn pipe() -> io::Result<(File, File)> {
    let (reader, writer) = io::pipe()?;
    let ends = [OwnedFd::from(reader), OwnedFd::from(writer)];
    for end in &ends {
        fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    let [reader, writer] = ends.map(File::from);
    Ok((reader, writer))
}

fn read(mut reader: File) -> Option<String> {
    let mut text = [0; LIMIT];
    let length = reader.read(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text[..length]).into_owned();
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

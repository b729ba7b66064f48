//! Finding the sandbox that somebody means, and the socket through which it lets itself be looked into.

use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use runtime::{
    error::{Context, Error, Result},
    paths::Paths,
    sandbox::{Wanted, connect_debug},
    state::StateStore,
};

use super::global::container_id;

/// For the owner of a sandbox to answer; it may first have to reach the guest.
const PATIENCE: Duration = Duration::from_secs(15);

/// The directory of the sandbox that has this name, or a container of this name in it. `None` if there is none.
pub fn find(paths: &Paths, id: &str) -> Result<Option<PathBuf>> {
    container_id(id)?;
    let own = paths.sandboxes().join(id);
    if own.exists() {
        return Ok(Some(own));
    }
    let entries = match fs::read_dir(paths.sandboxes()) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        entries => entries.with_context(|| format!("read {}", paths.sandboxes().display()))?,
    };
    let mut dirs = entries.flatten().map(|entry| entry.path());
    Ok(dirs.find(|dir| {
        // A record that cannot be read, or that goes just now, is not the one that is looked for.
        StateStore::load(dir).is_ok_and(|store| {
            let containers = store.record().config.container_configs;
            containers.iter().any(|container| container.id == id)
        })
    }))
}

/// Connects to the sandbox with that directory and says what is wanted of it. Answers have a deadline.
pub fn ask(dir: &Path, wanted: Wanted) -> Result<UnixStream> {
    let mut stream = connect_debug(dir).map_err(|error| {
        Error::unavailable(format!("nobody answers for the sandbox of {}: {error}", dir.display()))
    })?;
    let line = format!("{}\n", wanted.line());
    stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.write_all(line.as_bytes()))
        .with_context(|| format!("ask the sandbox of {}", dir.display()))?;
    Ok(stream)
}

//! The end of a container: in order while its server lives, by force when it does not.

use std::time::Duration;

use nix::libc::SIGKILL;
use runtime::{
    bundle::Bundle,
    config::Config,
    error::{Context, ErrorKind, Result},
    hooks::run_poststop,
    ids::{ContainerId, SandboxId},
    paths::Paths,
    process::Status,
};

use super::{
    client::Client,
    record::{Home, Record},
};
use crate::{executor, shim::release};

/// How long a killed container may take to end, as with runc.
const KILL: Duration = Duration::from_secs(10);
/// How long a stand-in may take after the container's end, and the server after its last container's.
const FAREWELL: Duration = Duration::from_secs(5);
const FORCE: Duration = Duration::from_secs(10);
/// For a hook that names no time of its own, where the configuration is gone.
const HOOK: Duration = Duration::from_secs(60);

/// The status of a container: whom nobody serves has ended.
pub fn status(home: &Home, record: &Record) -> Result<Status> {
    match Client::connect(home, &record.id).and_then(|client| client.status()) {
        Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::NotFound) => {
            Ok(Status::Stopped)
        }
        status => status,
    }
}

/// Kills what runs in a container, and waits for its end.
pub fn kill(client: &Client, status: Status) -> Result<()> {
    match client.kill(SIGKILL as u32, true) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if matches!(status, Status::Paused | Status::Pausing) {
        let _ = client.resume(); // What stands still cannot die everywhere; it may have.
    }
    client.wait(KILL).context("container init still running")
}

/// Takes a container away that has ended, or was never started.
pub fn delete(home: &Home, record: &Record) -> Result<()> {
    let Deleted { hooks_are_left } = delete_only(home, record)?;
    if hooks_are_left { run_hooks(record) } else { Ok(()) }
}

/// The same for one that was not made as a whole: it has no hooks that wait for its end.
pub fn undo(home: &Home, record: &Record) -> Result<()> {
    take_down_only(home, record).map(drop)
}

/// Takes away all that there is of a container, whatever of it still lives.
pub fn take_down(home: &Home, record: &Record) -> Result<()> {
    let Deleted { hooks_are_left } = take_down_only(home, record)?;
    if hooks_are_left { run_hooks(record) } else { Ok(()) }
}

/// How a container was taken away.
struct Deleted {
    /// Its server was gone, and did not run them.
    hooks_are_left: bool,
}

fn delete_only(home: &Home, record: &Record) -> Result<Deleted> {
    let mut hooks_are_left = true;
    let deleted = Client::connect(home, &record.id).and_then(|client| match client.delete() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(client),
        deleted => deleted.map(|()| {
            hooks_are_left = false;
            client
        }),
    });
    match deleted {
        Ok(client) => {
            // It has heard of the end, and tells it before the server goes.
            if let Some(stand_in) = record.stand_in {
                stand_in.end(FAREWELL, FORCE).context("the stand-in")?;
            }
            let _ = client.shut_down(); // What this does not do is done below.
        }
        Err(error) if error.kind() != ErrorKind::Unavailable => return Err(error),
        Err(_) => {}
    }
    sweep(home, record, FAREWELL)?;
    Ok(Deleted { hooks_are_left })
}

fn take_down_only(home: &Home, record: &Record) -> Result<Deleted> {
    let ended = Client::connect(home, &record.id).and_then(|client| match client.status()? {
        status @ (Status::Running | Status::Paused | Status::Pausing) => kill(&client, status),
        Status::Created | Status::Stopped => Ok(()),
    });
    let deleted = match ended {
        // It is known to nobody, or half gone.
        Err(error) if error.kind() == ErrorKind::NotFound => delete_only(home, record),
        ended => ended.and_then(|()| delete_only(home, record)),
    };
    // Its server or its guest does not answer, or not well.
    deleted.or_else(|_| {
        sweep(home, record, Duration::ZERO)?;
        Ok(Deleted { hooks_are_left: true })
    })
}

/// Runs the hooks that wait for a container's end, as far as its bundle is still there.
fn run_hooks(record: &Record) -> Result<()> {
    let bundle = match Bundle::load(&record.bundle) {
        Ok(bundle) => bundle,
        Err(error) => {
            tracing::debug!(%error, "no hooks are run");
            return Ok(());
        }
    };
    let deadline =
        Config::find(record.config.as_deref()).map_or(HOOK, |config| config.agent.create_deadline());
    let id = ContainerId::new(record.id.clone())?;
    executor::small()?.block_on(run_poststop(&Paths::default(), &id, &bundle, deadline))
}

/// Ends the processes, releases what the sandbox's record lists, and forgets the container. Where others are in the
/// sandbox, it is theirs.
fn sweep(home: &Home, record: &Record, patience: Duration) -> Result<()> {
    if home.has_neighbours(&record.sandbox)? {
        if let Some(stand_in) = record.stand_in {
            stand_in.end(patience, FORCE).context("the stand-in")?;
        }
        home.remove()?;
        // If they all went meanwhile, each may have taken this one for a neighbour.
        if home.has_neighbours(&record.sandbox)? {
            return Ok(());
        }
    }
    if let Some(server) = record.server {
        server.end(patience, FORCE).context("the server")?;
    }
    if let Some(stand_in) = record.stand_in {
        stand_in.end(patience, FORCE).context("the stand-in")?;
    }
    let sandbox = SandboxId::new(&record.sandbox)?;
    release(&Paths::default(), &sandbox)?;
    home.remove()
}

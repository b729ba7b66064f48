//! `delete`: takes away what a dead shim has left of one container.
//!
//! containerd also calls it after every orderly delete, so finding nothing is the usual case and quick. It is given
//! five seconds and may be repeated.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use containerd_shim_protos::api::DeleteResponse;
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
};
use runtime::{
    bundle::{Bundle, Role},
    cleanup::cleanup,
    error::{Context, Error, ErrorKind, Result},
    ids::{ContainerId, SandboxId},
    paths::Paths,
    state::StateStore,
};

use super::{
    address::{ADDRESS_FILE, Address, PID_FILE},
    encode,
    orphan::Server,
};
use crate::executor;
use crate::{convert, flags::Flags, logging};

/// As if the process had been killed: 128 + SIGKILL.
const KILLED: u32 = 137;
/// How long a dead server's socket may seem alive.
const LAST_BREATH: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(5);
/// More mounts than this on one directory are nobody's.
const MOUNT_LIMIT: usize = 64;

/// Carries out `delete`, and returns what to print.
pub fn delete(flags: &Flags) -> Result<Vec<u8>> {
    let dir = match flags.bundle.as_str() {
        "" => env::current_dir().context("working directory")?,
        bundle => PathBuf::from(bundle),
    };
    logging::init(&dir, flags.debug);
    let id = ContainerId::new(flags.id.clone())?;
    let paths = Paths::default();
    // Without a readable bundle it can only have been alone, or there is nothing under its name.
    let sandbox = match Bundle::load(&dir) {
        Ok(Bundle { role: Role::PodContainer { .. }, .. }) => None,
        _ => Some(SandboxId::new(id.as_str())?),
    };
    let pid = sandbox.as_ref().map_or(0, |sandbox| vm_pid(&paths, sandbox));
    if let Some(sandbox) = &sandbox {
        end_server(&dir, &flags.namespace, &id)?;
        release(&paths, sandbox)?;
    }
    unmount(&dir.join("rootfs"))?;
    make_room(&dir);
    encode(&DeleteResponse {
        pid,
        exit_status: KILLED,
        exited_at: Some(convert::timestamp(SystemTime::now())).into(),
        ..Default::default()
    })
}

/// Ends the server that `start` made for this bundle, and removes its socket.
fn end_server(dir: &Path, namespace: &str, id: &ContainerId) -> Result<()> {
    let address = fs::read_to_string(dir.join(ADDRESS_FILE)).ok().and_then(|text| Address::parse(&text));
    let pid = fs::read_to_string(dir.join(PID_FILE)).ok().and_then(|text| text.trim().parse().ok());
    if let Some(server) = pid.and_then(|pid| Server::find(pid, namespace, id.as_str(), dir)) {
        let serves = address.as_ref().is_some_and(Address::is_served);
        if serves {
            tracing::warn!(pid, "the server of a deleted container still serves: it is killed");
        }
        server.end(serves)?;
    }
    address.as_ref().map_or(Ok(()), close)
}

/// Removes the socket of a server that has ended. One that somebody serves stays.
pub(super) fn close(address: &Address) -> Result<()> {
    // A killed process counts as dead while the last of its threads still holds the socket.
    let began = Instant::now();
    while address.is_served() {
        if began.elapsed() > LAST_BREATH {
            tracing::warn!(%address, "somebody else serves this address");
            return Ok(());
        }
        sleep(STEP);
    }
    address.remove()
}

/// Gives back what the record of a dead sandbox lists.
pub(crate) fn release(paths: &Paths, sandbox: &SandboxId) -> Result<()> {
    if !paths.sandbox(sandbox).exists() {
        return Ok(());
    }
    match executor::small()?.block_on(cleanup(paths, sandbox)) {
        // Another's container of the same name owns it, as of another namespace.
        Err(error) if error.kind() == ErrorKind::FailedPrecondition => {
            tracing::info!(%error, %sandbox, "the sandbox is left alone");
            Ok(())
        }
        other => other.map(drop),
    }
}

/// Removes what a containerd that was killed in it has left of an earlier removal of this bundle: it puts a dot before the
/// name, and then takes the files away. While that is there it can remove no other bundle of the name.
fn make_room(bundle: &Path) {
    let Some(name) = bundle.file_name() else { return };
    let mut dotted = OsString::from(".");
    dotted.push(name);
    let halfway = bundle.with_file_name(dotted);
    let Ok(entries) = fs::read_dir(&halfway) else { return };
    // Files only: it leaves nothing else, and what may be mounted there is nobody's to remove.
    let removed = entries.flatten().try_for_each(|entry| fs::remove_file(entry.path()));
    if let Err(error) = removed.and_then(|()| fs::remove_dir(&halfway)) {
        // containerd may be about it itself.
        tracing::debug!(%error, dir = %halfway.display(), "a removal of containerd's is not finished");
    }
}

/// The pid that the container's task had, as far as it is known.
fn vm_pid(paths: &Paths, sandbox: &SandboxId) -> u32 {
    StateStore::load(&paths.sandbox(sandbox)).map_or(0, |store| store.record().hypervisor_state.pid)
}

/// Takes every mount off the bundle's root directory: whatever is there, the shim put it there.
fn unmount(rootfs: &Path) -> Result<()> {
    for _ in 0..MOUNT_LIMIT {
        match umount2(rootfs, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // EINVAL: nothing is mounted there.
            Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(errno) => return Err(errno).with_context(|| format!("unmount {}", rootfs.display())),
        }
    }
    Err(Error::internal(format!("{} is mounted more than {MOUNT_LIMIT} times over", rootfs.display())))
}

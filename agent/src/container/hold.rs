//! Namespaces that outlive the containers which join them: a process that does nothing holds them.
//!
//! Runs in a copy of the launcher, which has one thread.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
};

use nix::{
    libc,
    sched::{CloneFlags, unshare},
    sys::signal::{SigHandler, Signal, signal},
    unistd::{Gid, Uid, pause, sethostname, setresgid, setresuid},
};
use oci_spec::runtime::LinuxIdMapping;
use serde::{Deserialize, Serialize};

use super::fork;

/// What the first process of a new user namespace says of itself.
const UNSHARED: &str = "unshared";

/// A user namespace for containers, with namespaces of IPC, names and processes that belong to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Users {
    /// As the kernel reads them.
    uid_map: String,
    gid_map: String,
    pub hostname: String,
}

impl Users {
    pub fn new(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping], hostname: &str) -> Self {
        let text = |map: &[LinuxIdMapping]| {
            let line =
                |map: &LinuxIdMapping| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size());
            map.iter().map(line).collect()
        };
        Self { uid_map: text(uids), gid_map: text(gids), hostname: hostname.into() }
    }
}

/// Makes a process namespace and, if `users` are given, the others; returns the process that holds them. It is a child of
/// the agent's, as a container's init is.
pub fn hold(users: Option<&Users>) -> io::Result<i32> {
    match users {
        None => {
            unshare(CloneFlags::CLONE_NEWPID)?;
            fork::fork_sibling(idle)
        }
        Some(users) => hold_users(users),
    }
}

/// Only from outside of a user namespace can its numbers be set, so there are two processes at it.
fn hold_users(users: &Users) -> io::Result<i32> {
    let (ours, theirs) = UnixStream::pair()?;
    let originals_end = ours.as_raw_fd();
    let first = fork::fork_sibling(|| {
        // With a copy of it here, the end of the original would not be heard.
        let _ = nix::unistd::close(originals_end);
        match inside(&theirs, users) {
            Ok(()) => 0,
            Err(error) => {
                let _ = writeln!(&theirs, "{error}"); // Nobody else could be told.
                1
            }
        }
    })?;
    drop(theirs);
    let mut told = BufReader::new(ours.try_clone()?).lines();
    let mut hear = || told.next().unwrap_or_else(|| Err(io::Error::other("it ended too early")));
    let said = hear()?;
    if said != UNSHARED {
        return Err(io::Error::other(said));
    }
    for (file, text) in [("uid_map", &users.uid_map), ("gid_map", &users.gid_map)] {
        fs::write(format!("/proc/{first}/{file}"), text)
            .map_err(|error| io::Error::other(format!("{file}: {:?}: {error}", text.trim_end())))?;
    }
    (&ours).write_all(b"\n")?;
    let said = hear()?;
    said.parse().map_err(|_| io::Error::other(said))
}

fn inside(original: &UnixStream, users: &Users) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER)?;
    writeln!(&*original, "{UNSHARED}")?;
    let mut line = String::new();
    if BufReader::new(original).read_line(&mut line)? == 0 {
        return Err(io::Error::other("nobody has set the numbers"));
    }
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    unshare(CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWPID)?;
    sethostname(&users.hostname)?;
    let holder = fork::fork_sibling(idle)?;
    writeln!(&*original, "{holder}")
}

fn idle() -> i32 {
    let _ = nix::sys::prctl::set_name(c"pause");
    // SAFETY: closes descriptors that nothing in this copy uses from here on.
    unsafe { libc::close_range(0, libc::c_uint::MAX, 0) };
    // SAFETY: no handler is installed; the kernel then reaps what is orphaned in this namespace.
    let _ = unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) };
    loop {
        pause();
    }
}

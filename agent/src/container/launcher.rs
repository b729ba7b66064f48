//! The process beside the agent that makes containers.
//!
//! It is forked before the agent has threads, stays single-threaded, and serves one request after the other; making a
//! container or an exec happens in a copy of it, so that a stuck one holds up nobody. Copy, intermediate and the
//! container's process are all children of the agent, which waits for them.

use std::{
    io::{self, IoSliceMut, Write},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
};

use libcontainer::{
    container::builder::ContainerBuilder,
    error::LibcontainerError,
    notify_socket::{NOTIFY_FILE, NotifySocket},
    syscall::syscall::SyscallType,
};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use super::{
    complaints,
    executor::Program,
    fork,
    hold::{Users, hold},
    join::{self, Joining},
};

/// libcontainer's own records, one directory per container.
const ROOT: &str = "/run/libcontainer";
/// runc's words before the reason.
const UNSTARTED: &str = "unable to start container process";
/// A request is a few paths.
const REQUEST_LIMIT: usize = 32 << 10;
/// The answer's pipe, and three standard streams.
const FDS_LIMIT: usize = 4;

/// What the agent asks. The first descriptor that comes along is a pipe for one line of [`Answer`]; the next three, if
/// there is no `console`, are the process's standard streams.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Make the container up to the point where its init waits.
    Create { id: String, bundle: PathBuf, console: Option<PathBuf> },
    /// Let the init run its program.
    Start { id: String },
    /// Make namespaces with a first process that does nothing.
    Hold { users: Option<Users> },
    /// Run what the file `process` describes.
    Exec { id: String, process: PathBuf, console: Option<PathBuf> },
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Started { pid: i32 },
    Done,
    Failed { text: String },
}

/// Forks the launcher. Must be called while the process has a single thread. Returns the socket for requests.
pub fn fork_launcher() -> io::Result<OwnedFd> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let agents_end = ours.as_raw_fd();
    fork::fork_child(|| {
        // With a copy of it here, the launcher would never hear that the agent is gone.
        let _ = nix::unistd::close(agents_end);
        serve(&theirs)
    })?;
    Ok(ours)
}

/// Serves requests until the agent is gone. Returns the exit code.
pub fn serve(socket: &OwnedFd) -> i32 {
    let _ = prctl_name();
    loop {
        match receive(socket) {
            Ok(Some((request, fds))) => handle(request, fds),
            Ok(None) => return 0,
            Err(error) => {
                eprintln!("launcher: {error}");
                return 1;
            }
        }
    }
}

fn prctl_name() -> nix::Result<()> {
    nix::sys::prctl::set_name(c"kata-launcher")
}

fn receive(socket: &OwnedFd) -> io::Result<Option<(Request, Vec<OwnedFd>)>> {
    let mut buffer = vec![0; REQUEST_LIMIT];
    let mut space = nix::cmsg_space!([RawFd; FDS_LIMIT]);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let (length, fds) = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
            Ok(message) => {
                let mut fds = Vec::new();
                for control in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(received) = control {
                        // SAFETY: the kernel just made these descriptors for us, and nobody else has them.
                        fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                    }
                }
                break (message.bytes, fds);
            }
        }
    };
    if length == 0 {
        return Ok(None);
    }
    let request = serde_json::from_slice(&buffer[..length])?;
    Ok(Some((request, fds)))
}

fn handle(request: Request, mut fds: Vec<OwnedFd>) {
    if fds.is_empty() {
        return; // Nobody could hear the answer.
    }
    let reply = fds.remove(0);
    if let Request::Start { id } = &request {
        // A line on a socket: no copy is worth its while.
        return answer(reply, start(id).map(|()| Answer::Done).map_err(|error| chain(&error)));
    }
    let copy = fork::fork_sibling(|| {
        let made = match &request {
            Request::Create { id, bundle, console } => {
                let (made, complaint) = complaints::heard(|| create(id, bundle, console.as_deref(), fds));
                made.map_err(|error| format!("{UNSTARTED}: {}", explain(chain(&error), complaint)))
            }
            Request::Exec { id, process, console } => exec(id, process, console.as_deref(), fds),
            Request::Start { id } => start(id).map(|()| 0).map_err(|error| chain(&error)),
            Request::Hold { users } => {
                hold(users.as_ref()).map_err(|error| format!("make namespaces to share: {error}"))
            }
        };
        match reply.try_clone() {
            Ok(reply) => {
                answer(reply, made.map(|pid| Answer::Started { pid }));
                0
            }
            Err(_) => 1,
        }
    });
    if let Err(error) = copy {
        eprintln!("launcher: clone: {error}");
    }
}

fn answer(reply: OwnedFd, made: Result<Answer, String>) {
    let answer = made.unwrap_or_else(|text| Answer::Failed { text });
    let mut line = serde_json::to_vec(&answer).unwrap_or_default();
    line.push(b'\n');
    // The agent may have given up on this request.
    let _ = std::fs::File::from(reply).write_all(&line);
}

/// An error with all that caused it, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// What became of a container, in runc's words where it has some.
fn explain(text: String, complaint: Option<String>) -> String {
    let mut text = text;
    if let Some(place) = text.find("exec: \"") {
        // Of a program that cannot run, runc tells just this.
        return text.split_off(place);
    }
    match complaint {
        Some(complaint) => format!("error during container init: {complaint}"),
        None => text,
    }
}

fn builder(
    id: &str,
    fds: Vec<OwnedFd>,
    console: Option<&Path>,
) -> Result<ContainerBuilder, LibcontainerError> {
    let mut builder = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(ROOT)?
        .with_executor(Program)
        .with_console_socket(console);
    let mut fds = fds.into_iter();
    if let Some(stdin) = fds.next() {
        builder = builder.with_stdin(stdin);
    }
    if let Some(stdout) = fds.next() {
        builder = builder.with_stdout(stdout);
    }
    if let Some(stderr) = fds.next() {
        builder = builder.with_stderr(stderr);
    }
    Ok(builder)
}

fn create(
    id: &str,
    bundle: &Path,
    console: Option<&Path>,
    fds: Vec<OwnedFd>,
) -> Result<i32, LibcontainerError> {
    let container = builder(id, fds, console)?
        .as_init(bundle)
        .with_systemd(false)
        .with_detach(true)
        .as_sibling(true)
        .build()?;
    container
        .pid()
        .map(|pid| pid.as_raw())
        .ok_or_else(|| LibcontainerError::Other("the container has no process".into()))
}

fn exec(id: &str, process: &Path, console: Option<&Path>, fds: Vec<OwnedFd>) -> Result<i32, String> {
    let text = std::fs::read(process).map_err(|error| format!("read {}: {error}", process.display()))?;
    let joining: Joining = serde_json::from_slice(&text).map_err(|error| format!("process: {error}"))?;
    join::join(id, &joining, console, fds).map_err(|fault| format!("{UNSTARTED}: {fault}"))
}

/// The agent starts a container once: what libcontainer would look up first is known.
fn start(id: &str) -> Result<(), LibcontainerError> {
    let socket = Path::new(ROOT).join(id).join(NOTIFY_FILE);
    let started = NotifySocket::new(socket).notify_container_start().map_err(LibcontainerError::from);
    // It leaves this process in a directory that goes with the container, if the init has ended.
    let _ = std::env::set_current_dir("/"); // There is always one.
    started
}

/// Forgets libcontainer's record of a container.
pub fn forget(id: &str) {
    // It may never have been made.
    let _ = std::fs::remove_dir_all(Path::new(ROOT).join(id));
}

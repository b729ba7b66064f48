//! `kata-runtime-proxy`: the small process that stands on the host for one in the guest.
//!
//! Its pid is the container's for the engine: it is in the sandbox's network namespace, passes on the signals that it is
//! sent, ends with the process's code, and when it is killed, so is the process. It holds those of the caller's streams
//! that the server cannot open itself. There is one for each process, so it is kept small: a program of its own, which
//! maps and relocates little, no executor, no more threads than streams to copy. Where that program is not installed,
//! `kata-runtime proxy` is the same.

mod copies;
mod options;
mod root;

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process,
};

use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns, unshare},
    sys::{
        signal::{SigSet, SigmaskHow, Signal, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::setsid,
};
use runtime::error::{Context, Error, Result};

use self::copies::Copies;
use super::{
    descriptors,
    message::{LENGTH, Message},
    size,
};

pub use options::{Network, Options, READY, words};
pub use root::{Files, Mounted, Whose};

/// How it ends when nobody can tell how the process did: as the process does, which is killed.
const KILLED: i32 = 137;
/// When it could not begin.
const UNFIT: i32 = 1;
/// Its own affairs.
const KEPT: [Signal; 2] = [Signal::SIGCHLD, Signal::SIGPIPE];

/// Stands for a process to its end.
pub fn main(args: impl Iterator<Item = String>) -> ! {
    let options = match Options::parse(args) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("kata-runtime-proxy: {error}; it is `create` and `exec` that start it");
            process::exit(UNFIT);
        }
    };
    process::exit(stand(options).unwrap_or(KILLED));
}

fn stand(options: Options) -> Result<i32> {
    let control = UnixStream::from(descriptors::inherited(options.control)?);
    let mut start = UnixStream::from(descriptors::inherited(options.start)?);
    let pipes = options.copies.iter();
    let pipes = pipes.map(|(stream, pipe)| Ok((*stream, descriptors::inherited(*pipe)?)));
    let pipes: Vec<(i32, OwnedFd)> = pipes.collect::<Result<_>>()?;
    let mut signals = match prepare(&options) {
        Ok(signals) => signals,
        Err(error) => {
            let _ = start.write_all(error.to_string().as_bytes()); // Nobody listens when `create` was killed.
            return Ok(UNFIT);
        }
    };
    start.write_all(&[READY]).context("say that it is ready")?;
    if !matches!(start.read(&mut [0]), Ok(1)) {
        return Ok(UNFIT); // What it was to stand for did not come to be.
    }
    drop(start);
    let copies = Copies::start(pipes)?;
    let code = pass_on(control, &mut signals, options.terminal)?;
    copies.finish();
    Ok(code)
}

/// Becomes what it is to be seen as.
fn prepare(options: &Options) -> Result<SignalFd> {
    let mut mask = SigSet::all();
    for signal in KEPT {
        mask.remove(signal);
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None).context("block signals")?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC).context("signalfd")?;
    let _ = setsid(); // Fails for one that leads a session already.
    if options.console {
        size::take(std::io::stdin().as_fd())?;
    }
    match &options.network {
        Network::Host => {}
        Network::New => unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?,
        Network::Path(path) => join(path)?,
    }
    options.files.as_ref().map_or(Ok(()), root::enter)?;
    Ok(signals)
}

fn join(path: &Path) -> Result<()> {
    let enter = || format!("enter network namespace {}", path.display());
    let namespace = File::open(path).with_context(enter)?;
    setns(namespace, CloneFlags::CLONE_NEWNET).with_context(enter)
}

/// Passes on what it is sent until the process has ended; returns its code.
fn pass_on(mut control: UnixStream, signals: &mut SignalFd, terminal: bool) -> Result<i32> {
    if terminal {
        tell_size(&mut control)?;
    }
    loop {
        let mut ready = [
            PollFd::new(control.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            polled => polled.context("wait")?,
        };
        let [said, sent] = ready.map(|fd| fd.any().unwrap_or(true));
        if said && let Some(code) = hear(&mut control)? {
            return Ok(code);
        }
        if sent && let Some(signal) = signals.read_signal().context("read a signal")? {
            match signal.ssi_signo as i32 {
                libc::SIGWINCH if terminal => tell_size(&mut control)?,
                _ => tell(&mut control, Message::Signal(signal.ssi_signo))?,
            }
        }
    }
}

/// The code of the process's end, if it is that.
fn hear(control: &mut UnixStream) -> Result<Option<i32>> {
    let mut bytes = [0; LENGTH];
    match control.read_exact(&mut bytes) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            Err(Error::unavailable("the server has ended"))
        }
        read => read.context("the server's word"),
    }?;
    Ok(match Message::decode(bytes) {
        Some(Message::Exited(code)) => Some(code as i32),
        _ => None,
    })
}

fn tell_size(control: &mut UnixStream) -> Result<()> {
    match size::of(std::io::stdin().as_fd()) {
        Some(size::Size { rows, columns }) => tell(control, Message::Resize { rows, columns }),
        None => Ok(()),
    }
}

fn tell(control: &mut UnixStream, message: Message) -> Result<()> {
    match control.write_all(&message.encode()) {
        // It may have said how the process ended before it closed.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        told => told.context("tell the server"),
    }
}

//! Starting a process: everything between fork and exec, and the thread that must outlive it.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::{LazyLock, mpsc},
};

use nix::{
    libc,
    sched::{CloneFlags, setns, unshare},
    unistd::{dup2_raw, getppid},
};
use tokio::sync::oneshot;

use crate::{
    error::{Context, Error, Result},
    journal::Journal,
    vm::NetworkNamespace,
};

/// First number of the descriptors handed to a child, after the three standard streams.
const FIRST_FD: RawFd = 3;

type Job = (Command, oneshot::Sender<io::Result<Child>>);

/// The thread from which every child is started. `PR_SET_PDEATHSIG` fires when the *thread* that forked ends, and a
/// thread of the async runtime may end at any time; this one lives as long as the process.
static SPAWNER: LazyLock<mpsc::Sender<Job>> = LazyLock::new(|| {
    let (sender, jobs) = mpsc::channel::<Job>();
    std::thread::Builder::new()
        .name("spawner".into())
        .spawn(move || {
            for (mut command, reply) in jobs {
                if let Err(Ok(mut orphan)) = reply.send(command.spawn()) {
                    // The caller gave up meanwhile; nobody would ever end this child.
                    let _ = orphan.kill();
                    let _ = orphan.wait();
                }
            }
        })
        .expect("a thread can be started at start-up");
    sender
});

/// A process to be started: program, arguments, descriptors to pass on, and where it runs.
#[derive(Debug)]
pub struct Launch {
    command: Command,
    fds: Vec<OwnedFd>,
    network: NetworkNamespace,
    secure_bits: Option<libc::c_int>,
    journal: Option<Journal>,
}

impl Launch {
    /// A process without input whose output is piped to us, in our own network namespace, with our environment.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { command, fds: Vec::new(), network: NetworkNamespace::Host, secure_bits: None, journal: None }
    }

    pub fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.command.arg(arg);
        self
    }

    pub fn args<S: AsRef<OsStr>>(&mut self, args: impl IntoIterator<Item = S>) -> &mut Self {
        self.command.args(args);
        self
    }

    /// What the program finds as its own name.
    pub fn arg0(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.command.arg0(name);
        self
    }

    /// The directory it starts in.
    pub fn dir(&mut self, dir: impl AsRef<Path>) -> &mut Self {
        self.command.current_dir(dir);
        self
    }

    /// Lets `journal` have what it says, too.
    pub fn heard_by(&mut self, journal: Journal) -> &mut Self {
        self.journal = Some(journal);
        self
    }

    /// Who hears what it says, besides its owner.
    pub(super) fn journal(&self) -> Option<Journal> {
        self.journal.clone()
    }

    /// What it reads on its standard input.
    pub fn input(&mut self, file: impl Into<Stdio>) -> &mut Self {
        self.command.stdin(file);
        self
    }

    /// Leaves out our environment.
    pub fn no_env(&mut self) -> &mut Self {
        self.command.env_clear();
        self
    }

    pub fn env(&mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.command.env(key, value);
        self
    }

    /// Hands a descriptor to the child and returns the number it will have there.
    pub fn pass_fd(&mut self, fd: OwnedFd) -> RawFd {
        self.fds.push(fd);
        FIRST_FD + self.fds.len() as RawFd - 1
    }

    pub fn network(&mut self, network: NetworkNamespace) -> &mut Self {
        self.network = network;
        self
    }

    /// Lets it keep its capabilities while it acts as another user.
    pub fn keep_capabilities(&mut self) -> &mut Self {
        self.secure_bits = Some(libc::SECBIT_NO_SETUID_FIXUP);
        self
    }

    /// For messages.
    pub(super) fn program(&self) -> String {
        self.command.get_program().to_string_lossy().into_owned()
    }

    /// For logs: the whole command line.
    pub fn command_line(&self) -> OsString {
        let mut line = self.command.get_program().to_owned();
        for arg in self.command.get_args() {
            line.push(" ");
            line.push(arg);
        }
        line
    }

    pub(super) async fn start(self) -> Result<Child> {
        let Self { mut command, fds, network, secure_bits, journal: _ } = self;
        let network = Entry::open(&network)?;
        // Numbers above the targets, so that no dup2 overwrites one that is still to be placed.
        let fds = fds
            .iter()
            .map(duplicate_above)
            .collect::<nix::Result<Vec<_>>>()
            .context("duplicate descriptors")?;
        let parent = nix::unistd::getpid();
        let placed: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        // SAFETY: between fork and exec only async-signal-safe calls are made, on values prepared before.
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
                if getppid() != parent {
                    // The parent died before the line above; nothing would end this child any more.
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                network.enter()?;
                if let Some(bits) = secure_bits
                    && libc::prctl(libc::PR_SET_SECUREBITS, bits) != 0
                {
                    return Err(io::Error::last_os_error());
                }
                for (index, fd) in placed.iter().enumerate() {
                    let target = dup2_raw(BorrowedFd::borrow_raw(*fd), FIRST_FD + index as RawFd)?;
                    std::mem::forget(target); // Stays open in the program.
                }
                Ok(())
            });
        }
        let (reply, answer) = oneshot::channel();
        SPAWNER.send((command, reply)).map_err(|_| Error::internal("the spawner thread is gone"))?;
        let child = answer.await.map_err(|_| Error::internal("the spawner thread is gone"))?;
        drop(fds); // Only now: the child has its own from the fork on.
        child.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::not_found("no such program"),
            _ => Error::from(error),
        })
    }
}

/// A network namespace ready to be entered without touching memory or the file system.
enum Entry {
    Stay,
    Fresh,
    Existing(OwnedFd),
}

impl Entry {
    fn open(network: &NetworkNamespace) -> Result<Self> {
        Ok(match network {
            NetworkNamespace::Host => Self::Stay,
            NetworkNamespace::New => Self::Fresh,
            NetworkNamespace::Path(path) => Self::Existing(
                std::fs::File::open(path)
                    .map_err(|error| {
                        Error::invalid(format!(
                            "linux.namespaces: network namespace {}: {error}",
                            path.display()
                        ))
                    })?
                    .into(),
            ),
        })
    }

    fn enter(&self) -> nix::Result<()> {
        match self {
            Self::Stay => Ok(()),
            Self::Fresh => unshare(CloneFlags::CLONE_NEWNET),
            Self::Existing(fd) => setns(fd, CloneFlags::CLONE_NEWNET),
        }
    }
}

fn duplicate_above(fd: &OwnedFd) -> nix::Result<OwnedFd> {
    let duplicate = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(FIRST_FD + 64))?;
    // SAFETY: fcntl just returned this descriptor to us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}

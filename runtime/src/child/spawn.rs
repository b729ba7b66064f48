//! Starting a process: everything between fork and exec, and the thread that must outlive it.

use std::{
    collections::BTreeMap,
    env,
    ffi::{CString, OsStr, OsString},
    fs::File,
    io::{self, PipeReader},
    iter::once,
    os::{
        fd::{AsFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, mpsc},
};

use nix::{
    libc,
    sched::{CloneFlags, setns, unshare},
    unistd::{chdir, dup2_raw, getppid},
};
use tokio::sync::oneshot;

use super::birth::{Image, Newborn, bear};
use crate::{
    error::{Context, Error, Result},
    journal::Journal,
    vm::NetworkNamespace,
};

/// First number of the descriptors handed to a child, after the three standard streams.
const FIRST_FD: RawFd = 3;

type Job = (Box<dyn FnOnce() -> io::Result<Newborn> + Send>, oneshot::Sender<io::Result<Newborn>>);

/// The thread from which every child is started. `PR_SET_PDEATHSIG` fires when the *thread* that forked ends, and a
/// thread of the async runtime may end at any time; this one lives as long as the process.
static SPAWNER: LazyLock<mpsc::Sender<Job>> = LazyLock::new(|| {
    let (sender, jobs) = mpsc::channel::<Job>();
    std::thread::Builder::new()
        .name("spawner".into())
        .spawn(move || {
            for (start, reply) in jobs {
                if let Err(Ok(orphan)) = reply.send(start()) {
                    // The caller gave up meanwhile; nobody would ever end this child.
                    orphan.discard();
                }
            }
        })
        .expect("a thread can be started at start-up");
    sender
});

/// A process to be started: program, arguments, descriptors to pass on, and where it runs.
#[derive(Debug)]
pub struct Launch {
    program: OsString,
    name: OsString,
    args: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
    dir: Option<PathBuf>,
    input: Option<File>,
    fds: Vec<OwnedFd>,
    network: NetworkNamespace,
    secure_bits: Option<libc::c_int>,
    journal: Option<Journal>,
    is_grouped: bool,
}

impl Launch {
    /// A process without input whose output is piped to us, in our own network namespace, with our environment.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let program = program.as_ref().to_owned();
        Self {
            name: program.clone(),
            program,
            args: Vec::new(),
            env: env::vars_os().collect(),
            dir: None,
            input: None,
            fds: Vec::new(),
            network: NetworkNamespace::Host,
            secure_bits: None,
            journal: None,
            is_grouped: false,
        }
    }

    pub fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub fn args<S: AsRef<OsStr>>(&mut self, args: impl IntoIterator<Item = S>) -> &mut Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// What the program finds as its own name.
    pub fn arg0(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.name = name.as_ref().to_owned();
        self
    }

    /// The directory it starts in.
    pub fn dir(&mut self, dir: impl AsRef<Path>) -> &mut Self {
        self.dir = Some(dir.as_ref().to_owned());
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
    pub fn input(&mut self, file: File) -> &mut Self {
        self.input = Some(file);
        self
    }

    /// Leaves out our environment.
    pub fn no_env(&mut self) -> &mut Self {
        self.env.clear();
        self
    }

    pub fn env(&mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.env.insert(key.as_ref().to_owned(), value.as_ref().to_owned());
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

    /// Starts it in the group of the sandbox's own processes, which is killed as a whole.
    pub fn in_group(&mut self) -> &mut Self {
        self.is_grouped = true;
        self
    }

    pub(super) fn is_grouped(&self) -> bool {
        self.is_grouped
    }

    /// For messages.
    pub(super) fn program(&self) -> String {
        self.program.to_string_lossy().into_owned()
    }

    /// For logs: the whole command line.
    pub fn command_line(&self) -> OsString {
        let mut line = self.program.clone();
        for arg in &self.args {
            line.push(" ");
            line.push(arg);
        }
        line
    }

    /// Starts it, in the cgroup whose directory that is.
    pub(super) async fn start(self, group: Option<Arc<OwnedFd>>) -> Result<Started> {
        let image = Image {
            program: c_string(found(&self.program)?.as_os_str())?,
            args: once(&self.name).chain(&self.args).map(|arg| c_string(arg)).collect::<Result<_>>()?,
            env: self.env.iter().map(variable).collect::<Result<_>>()?,
        };
        let dir = self.dir.map(|dir| c_string(dir.as_os_str())).transpose()?;
        let network = Entry::open(&self.network)?;
        let input = match self.input {
            Some(file) => file,
            None => File::open("/dev/null").context("open /dev/null")?,
        };
        let (stdout, their_stdout) = io::pipe().context("make a pipe")?;
        let (stderr, their_stderr) = io::pipe().context("make a pipe")?;
        let standard = [OwnedFd::from(input), their_stdout.into(), their_stderr.into()];
        // Numbers above the targets, so that no dup2 overwrites one that is still to be placed.
        let fds: Vec<_> = standard
            .iter()
            .chain(&self.fds)
            .map(duplicate_above)
            .collect::<nix::Result<_>>()
            .context("duplicate descriptors")?;
        let parent = nix::unistd::getpid();
        let secure_bits = self.secure_bits;
        let start = move || {
            let prepare = || {
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
                if getppid() != parent {
                    // The parent died before the line above; nothing would end this child any more.
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                network.enter()?;
                if let Some(bits) = secure_bits {
                    set_secure_bits(bits)?;
                }
                if let Some(dir) = &dir {
                    chdir(dir.as_c_str())?;
                }
                for (target, fd) in (0..).zip(&fds) {
                    // SAFETY: the numbers from 0 on belong to the program that is to come, and nobody else uses them.
                    let placed = unsafe { dup2_raw(fd, target) }?;
                    std::mem::forget(placed); // Stays open in the program.
                }
                Ok(())
            };
            let group = group.as_deref().map(AsFd::as_fd);
            // SAFETY: `prepare` makes system calls only, on values made before.
            unsafe { bear(&image, group, &prepare) }
        };
        let (reply, answer) = oneshot::channel();
        let gone = || Error::internal("the spawner thread is gone");
        SPAWNER.send((Box::new(start), reply)).map_err(|_| gone())?;
        match answer.await.map_err(|_| gone())? {
            Ok(newborn) => Ok(Started { newborn, stdout, stderr }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::not_found("no such program")),
            Err(error) => Err(error.into()),
        }
    }
}

/// A process that runs, and what it says.
pub(super) struct Started {
    pub newborn: Newborn,
    pub stdout: PipeReader,
    pub stderr: PipeReader,
}

fn set_secure_bits(bits: libc::c_int) -> io::Result<()> {
    // SAFETY: prctl with two integers.
    match unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A name without a slash is looked for where the shell looks.
fn found(program: &OsStr) -> Result<PathBuf> {
    let path = PathBuf::from(program);
    if program.as_bytes().contains(&b'/') {
        return Ok(path);
    }
    let dirs = env::var_os("PATH").unwrap_or_default();
    let mut candidates = env::split_paths(&dirs).map(|dir| dir.join(&path));
    candidates.find(|candidate| candidate.is_file()).ok_or_else(|| Error::not_found("no such program"))
}

fn c_string(text: &OsStr) -> Result<CString> {
    CString::new(text.to_owned().into_vec())
        .map_err(|_| Error::invalid(format!("{:?} has a zero byte", text.to_string_lossy())))
}

fn variable((name, value): (&OsString, &OsString)) -> Result<CString> {
    let mut entry = name.clone();
    entry.push("=");
    entry.push(value);
    c_string(&entry)
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

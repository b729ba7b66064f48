//! The agent's half of the launcher: hands over bundle and streams, and hears what became of it.

use std::{
    io::{self, IoSlice},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::fchown,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, unix::AsyncFd},
    net::{UnixListener, UnixStream, unix::pipe},
    time::timeout,
};

use super::{
    hold::Users,
    launcher::{Answer, Request},
};
use crate::{
    error::{Context, Error, Result},
    process::Process,
    reaper::Reaper,
    stdio::{AgentStreams, open_peer},
};

/// For one container or exec to be made; the host's own deadline is usually shorter.
const DEADLINE: Duration = Duration::from_secs(120);
const ANSWER_LIMIT: u64 = 64 << 10;
/// Where consoles are handed over; the names are short, for a socket's path is.
const CONSOLE_DIR: &str = "/run/kata-consoles";

/// What a process wants for its standard streams.
#[derive(Debug, Clone, Copy)]
pub struct StreamsWanted {
    pub terminal: bool,
    /// Rows and columns of the terminal.
    pub size: Option<(u16, u16)>,
    /// To whom they are given, for a process may open its own again by name.
    pub owner: u32,
    /// Bytes of the pipes; 0 leaves the kernel's default.
    pub pipe_size: u32,
}

/// The launcher process.
pub struct Launcher {
    socket: AsyncFd<OwnedFd>,
    reaper: Reaper,
    consoles: AtomicU64,
}

impl Launcher {
    /// Takes over the socket of a forked launcher.
    pub fn new(socket: OwnedFd, reaper: Reaper) -> Result<Self> {
        std::fs::create_dir_all(CONSOLE_DIR).context(CONSOLE_DIR)?;
        // SAFETY: an OwnedFd keeps the same open descriptor for as long as it lives, which is what the call asks for.
        let socket = unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)?;
        Ok(Self { socket, reaper, consoles: AtomicU64::new(0) })
    }

    /// Makes a container whose init waits.
    pub async fn create(&self, id: &str, bundle: &Path, streams: StreamsWanted) -> Result<Process> {
        let request = |console| Request::Create { id: id.into(), bundle: bundle.into(), console };
        self.launch(request, streams).await
    }

    /// Runs what the file `process` describes in a container.
    pub async fn exec(&self, id: &str, process: &Path, streams: StreamsWanted) -> Result<Process> {
        let request = |console| Request::Exec { id: id.into(), process: process.into(), console };
        self.launch(request, streams).await
    }

    /// Lets a container's init run.
    pub async fn start(&self, id: &str) -> Result<()> {
        self.ask(&Request::Start { id: id.into() }, &[]).await.map(drop)
    }

    /// Makes a process namespace for containers to join, with a user namespace around it or not; it lasts as long as the
    /// guest. Returns its first process.
    pub async fn hold(&self, users: Option<Users>) -> Result<i32> {
        match self.ask(&Request::Hold { users }, &[]).await? {
            Answer::Started { pid } => Ok(pid),
            Answer::Done | Answer::Failed { .. } => Err(Error::internal("the launcher named no process")),
        }
    }

    async fn launch(
        &self,
        request: impl FnOnce(Option<PathBuf>) -> Request,
        wanted: StreamsWanted,
    ) -> Result<Process> {
        let launching = self.reaper.launching();
        let (answer, streams) = if wanted.terminal {
            let console = Console::bind(self.consoles.fetch_add(1, Ordering::Relaxed))?;
            let request = request(Some(console.path.clone()));
            let answer = self.ask(&request, &[]).await?;
            let master = console.master().await?;
            if wanted.owner != 0 {
                let slave = open_peer(&master).context("open the terminal")?;
                fchown(&slave, Some(wanted.owner), None).context("give away the terminal")?;
            }
            let streams = AgentStreams::terminal(master)?;
            if let (Some((rows, columns)), Some(terminal)) = (wanted.size, &streams.terminal) {
                terminal.resize(rows, columns).context("size the terminal")?;
            }
            (answer, streams)
        } else {
            let (streams, theirs) = AgentStreams::pipes(wanted.pipe_size).context("make pipes")?;
            if wanted.owner != 0 {
                for end in [&theirs.stdin, &theirs.stdout, &theirs.stderr] {
                    fchown(end, Some(wanted.owner), None).context("give away a pipe")?;
                }
            }
            let fds = [theirs.stdin.as_raw_fd(), theirs.stdout.as_raw_fd(), theirs.stderr.as_raw_fd()];
            (self.ask(&request(None), &fds).await?, streams)
        };
        let Answer::Started { pid } = answer else {
            return Err(Error::internal("the launcher named no process"));
        };
        Ok(Process::new(pid, self.reaper.watch(pid, &launching), streams))
    }

    /// Sends a request and waits for its answer.
    async fn ask(&self, request: &Request, fds: &[RawFd]) -> Result<Answer> {
        let (answer, reply) = io::pipe().context("make the answer's pipe")?;
        let mut all = vec![reply.as_raw_fd()];
        all.extend_from_slice(fds);
        self.send(&serde_json::to_vec(request).map_err(io::Error::from)?, &all)
            .await
            .context("ask the launcher")?;
        drop(reply);
        let answer = pipe::Receiver::from_owned_fd(answer.into()).context("read the answer's pipe")?;
        let mut line = String::new();
        let mut answer = BufReader::new(answer.take(ANSWER_LIMIT));
        timeout(DEADLINE, answer.read_line(&mut line))
            .await
            .map_err(|_| Error::internal("the launcher does not answer"))?
            .context("hear the launcher")?;
        match serde_json::from_str(&line) {
            Ok(Answer::Failed { text }) => Err(Error::internal(text)),
            Ok(answer) => Ok(answer),
            Err(_) => Err(Error::internal("the launcher's worker died")),
        }
    }

    async fn send(&self, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
        let control = [ControlMessage::ScmRights(fds)];
        loop {
            let mut ready = self.socket.writable().await?;
            let sent = ready.try_io(|socket| {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], &control, flags, None)
                    .map_err(io::Error::from)
            });
            match sent {
                Ok(result) => return result.map(drop),
                Err(_would_block) => {}
            }
        }
    }
}

/// The socket on which a container hands over its terminal.
struct Console {
    path: PathBuf,
    listener: UnixListener,
}

impl Console {
    fn bind(number: u64) -> Result<Self> {
        let path = Path::new(CONSOLE_DIR).join(number.to_string());
        let listener = UnixListener::bind(&path).context("bind the console's socket")?;
        Ok(Self { path, listener })
    }

    /// Receives the pty's master. The container has sent it before the launcher answers.
    async fn master(&self) -> Result<OwnedFd> {
        let receive = async {
            let (stream, _) = self.listener.accept().await?;
            receive_fd(&stream).await
        };
        timeout(Duration::from_secs(10), receive)
            .await
            .map_err(|_| Error::internal("the container hands over no terminal"))?
            .context("receive the terminal")
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path); // Nobody else removes it, and a left one does no harm.
    }
}

async fn receive_fd(stream: &UnixStream) -> io::Result<OwnedFd> {
    loop {
        stream.readable().await?;
        let received = stream.try_io(tokio::io::Interest::READABLE, || {
            let mut byte = [0; 64];
            let mut space = nix::cmsg_space!([RawFd; 1]);
            let mut parts = [io::IoSliceMut::new(&mut byte)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
            let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
            for control in message.cmsgs()? {
                if let ControlMessageOwned::ScmRights(fds) = control
                    && let Some(fd) = fds.first()
                {
                    // SAFETY: the kernel just made this descriptor for us, and nobody else has it.
                    return Ok(unsafe { OwnedFd::from_raw_fd(*fd) });
                }
            }
            Err(io::Error::other("a message without a terminal"))
        });
        match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

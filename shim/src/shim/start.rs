//! `start`: makes the server of a sandbox, or tells which one a pod's container joins.
//!
//! The socket listens before the server is spawned, so the address can be told at once: whoever connects early waits
//! in the socket's queue. Until the reply is complete, whatever was made is taken away again on an error. The server ends by
//! itself if this process does before containerd has the reply.
//!
//! containerd makes a bundle only for what it does not know. What stands here under the container's name is therefore left
//! of one that containerd forgot, as when its state directory was lost, and is taken away first.

use std::{
    env,
    fs::{self, File},
    io::Write,
    os::{
        fd::OwnedFd,
        unix::{
            net::{UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use runtime::{
    bundle::{Bundle, Role},
    error::{Context, Error, Result},
    fault::{self, Side},
    ids::{ContainerId, SandboxId},
    paths::Paths,
};

use super::{
    address::{ADDRESS_FILE, Address, PID_FILE},
    bootstrap::Request,
    cgroup, delete,
    orphan::Server,
};
use crate::{flags::Flags, logging, pool};

/// What to print, and a server that waits until that is done.
pub struct Reply {
    pub bytes: Vec<u8>,
    server: Option<UnixStream>,
}

impl Reply {
    fn of(bytes: Vec<u8>) -> Self {
        Self { bytes, server: None }
    }

    /// It was printed.
    pub fn told(self) {
        // A server that is gone will be missed by containerd.
        let _ = self.server.map(|mut server| server.write_all(&[1]));
    }
}

/// Carries out `start` in the bundle that is the working directory.
pub fn start(flags: &Flags) -> Result<Reply> {
    let dir = env::current_dir().context("working directory")?;
    logging::init(&dir, flags.debug);
    for option in &flags.unknown {
        tracing::warn!(option, "unknown command line option");
    }
    let request = Request::read(flags)?;
    let id = ContainerId::new(request.id.clone())?;
    // What containerd wants by its sandbox API has no container.
    let bundle = if dir.join("config.json").exists() { Bundle::load(&dir)? } else { Bundle::of_nobody() };
    let sandbox = bundle.sandbox_id(&id)?;
    let address = request.address(sandbox.as_str());
    if let Role::PodContainer { .. } = bundle.role {
        write_file(&dir.join(ADDRESS_FILE), &address.to_string())?;
        return request.reply(&address).map(Reply::of);
    }
    fault::point("shim", "start", Side::Before)?;
    take_forgotten(flags, &dir, &sandbox, &address)?;
    if let Some(standby) = pool::take(&request, sandbox.as_str(), &dir, &bundle, &address) {
        settle(&request, standby.processes())?;
        write_file(&dir.join(PID_FILE), &standby.pid().to_string())?;
        write_file(&dir.join(ADDRESS_FILE), &address.to_string())?;
        let reply = request.reply(&address)?;
        return Ok(Reply { bytes: reply, server: Some(standby.accept()?) });
    }
    let listener = address.listen()?;
    let mut made = Made { address: Some(&address), server: None };
    let (waits, theirs) = UnixStream::pair().context("make a socket")?;
    let server = made.server.insert(spawn(&request, &dir, listener, theirs)?);
    let pid = server.id();
    settle(&request, &[pid])?;
    write_file(&dir.join(PID_FILE), &pid.to_string())?;
    write_file(&dir.join(ADDRESS_FILE), &address.to_string())?;
    let bytes = request.reply(&address)?;
    fault::point("shim", "start", Side::After)?;
    made.keep();
    Ok(Reply { bytes, server: Some(waits) })
}

/// Takes away what containerd has forgotten of the sandbox.
fn take_forgotten(flags: &Flags, dir: &Path, sandbox: &SandboxId, address: &Address) -> Result<()> {
    if address.is_served() {
        for server in Server::forgotten(&flags.namespace, &flags.id, dir) {
            tracing::warn!(%sandbox, "containerd has forgotten this sandbox, whose server is killed");
            server.end(true)?;
        }
        delete::close(address)?;
    }
    delete::release(&Paths::default(), sandbox)
}

/// Puts the server and what belongs to it where containerd wants them.
fn settle(request: &Request, processes: &[u32]) -> Result<()> {
    for pid in processes {
        if let Some(path) = &request.shim_cgroup {
            cgroup::join(path, *pid)?;
        }
        if let Err(error) = cgroup::raise_oom_score(*pid) {
            tracing::warn!(%error, pid, "a process keeps its OOM score");
        }
    }
    Ok(())
}

/// Starts this program again as the server, with the listening socket as its standard input and `starter` as its output, by
/// which it hears of this process.
fn spawn(request: &Request, dir: &Path, listener: UnixListener, starter: UnixStream) -> Result<Child> {
    let program = env::current_exe().context("find this program")?;
    let mut command = Command::new(&program);
    // What `ps` shows and what the runtime is called.
    command.arg0(env::args_os().next().unwrap_or_else(|| program.clone().into()));
    command.args(["-namespace", &request.namespace, "-id", &request.id, "-address", &request.containerd]);
    command.arg("-bundle").arg(dir);
    if request.debug {
        command.arg("-debug");
    }
    if let Some(config) = &request.config {
        // A sandbox without a container is not told it again.
        command.env("KATA_CONF_FILE", config);
    }
    if let Some(address) = &request.ttrpc_address {
        command.env("TTRPC_ADDRESS", address);
    }
    // The last words of a crash go where its log goes.
    let stderr = logging::open_fifo(dir).map_or_else(Stdio::null, Stdio::from);
    command.current_dir(dir).stdin(OwnedFd::from(listener)).stdout(OwnedFd::from(starter)).stderr(stderr);
    command.spawn().with_context(|| format!("start {} as the server", program.display()))
}

/// Writes a whole file or none.
fn write_file(path: &Path, text: &str) -> Result<()> {
    let write = || format!("write {}", path.display());
    let name = path.file_name().ok_or_else(|| Error::internal("a file without a name"))?;
    let new = path.with_file_name(format!(".{}.new", name.to_string_lossy()));
    File::create(&new).and_then(|mut file| file.write_all(text.as_bytes())).with_context(write)?;
    fs::rename(&new, path).with_context(write)
}

/// What `start` has made so far; taken away again unless it is kept.
struct Made<'a> {
    address: Option<&'a Address>,
    server: Option<Child>,
}

impl Made<'_> {
    fn keep(mut self) {
        self.address = None;
        self.server = None;
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill(); // It may have ended by itself.
            let _ = server.wait();
        }
        if let Some(address) = self.address
            && let Err(error) = address.remove()
        {
            tracing::warn!(%error, "a failed start leaves its socket");
        }
    }
}

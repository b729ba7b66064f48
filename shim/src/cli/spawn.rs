//! Starting the two processes that stay: a sandbox's server, and the stand-in of a process.

use std::{
    env,
    fs::File,
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, unshare};
use runtime::{
    error::{Context, Error, Result},
    ledger::ProcessId,
};

use super::{
    descriptors::bequeath,
    global::Global,
    message::{LENGTH, Message, hello},
    proxy::{Files, Network, Options, READY, words},
    record::Home,
    streams::Streams,
};

/// The name of its program.
const STAND_IN: &str = "kata-runtime-proxy";
/// A stand-in opens a namespace or makes one; the server looks a name up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts the server of a new sandbox. It may be called at once.
pub fn server(global: &Global, home: &Home, sandbox: &str, config: &Path) -> Result<ProcessId> {
    let calls = home.listen_for_calls()?;
    let stand_ins = home.listen_for_stand_ins()?;
    let log = home.log();
    let open = || format!("open {}", log.display());
    let last_words = File::options().append(true).create(true).open(&log).with_context(open)?;
    let mut command = this_program()?;
    command.args(global.debug.then_some("--debug"));
    command.arg("serve").arg("--log").arg(&log).args(["--stand-ins", &bequeath(&stand_ins)?.to_string()]);
    command.arg(sandbox);
    command.env("KATA_CONF_FILE", config);
    command.current_dir("/").stdin(OwnedFd::from(calls)).stdout(Stdio::null()).stderr(last_words);
    let child = command.spawn().context("start the server")?;
    ProcessId::of(child.id())
}

/// A stand-in that is ready and waits to be told that there is a process.
pub struct StandIn {
    child: Child,
    pub process: ProcessId,
    control: UnixStream,
    start: UnixStream,
}

/// What a stand-in is to be.
pub struct Role<'a> {
    pub container: &'a str,
    pub exec: Option<&'a str>,
    pub network: Network,
    /// What it is to see in place of the host's files.
    pub files: Option<Files>,
    /// Its terminal, if one was made for it.
    pub console: Option<OwnedFd>,
}

impl StandIn {
    /// Starts it. It goes away if this process does before [`Self::release`].
    pub fn start(home: &Home, role: Role<'_>, streams: &Streams) -> Result<Self> {
        let control = home.connect_stand_in()?;
        let (start, theirs) = UnixStream::pair().context("make a socket")?;
        let copies = streams.copies.iter().map(|copied| Ok((copied.stream, bequeath(&copied.pipe)?)));
        let options = Options {
            network: role.network,
            files: role.files,
            terminal: streams.terminal,
            console: role.console.is_some(),
            control: bequeath(&control)?,
            start: bequeath(&theirs)?,
            copies: copies.collect::<Result<_>>()?,
        };
        let name: Vec<_> = [Some(role.container), role.exec].into_iter().flatten().collect();
        let mut command = stand_in_program()?;
        command.args(words(&options, &name)).current_dir("/");
        match &role.console {
            Some(console) => {
                let clone = || console.try_clone().context("the terminal");
                command.stdin(clone()?).stdout(clone()?).stderr(clone()?);
            }
            None => keep_only(&mut command, streams),
        }
        let child = match role.exec {
            None => spawn_apart(&mut command),
            Some(_) => command.spawn(),
        };
        let child = child.context("start the stand-in")?;
        drop(theirs);
        let process = ProcessId::of(child.id())?;
        let mut this = Self { child, process, control, start };
        for socket in [&this.control, &this.start] {
            socket.set_read_timeout(Some(PATIENCE)).context("a socket")?;
        }
        this.wait_until_ready()?;
        Ok(this)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let mut first = [0];
        let read = self.start.read(&mut first).context("the stand-in is not ready")?;
        if (read, first) == (1, [READY]) {
            return Ok(());
        }
        let mut words = String::from_utf8_lossy(&first[..read]).into_owned();
        self.start.read_to_string(&mut words).context("the stand-in is not ready")?;
        Err(Error::invalid(if words.is_empty() { "the stand-in ended at once".into() } else { words }))
    }

    /// Binds it to the process, which the server must know by now.
    pub fn bind(&mut self, container: &str, exec: Option<&str>) -> Result<()> {
        let bind = "bind the stand-in to the process";
        self.control.write_all(hello(container, exec, self.process.pid).as_bytes()).context(bind)?;
        let mut answer = [0; LENGTH];
        self.control.read_exact(&mut answer).context(bind)?;
        match Message::decode(answer) {
            Some(Message::Attended) => Ok(()),
            _ => Err(Error::internal("the server knows no such process")),
        }
    }

    /// From now on it stands for the process, without this one.
    pub fn release(mut self) -> Result<Child> {
        // What it reads it waits for; these were for us.
        self.control.set_read_timeout(None).context("a socket")?;
        self.start.write_all(&[1]).context("release the stand-in")?;
        Ok(self.child)
    }
}

/// Starts a program as the first of a process namespace. Podman enters that of a container's pid, to copy files and to list
/// processes: it may not enter the host's when it is a user's, and would list those of the host.
fn spawn_apart(command: &mut Command) -> io::Result<Child> {
    thread::scope(|scope| {
        // What a thread starts after this is in the new one; the thread itself, and all others, stay where they are.
        let apart = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWPID)?;
            command.spawn()
        });
        apart.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts it has ended")))
    })
}

/// Leaves it the streams that it copies, and no other: whoever reads them is to find their end.
fn keep_only(command: &mut Command, streams: &Streams) {
    let keeps = |stream| streams.copies.iter().any(|copied| copied.stream == stream);
    if !keeps(0) {
        command.stdin(Stdio::null());
    }
    if !keeps(1) {
        command.stdout(Stdio::null());
    }
    if !keeps(2) {
        command.stderr(Stdio::null());
    }
}

/// The small program beside this one; this one, where it is alone.
fn stand_in_program() -> Result<Command> {
    let program = env::current_exe().context("find this program")?.with_file_name(STAND_IN);
    if program.exists() {
        return Ok(Command::new(program));
    }
    let mut command = this_program()?;
    command.arg("proxy");
    Ok(command)
}

/// What the kernel can kill where a container's engine hears of it, before it is started. Its last word is missing.
pub fn victim() -> Result<Command> {
    let mut command = this_program()?;
    command.arg("victim").current_dir("/").stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

fn this_program() -> Result<Command> {
    let program = env::current_exe().context("find this program")?;
    Ok(Command::new(program))
}

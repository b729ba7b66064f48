//! Containers as plain child processes of a test: no namespaces, no root file system of their own.
//!
//! Everything else of the agent is the same code. The guest never takes this way.

use std::{
    fs::{self, OpenOptions},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{
    libc,
    pty::openpty,
    sys::stat::Mode,
    unistd::{SysconfVar, mkfifo, sysconf},
};
use oci_spec::runtime::Process as Spec;
use protocols::agent as wire;
use tokio::{process, sync::watch};

use crate::{
    error::{Context, Error, Result},
    process::Process,
    stdio::AgentStreams,
};

nix::ioctl_none_bad!(take_controlling_terminal, libc::TIOCSCTTY);

/// The named pipe at which an init waits for its start.
fn gate(bundle: &Path) -> PathBuf {
    bundle.join("start")
}

/// Starts a process that waits for [`start`] before it becomes its program.
pub fn create(bundle: &Path, spec: &Spec, pipe_size: u32) -> Result<Process> {
    mkfifo(&gate(bundle), Mode::S_IRWXU).context("make the start gate")?;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "read -r _ < \"$0\"; exec \"$@\""]).arg(gate(bundle));
    spawn(command, spec, pipe_size)
}

/// Lets an init go on. Blocks until it has come to its gate.
pub fn start(bundle: &Path) -> Result<()> {
    use std::io::Write;
    let mut gate = OpenOptions::new().write(true).open(gate(bundle)).context("open the start gate")?;
    gate.write_all(b"\n").context("open the start gate")
}

/// Starts a process at once.
pub fn exec(spec: &Spec, pipe_size: u32) -> Result<Process> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "exec \"$@\"", "sh"]);
    spawn(command, spec, pipe_size)
}

fn spawn(mut command: Command, spec: &Spec, pipe_size: u32) -> Result<Process> {
    let args = spec.args().as_deref().unwrap_or_default();
    let name = args.first().ok_or_else(|| Error::invalid("process.args: names no program"))?;
    let env: Vec<_> = spec.env().iter().flatten().filter_map(|entry| entry.split_once('=')).collect();
    let path = env.iter().find(|(key, _)| *key == "PATH").map_or("/usr/bin:/bin", |(_, path)| path);
    let found = match name.contains('/') {
        true => Path::new(name).exists(),
        false => path.split(':').any(|dir| Path::new(dir).join(name).exists()),
    };
    if !found {
        return Err(Error::internal(format!("exec: {name:?}: executable file not found in $PATH")));
    }
    let cwd = if spec.cwd().is_dir() { spec.cwd().as_path() } else { Path::new("/") };
    command.args(args).env_clear().env("PATH", path).envs(env).current_dir(cwd);
    let streams = if spec.terminal().unwrap_or(false) {
        on_terminal(&mut command)?
    } else {
        let (streams, theirs) = AgentStreams::pipes(pipe_size).context("make pipes")?;
        command.stdin(theirs.stdin).stdout(theirs.stdout).stderr(theirs.stderr);
        streams
    };
    let mut child = process::Command::from(command).spawn().context("start a child")?;
    let pid = child.id().ok_or_else(|| Error::internal("the child has no pid"))? as i32;
    let (sender, exit) = watch::channel(None);
    tokio::spawn(async move {
        let code = match child.wait().await {
            Ok(status) => status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(255),
            Err(_) => 255,
        };
        let _ = sender.send(Some(code)); // Nobody may want to know.
    });
    Ok(Process::new(pid, exit, streams))
}

fn on_terminal(command: &mut Command) -> Result<AgentStreams> {
    let pty = openpty(None, None).context("open a pty")?;
    let slave = || -> Result<Stdio> { Ok(pty.slave.try_clone()?.into()) };
    command.stdin(slave()?).stdout(slave()?).stderr(slave()?);
    // SAFETY: setsid and an ioctl are async-signal-safe, and nothing else happens between fork and exec.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            take_controlling_terminal(0)?;
            Ok(())
        });
    }
    let master: OwnedFd = pty.master.as_fd().try_clone_to_owned()?;
    Ok(AgentStreams::terminal(master)?)
}

/// What these processes use. Without cgroups, only what the kernel counts per process.
pub fn stats(pids: &[i32]) -> wire::StatsContainerResponse {
    let (mut user, mut system, mut memory) = (0, 0, 0);
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Counted from behind the name, which may hold anything: state is the first.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
        let field = |place: usize| fields.get(place).and_then(|field| field.parse().ok()).unwrap_or(0_u64);
        user += field(11);
        system += field(12);
        memory += field(21);
    }
    let ticks = |config| sysconf(config).ok().flatten().unwrap_or(0).unsigned_abs();
    let tick = 1_000_000_000 / ticks(SysconfVar::CLK_TCK).max(1);
    let usage = wire::CpuUsage {
        total_usage: (user + system) * tick,
        usage_in_usermode: user * tick,
        usage_in_kernelmode: system * tick,
        ..Default::default()
    };
    let used = memory * ticks(SysconfVar::PAGE_SIZE);
    let memory = wire::MemoryData { usage: used, limit: u64::MAX, ..Default::default() };
    let stats = wire::CgroupStats {
        cpu_stats: Some(wire::CpuStats { cpu_usage: Some(usage).into(), ..Default::default() }).into(),
        memory_stats: Some(wire::MemoryStats { usage: Some(memory).into(), ..Default::default() }).into(),
        pids_stats: Some(wire::PidsStats { current: pids.len() as u64, ..Default::default() }).into(),
        ..Default::default()
    };
    wire::StatsContainerResponse { cgroup_stats: Some(stats).into(), ..Default::default() }
}

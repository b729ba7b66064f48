//! A process that joins a living container and runs its program there.
//!
//! libcontainer's own way to do that has no user namespace, no system call filter, and reads the whole spec again; so only
//! parts of it are used. Runs in a copy of the launcher, which has one thread.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{IntoRawFd, OwnedFd},
        unix::{fs::MetadataExt, net::UnixStream},
    },
    path::Path,
};

use libcontainer::{
    capabilities,
    config::PersonalityDomain,
    syscall::syscall::{Syscall, create_syscall},
    tty,
};
use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::{prctl, stat::Mode},
    unistd::{
        Gid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, setgroups, setresgid, setresuid, setsid,
    },
};
use oci_spec::runtime::{LinuxPersonality, LinuxPersonalityDomain, LinuxSeccomp, Process};
use serde::{Deserialize, Serialize};

use super::{cgroup, executor, executor::words, fork, scheduling};

/// In the order in which they are joined: each may need rights in the first.
const NAMESPACES: [(&str, CloneFlags); 7] = [
    ("user", CloneFlags::CLONE_NEWUSER),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("mnt", CloneFlags::CLONE_NEWNS),
];
/// Of a fault's text.
const FAULT_LIMIT: u64 = 16 << 10;

/// What joins, and what the container it joins has for every process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Joining {
    pub process: Process,
    pub seccomp: Option<LinuxSeccomp>,
    pub personality: Option<LinuxPersonality>,
    /// The container's init, whose namespaces are joined.
    pub init: i32,
}

/// Runs the process; returns its pid once its program runs. `streams` are its standard ones unless it has a `console`.
pub fn join(
    id: &str,
    joining: &Joining,
    console: Option<&Path>,
    streams: Vec<OwnedFd>,
) -> Result<i32, String> {
    let console = console.map(UnixStream::connect).transpose().map_err(with("connect to the console"))?;
    // What is in the container already must not look into this process while it comes in.
    prctl::set_dumpable(false).map_err(errno("prctl"))?;
    let process = &joining.process;
    let namespaces = Namespaces::open(joining.init)?;
    let affinity = process.exec_cpu_affinity().as_ref();
    scheduling::set_affinity(affinity.and_then(|affinity| affinity.initial().as_deref()))?;
    enter_cgroup(id, joining.init)?;
    scheduling::set_affinity(affinity.and_then(|affinity| affinity.cpu_affinity_final().as_deref()))?;
    let system = create_syscall();
    // All that needs rights outside of the container's user namespace comes before it is entered.
    if let Some(score) = process.oom_score_adj() {
        fs::write("/proc/self/oom_score_adj", score.to_string()).map_err(with("process.oomScoreAdj"))?;
    }
    scheduling::apply(process, &*system)?;
    for limit in process.rlimits().iter().flatten() {
        system.set_rlimit(limit).map_err(|error| format!("process.rlimits: {:?}: {error}", limit.typ()))?;
    }
    namespaces.enter()?;
    let (mut report, reporter) = io::pipe().map_err(with("make a pipe"))?;
    // The process namespace is entered by what is forked from here on.
    let pid = fork::fork_sibling(|| {
        let ready = set_up(joining, &*system, console, streams).and_then(|()| executor::look(process));
        let fault = match ready {
            Ok(found) => {
                drop(reporter);
                found.run()
            }
            Err(fault) => fault,
        };
        let _ = File::from(OwnedFd::from(reporter)).write_all(fault.as_bytes()); // Nobody else could be told.
        1
    })
    .map_err(with("fork"))?;
    let mut fault = String::new();
    // Ends when there is nothing left that could fail but the program itself.
    report.by_ref().take(FAULT_LIMIT).read_to_string(&mut fault).map_err(with("hear the process"))?;
    if fault.is_empty() { Ok(pid) } else { Err(fault) }
}

/// The namespaces of a container that are not this process's own.
struct Namespaces(Vec<(&'static str, CloneFlags, File)>);

impl Namespaces {
    fn open(init: i32) -> Result<Self, String> {
        let mut open = Vec::new();
        for (name, flag) in NAMESPACES {
            let gone = |error: io::Error| format!("the container's {name} namespace: {error}");
            let file = File::open(format!("/proc/{init}/ns/{name}")).map_err(gone)?;
            let own = fs::metadata(format!("/proc/self/ns/{name}")).map_err(gone)?;
            if file.metadata().map_err(gone)?.ino() != own.ino() {
                open.push((name, flag, file));
            }
        }
        Ok(Self(open))
    }

    fn enter(&self) -> Result<(), String> {
        for (name, flag, file) in &self.0 {
            setns(file, *flag).map_err(errno(&format!("join the {name} namespace")))?;
            if *name == "user" {
                // Root there, whoever root here is there.
                setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0)).map_err(errno("setgid"))?;
                setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).map_err(errno("setuid"))?;
            }
        }
        Ok(())
    }
}

/// Moves this process to the container's group; to that of its init, if the container made groups of its own, for then
/// its topmost one takes no processes.
fn enter_cgroup(id: &str, init: i32) -> Result<(), String> {
    let enter = |dir: &Path| fs::write(dir.join("cgroup.procs"), "0");
    match enter(&cgroup::dir(id)) {
        Ok(()) => Ok(()),
        Err(error)
            if matches!(
                error.raw_os_error().map(Errno::from_raw),
                Some(Errno::EBUSY | Errno::EOPNOTSUPP)
            ) =>
        {
            let of_init =
                fs::read_to_string(format!("/proc/{init}/cgroup")).map_err(with("the init's cgroup"))?;
            let below = of_init.trim().strip_prefix("0::/").ok_or("the init has no cgroup of version 2")?;
            enter(&Path::new(cgroup::HIERARCHY).join(below)).map_err(with("join the init's cgroup"))
        }
        Err(error) => Err(format!("join the container's cgroup: {error}")),
    }
}

/// Makes this process what the spec says, up to its program.
fn set_up(
    joining: &Joining,
    system: &dyn Syscall,
    console: Option<UnixStream>,
    streams: Vec<OwnedFd>,
) -> Result<(), String> {
    let (process, user) = (&joining.process, joining.process.user());
    setsid().map_err(errno("setsid"))?;
    match console {
        Some(console) => tty::setup_console(system, console.into_raw_fd(), false)
            .map_err(|error| format!("set up the terminal: {error}"))?,
        None => connect(&streams)?,
    }
    let no_new_privileges = process.no_new_privileges().unwrap_or(false);
    if no_new_privileges {
        prctl::set_no_new_privs().map_err(errno("no_new_privs"))?;
    }
    if let Some(personality) = &joining.personality {
        let domain = match personality.domain() {
            LinuxPersonalityDomain::PerLinux => PersonalityDomain::Linux,
            LinuxPersonalityDomain::PerLinux32 => PersonalityDomain::Linux32,
        };
        system.personality(domain).map_err(|error| format!("linux.personality: {error}"))?;
    }
    if let Some(umask) = user.umask() {
        nix::sys::stat::umask(Mode::from_bits_truncate(umask));
    }
    // As root first, for the directory may be one that the user may not enter by itself.
    let entered = chdir(process.cwd());
    let groups: Vec<Gid> = user.additional_gids().iter().flatten().map(|gid| Gid::from_raw(*gid)).collect();
    setgroups(&groups).map_err(errno("setgroups"))?;
    set_user(Uid::from_raw(user.uid()), Gid::from_raw(user.gid()))?;
    capabilities::reset_effective(system).map_err(|error| format!("capabilities: {error}"))?;
    if !no_new_privileges {
        // Asks for a right that goes with the next step.
        filter(joining)?;
    }
    if let Some(capabilities) = process.capabilities() {
        capabilities::drop_privileges(capabilities, system)
            .map_err(|error| format!("capabilities: {error}"))?;
    }
    let entered = match entered {
        Err(Errno::EACCES | Errno::EPERM) => chdir(process.cwd()),
        other => other,
    };
    entered.map_err(|fault| {
        format!("chdir to cwd ({:?}) set in config.json failed: {}", process.cwd(), words(fault))
    })?;
    check_cwd()?;
    system.close_range(0).map_err(|error| format!("close_range: {error}"))?;
    if no_new_privileges {
        filter(joining)?;
    }
    Ok(())
}

fn connect(streams: &[OwnedFd]) -> Result<(), String> {
    let [stdin, stdout, stderr] = streams else {
        return Err("a process without terminal needs three streams".into());
    };
    dup2_stdin(stdin)
        .and_then(|()| dup2_stdout(stdout))
        .and_then(|()| dup2_stderr(stderr))
        .map_err(errno("dup2"))
}

/// Becomes the user, and keeps every right for the steps to come.
fn set_user(uid: Uid, gid: Gid) -> Result<(), String> {
    prctl::set_keepcaps(true).map_err(errno("keep capabilities"))?;
    setresgid(gid, gid, gid).map_err(errno("setgid"))?;
    setresuid(uid, uid, uid).map_err(errno("setuid"))?;
    prctl::set_keepcaps(false).map_err(errno("keep capabilities"))
}

#[cfg(feature = "seccomp")]
fn filter(joining: &Joining) -> Result<(), String> {
    let Some(filter) = &joining.seccomp else { return Ok(()) };
    libcontainer::seccomp::initialize_seccomp(filter)
        .map(drop)
        .map_err(|error| format!("linux.seccomp: {error}"))
}

#[cfg(not(feature = "seccomp"))]
fn filter(joining: &Joining) -> Result<(), String> {
    match &joining.seccomp {
        None => Ok(()),
        Some(_) => Err("linux.seccomp: this agent was built without filters".into()),
    }
}

/// A working directory that was reached through a descriptor from outside would be a way out.
fn check_cwd() -> Result<(), String> {
    match std::env::current_dir() {
        Ok(dir) if dir.is_absolute() => Ok(()),
        _ => Err("current working directory is outside of container mount namespace root".into()),
    }
}

fn errno(what: &str) -> impl Fn(Errno) -> String {
    let what = what.to_owned();
    move |fault| format!("{what}: {}", words(fault))
}

fn with(what: &'static str) -> impl Fn(io::Error) -> String {
    move |error| format!("{what}: {error}")
}

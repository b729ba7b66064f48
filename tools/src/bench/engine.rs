//! Containers made through a private containerd, as a user would, by `ctr`; and the processes behind them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    host::{command, patience::wait, process},
    log::Log,
};

/// For one `ctr`. A cold start on a busy machine that emulates takes seconds.
const DEADLINE: Duration = Duration::from_secs(120);
/// For a shim to end after its last container was removed.
const AFTERMATH: Duration = Duration::from_secs(20);
/// What a container does that is only there.
const IDLE: [&str; 2] = ["sleep", "86400"];

const ROLE: &str = "io.kubernetes.cri.container-type";
const POD: &str = "io.kubernetes.cri.sandbox-id";
/// Of a pod's own container.
const PAUSE_IMAGE: &str = "docker.io/library/kata-pause:latest";

/// A containerd.
#[derive(Debug)]
pub struct Engine {
    pub address: PathBuf,
    pub namespace: String,
    pub image: String,
    pub log: Log,
    /// containerd's own process.
    pub pid: u32,
    /// Detached containers that were not removed yet.
    running: Mutex<Vec<String>>,
}

/// What containerd runs a container with.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub name: &'static str,
    pub config: Option<PathBuf>,
}

/// What a container is to a pod.
#[derive(Debug, Clone, Copy)]
pub enum Role<'a> {
    Alone,
    /// The first of a pod.
    First,
    /// A pod's own, which only waits.
    Pod,
    /// One more of this pod.
    Member(&'a str),
}

/// A standard stream of an added process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stream {
    Input,
    Output,
}

/// The processes behind a container.
#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    pub shim: u32,
    /// QEMU, if there is one.
    pub hypervisor: Option<u32>,
    /// Everything else: daemons, or without a VM the container itself.
    pub others: BTreeSet<u32>,
}

impl Engine {
    pub fn new(address: PathBuf, namespace: String, image: String, log: PathBuf, pid: u32) -> Self {
        Self { address, namespace, image, log: Log::new(log), pid, running: Mutex::default() }
    }

    /// Runs a container that does nothing, from its making to its removal; returns milliseconds.
    pub fn run(&self, runtime: &Runtime, id: &str, role: Role<'_>) -> Result<f64> {
        let mut command = self.ctr();
        command.args(["run", "--rm", "--fifo-dir"]).arg(self.address.with_file_name("fifo"));
        self.describe(&mut command, runtime, id, role);
        command.arg("true");
        let done =
            command::run(command, DEADLINE).with_context(|| format!("run {id} by {}", runtime.name))?;
        Ok(done.ms)
    }

    /// Starts a container that stays; returns milliseconds.
    pub fn start(&self, runtime: &Runtime, id: &str, role: Role<'_>) -> Result<f64> {
        let mut command = self.ctr();
        command.args(["run", "--detach", "--null-io"]);
        self.describe(&mut command, runtime, id, role);
        command.args(IDLE);
        self.detach(command, runtime, id)
    }

    /// Starts a pod's own container; returns milliseconds.
    pub fn start_pod(&self, runtime: &Runtime, id: &str) -> Result<f64> {
        let mut command = self.ctr();
        command.args(["run", "--detach", "--null-io"]);
        self.describe(&mut command, runtime, id, Role::Pod);
        self.detach(command, runtime, id)
    }

    /// [`Self::start`] in a network namespace, with another program.
    pub fn start_in<S: AsRef<str>>(
        &self,
        runtime: &Runtime,
        id: &str,
        namespace: &Path,
        program: &[S],
    ) -> Result<f64> {
        let mut command = self.ctr();
        command.args(["run", "--detach", "--null-io"]);
        command.args(["--with-ns", &format!("network:{}", namespace.display())]);
        self.describe(&mut command, runtime, id, Role::Alone);
        command.args(program.iter().map(AsRef::as_ref));
        self.detach(command, runtime, id)
    }

    fn detach(&self, command: Command, runtime: &Runtime, id: &str) -> Result<f64> {
        self.running().push(id.to_owned());
        let done =
            command::run(command, DEADLINE).with_context(|| format!("start {id} by {}", runtime.name))?;
        Ok(done.ms)
    }

    /// Runs one more process in a container; returns milliseconds.
    pub fn exec(&self, id: &str, exec: &str) -> Result<f64> {
        let mut command = self.ctr();
        command.args(["task", "exec", "--exec-id", exec, "--fifo-dir"]);
        command.arg(self.address.with_file_name("fifo")).args([id, "true"]);
        Ok(command::run(command, DEADLINE).with_context(|| format!("exec {exec} in {id}"))?.ms)
    }

    /// Has one more process in a container write or read so many MiB; returns milliseconds.
    pub fn carry(&self, id: &str, exec: &str, stream: Stream, mib: u32) -> Result<f64> {
        let mut ctr = self.ctr();
        ctr.args(["task", "exec", "--exec-id", exec, "--fifo-dir"]);
        ctr.arg(self.address.with_file_name("fifo")).args([id, "dd", "bs=64k"]);
        let script = match stream {
            Stream::Output => {
                ctr.args(["if=/dev/zero", &format!("count={}", mib * 16)]);
                "shift; exec \"$@\" >/dev/null"
            }
            Stream::Input => {
                ctr.arg("of=/dev/null");
                "count=$1; shift; head -c $count /dev/zero | \"$@\""
            }
        };
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", &(u64::from(mib) << 20).to_string()]);
        command.arg(ctr.get_program()).args(ctr.get_args());
        Ok(command::run(command, DEADLINE).with_context(|| format!("{mib} MiB through {exec} in {id}"))?.ms)
    }

    /// Removes a container that [`Engine::start`] made.
    pub fn remove(&self, id: &str) -> Result<()> {
        let mut command = self.ctr();
        command.args(["task", "rm", "--force", id]);
        let ended = command::run(command, DEADLINE);
        let mut command = self.ctr();
        command.args(["container", "rm", id]);
        let removed = command::run(command, DEADLINE);
        self.running().retain(|other| other != id);
        ended.and(removed).map(drop).with_context(|| format!("remove {id}"))
    }

    /// Mounts the image, for others to run containers over; [`Self::unmount_image`] takes that away.
    pub fn mount_image(&self, at: &Path) -> Result<()> {
        std::fs::create_dir_all(at).with_context(|| format!("make {}", at.display()))?;
        let mut command = self.ctr();
        command.args(["images", "mount", "--rw", &self.image]).arg(at);
        command::run(command, DEADLINE).map(drop).context("mount the image")
    }

    pub fn unmount_image(&self, at: &Path) -> Result<()> {
        let mut command = self.ctr();
        command.args(["images", "unmount", "--rm"]).arg(at);
        command::run(command, DEADLINE).map(drop).context("unmount the image")
    }

    /// Removes whatever a measurement that failed has left.
    pub fn remove_all(&self) {
        let ids: Vec<String> = self.running().drain(..).rev().collect();
        for id in ids {
            let _ = self.remove(&id); // A start that failed has left less than there is to remove.
        }
    }

    /// Waits until no more shims live than those of `containers` that stay, so that the end of one measurement does not
    /// disturb the next.
    pub fn settle(&self, containers: usize) -> Result<()> {
        let settled = wait(AFTERMATH, None, || (self.shims().len() <= containers).then_some(()));
        settled.with_context(|| format!("more than {containers} shims live on: {:?}", self.shims()))
    }

    /// The processes behind a container that [`Engine::start`] made.
    pub fn sandbox(&self, id: &str) -> Result<Sandbox> {
        let shim = self.shims().into_iter().find(|pid| {
            let arguments = process::arguments(*pid);
            arguments.windows(2).any(|pair| pair[0] == "-id" && pair[1] == id)
        });
        let task = self.task_pid(id)?;
        // One that waited in a pool was started before the container had a name.
        let parent = process::parent(task).filter(|pid| process::name(*pid).starts_with("containerd-shim"));
        let shim = shim.or(parent).with_context(|| format!("no shim lives that serves {id}"))?;
        let hypervisor = process::name(task).starts_with("qemu-system").then_some(task);
        let mut others = process::descendants(shim);
        others.extend(process::descendants(task));
        others.insert(task);
        if let Some(pid) = hypervisor {
            others.remove(&pid);
        }
        Ok(Sandbox { shim, hypervisor, others })
    }

    fn task_pid(&self, id: &str) -> Result<u32> {
        let mut command = self.ctr();
        command.args(["task", "ls"]);
        let table = command::run(command, DEADLINE)?.output;
        let pid =
            parse_task_pid(&table, id).with_context(|| format!("{id} is not among the tasks: {table}"))?;
        ensure!(pid != 0, "{id} has no process");
        Ok(pid)
    }

    /// Every shim's server of this containerd.
    fn shims(&self) -> Vec<u32> {
        let address = self.address.to_string_lossy();
        let is_server = |pid: &u32| {
            let arguments = process::arguments(*pid);
            let ours = arguments.windows(2).any(|pair| pair[0] == "-address" && pair[1] == address);
            // `start` and `delete` are its short-lived other forms.
            ours && !arguments.iter().any(|word| word == "start" || word == "delete")
        };
        process::all().into_iter().filter(is_server).collect()
    }

    fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&self.address).args(["--namespace", &self.namespace]);
        command
    }

    fn describe(&self, command: &mut Command, runtime: &Runtime, id: &str, role: Role<'_>) {
        command.args(["--runtime", runtime.name]);
        if let Some(config) = &runtime.config {
            command.arg("--runtime-config-path").arg(config);
        }
        let marks = match role {
            Role::Alone => None,
            Role::First | Role::Pod => Some(("sandbox", id)),
            Role::Member(pod) => Some(("container", pod)),
        };
        let image = match role {
            Role::Pod => PAUSE_IMAGE,
            Role::Alone | Role::First | Role::Member(_) => &self.image,
        };
        if let Some((kind, pod)) = marks {
            command.args([
                "--annotation",
                &format!("{ROLE}={kind}"),
                "--annotation",
                &format!("{POD}={pod}"),
            ]);
        }
        command.args([image, id]);
    }

    fn running(&self) -> MutexGuard<'_, Vec<String>> {
        // A list that is whole at any time.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `TASK PID STATUS`, one line each.
fn parse_task_pid(table: &str, id: &str) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == id).then(|| words.next()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_found_in_the_table() {
        let table = "TASK    PID    STATUS    \nk1      653    RUNNING\nk10     699    RUNNING\n";
        assert_eq!(parse_task_pid(table, "k10"), Some(699));
        assert_eq!(parse_task_pid(table, "k"), None);
    }

    #[test]
    fn a_pods_containers_carry_its_marks() {
        let engine = Engine::new("/s/c.sock".into(), "ns".into(), "image".into(), "/s/log".into(), 1);
        let runtime = Runtime { name: "io.containerd.kata.v2", config: Some("/c.toml".into()) };
        let mut command = Command::new("ctr");
        engine.describe(&mut command, &runtime, "c2", Role::Member("pod"));
        let words: Vec<_> = command.get_args().map(|word| word.to_str().unwrap()).collect();
        assert_eq!(
            words.join(" "),
            "--runtime io.containerd.kata.v2 --runtime-config-path /c.toml \
             --annotation io.kubernetes.cri.container-type=container \
             --annotation io.kubernetes.cri.sandbox-id=pod image c2"
        );
    }
}

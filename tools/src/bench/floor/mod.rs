//! QEMU driven by hand: the same QEMU, machine, kernel and initrd as ours, and nothing around it. Measures from QEMU's
//! start until the agent answers a line on its serial port. What this takes, nothing built on it can get below.

mod agent;
mod arguments;
mod qmp;
mod variation;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::host::{child::Child, patience::wait};
use agent::Port;
use arguments::{Given, Memory, Start};
use qmp::Qmp;
pub use variation::Variation;

/// For a boot on a busy machine that emulates.
const BOOT: Duration = Duration::from_secs(90);
const QUIT: Duration = Duration::from_secs(10);

/// How such VMs are started.
#[derive(Debug)]
pub struct Floor {
    given: Given,
    dir: PathBuf,
    count: AtomicUsize,
    /// What a clone is made from, or why there is nothing.
    template: Result<Template, String>,
}

#[derive(Debug)]
struct Template {
    memory: PathBuf,
    state: PathBuf,
}

/// A VM that answers. Dropping it ends it.
#[derive(Debug)]
pub struct Vm {
    qemu: Child,
    /// A guest whose port nobody holds is not idle.
    port: Option<Port>,
    dir: PathBuf,
}

/// The size of the guest's RAM, from a command line of QEMU.
pub fn guest_kib(qemu: &[String]) -> Result<u64> {
    Ok(Given::read(qemu)?.memory_bytes / 1024)
}

impl Floor {
    /// Reads off the command line of one of our QEMUs what to start; `dir` is for files, best in memory.
    pub fn prepare(qemu: &[String], dir: &Path) -> Result<Self> {
        let given = Given::read(qemu)?;
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let mut floor = Self {
            given,
            dir: dir.to_path_buf(),
            count: AtomicUsize::new(0),
            template: Err("none was made".into()),
        };
        drop(floor.boot().context("boot by hand")?);
        floor.template = floor.make_template().map_err(|error| format!("{error:#}"));
        Ok(floor)
    }

    /// Boots a VM; returns it and the milliseconds until its agent answered.
    pub fn boot(&self) -> Result<(Vm, f64)> {
        let began = Instant::now();
        let vm = self.spawn(&Memory::Fresh, Start::Boot)?;
        Self::answered(vm, began)
    }

    /// The same with another command line; `None` if that would be the same.
    pub fn boot_varied(&self, variation: Variation) -> Result<Option<(Vm, f64)>> {
        let began = Instant::now();
        let dir = self.new_dir()?;
        match variation.apply(arguments::line(&self.given, &Memory::Fresh, Start::Boot, &dir)?)? {
            Some(line) => Self::answered(self.spawn_line(dir, line)?, began).map(Some),
            None => Ok(None),
        }
    }

    fn answered(vm: Vm, began: Instant) -> Result<(Vm, f64)> {
        let mut port = vm.port(began + BOOT)?;
        port.hello().with_context(|| vm.words())?;
        let ms = milliseconds(began);
        Ok((vm.keep(port), ms))
    }

    /// Clones a VM, sharing the template's pages; returns it and the milliseconds until its agent answered.
    pub fn clone_vm(&self) -> Result<(Vm, f64)> {
        let began = Instant::now();
        let (vm, mut qmp, mut port) = self.restore()?;
        qmp.execute("cont", None)?;
        port.wait_for_clone()?;
        let ms = milliseconds(began);
        Ok((vm.keep(port), ms))
    }

    /// Clones a VM beforehand; returns it and the milliseconds from its release until its agent answered.
    pub fn release_vm(&self) -> Result<(Vm, f64)> {
        let (vm, mut qmp, mut port) = self.restore()?;
        let began = Instant::now();
        qmp.execute("cont", None)?;
        port.wait_for_clone()?;
        let ms = milliseconds(began);
        Ok((vm.keep(port), ms))
    }

    /// A clone that waits to go on, with what its agent must know on the way already.
    fn restore(&self) -> Result<(Vm, Qmp, Port)> {
        let template = self.template.as_ref().map_err(|reason| anyhow::anyhow!("no template: {reason}"))?;
        let deadline = Instant::now() + BOOT;
        let vm = self.spawn(&Memory::Private { file: template.memory.clone() }, Start::Incoming)?;
        let mut qmp = vm.qmp(deadline)?;
        qmp.keep_memory_out_of_the_state()?;
        qmp.restore(&template.state)?;
        let mut port = vm.port(deadline)?;
        port.tell_clone()?;
        Ok((vm, qmp, port))
    }

    fn make_template(&self) -> Result<Template> {
        let template = Template { memory: self.dir.join("memory"), state: self.dir.join("state") };
        let deadline = Instant::now() + BOOT;
        let mut vm = self.spawn(&Memory::Template { file: template.memory.clone() }, Start::Boot)?;
        let mut port = vm.port(deadline)?;
        port.become_template()?;
        drop(port);
        let mut qmp = vm.qmp(deadline)?;
        qmp.execute("stop", None)?;
        qmp.keep_memory_out_of_the_state()?;
        qmp.save(&template.state)?;
        // Its connection may be gone before it answers.
        let _ = qmp.execute("quit", None);
        let _ = wait(QUIT, None, || vm.qemu.has_ended().then_some(()));
        Ok(template)
    }

    fn spawn(&self, memory: &Memory, start: Start) -> Result<Vm> {
        let dir = self.new_dir()?;
        let line = arguments::line(&self.given, memory, start, &dir)?;
        self.spawn_line(dir, line)
    }

    fn new_dir(&self) -> Result<PathBuf> {
        let dir = self.dir.join(self.count.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(dir)
    }

    fn spawn_line(&self, dir: PathBuf, line: Vec<String>) -> Result<Vm> {
        let log =
            File::create(dir.join("log")).with_context(|| format!("create a log in {}", dir.display()))?;
        let mut command = Command::new(&self.given.program);
        command.args(line);
        command.stdout(Stdio::null()).stderr(log);
        Ok(Vm { qemu: Child::spawn(command, Signal::SIGKILL)?, port: None, dir })
    }
}

impl Vm {
    pub fn pid(&self) -> u32 {
        self.qemu.id()
    }

    fn keep(mut self, port: Port) -> Self {
        self.port = Some(port);
        self
    }

    fn port(&self, deadline: Instant) -> Result<Port> {
        Port::open(&self.dir.join(arguments::AGENT), deadline).with_context(|| self.words())
    }

    fn qmp(&self, deadline: Instant) -> Result<Qmp> {
        Qmp::open(&self.dir.join(arguments::QMP), deadline).with_context(|| self.words())
    }

    fn words(&self) -> String {
        let words = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        format!("QEMU by hand says {:?}", words.trim())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir); // The whole folder goes at the end.
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

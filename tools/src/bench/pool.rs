//! The program that keeps VMs ready, run for the bench alone.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::host::{child::Child, patience::wait, process};

/// How many VMs are kept ready.
pub const SIZE: usize = 2;

/// For the pool to fill. The first VM may have to make the template.
const FILLING: Duration = Duration::from_secs(90);
/// A VM that is ready is paused: its process uses no CPU.
const LOOK: Duration = Duration::from_millis(100);
const IDLE_CPU: f64 = 0.005;

/// A running pool. Dropping it ends the program, which ends its VMs.
#[derive(Debug)]
pub struct Pool {
    server: Child,
    log: PathBuf,
}

impl Pool {
    /// Starts `kata-runtime factory serve` and waits until its first VMs are ready.
    pub fn start(program: &Path, config: &Path, work: &Path) -> Result<Self> {
        ensure!(program.exists(), "there is no {}, which keeps the pool", program.display());
        let log = work.join("pool.log");
        let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut command = Command::new(program);
        command.arg("--config").arg(config).args(["factory", "serve"]).env("KATA_CONF_FILE", config);
        command.stdout(Stdio::from(output.try_clone()?)).stderr(Stdio::from(output));
        let mut pool = Self { server: Child::spawn(command, Signal::SIGTERM)?, log };
        pool.fill(0)?;
        Ok(pool)
    }

    /// Waits until it is full again beside the VMs that are in use.
    pub fn fill(&mut self, in_use: usize) -> Result<()> {
        let wanted = SIZE + in_use;
        let filled = wait(FILLING, None, || {
            (self.server.has_ended() || (self.machines().len() >= wanted && self.is_idle(in_use)))
                .then_some(())
        });
        if self.server.has_ended() {
            let words = std::fs::read_to_string(&self.log).unwrap_or_default();
            bail!(
                "`kata-runtime factory serve` ended: {}",
                words.trim().lines().last().unwrap_or("without a word")
            );
        }
        filled.with_context(|| {
            format!(
                "the pool has {} VMs instead of {wanted} after {} s",
                self.machines().len(),
                FILLING.as_secs()
            )
        })
    }

    /// Its own process, and all VMs that it made and that still live.
    pub fn is_maker_of(&self, qemu: u32) -> bool {
        self.machines().contains(&qemu)
    }

    fn machines(&self) -> Vec<u32> {
        let all = process::descendants(self.server.id());
        all.into_iter().filter(|pid| process::name(*pid).starts_with("qemu-system")).collect()
    }

    /// Whether all but those in use are paused.
    fn is_idle(&self, in_use: usize) -> bool {
        let used = || -> Vec<(u32, f64)> {
            self.machines()
                .into_iter()
                .filter_map(|pid| Some((pid, process::cpu_seconds(pid).ok()?)))
                .collect()
        };
        let before = used();
        std::thread::sleep(LOOK);
        let busy = used()
            .iter()
            .filter(|(pid, seconds)| {
                before
                    .iter()
                    .find(|(other, _)| other == pid)
                    .is_none_or(|(_, then)| seconds - then > IDLE_CPU)
            })
            .count();
        busy <= in_use
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that keeps `script` running. A shell writes it: a file that this process, or a child that another test
    /// is just starting, has open for writing cannot be run.
    fn program(dir: &Path, script: &str) -> PathBuf {
        let path = dir.join("kata-runtime");
        let write = "printf '#!/bin/sh\\ncd \"%s\"\\n%s\\n' \"$1\" \"$2\" >\"$3\" && chmod 755 \"$3\"";
        let mut shell = Command::new("sh");
        shell.args(["-c", write, "sh"]).arg(dir).arg(script).arg(&path);
        assert!(shell.status().unwrap().success());
        path
    }

    #[test]
    fn a_pool_is_full_when_its_vms_wait_and_ends_with_them() {
        let dir = tempfile::tempdir().unwrap();
        let script = "cp \"$(command -v sleep)\" qemu-system-test
            for vm in 1 2; do ./qemu-system-test 60 & vms=\"$vms $!\"; done
            trap 'kill $vms' TERM
            wait; wait";
        let program = program(dir.path(), script);
        let mut pool = Pool::start(&program, Path::new("/c.toml"), dir.path()).unwrap();
        pool.fill(0).unwrap();
        let machines = pool.machines();
        assert_eq!(machines.len(), SIZE);
        assert!(pool.is_maker_of(machines[0]) && !pool.is_maker_of(std::process::id()));
        drop(pool);
        let gone = wait(FILLING, None, || {
            machines.iter().all(|pid| !process::name(*pid).starts_with("qemu-system")).then_some(())
        });
        assert!(gone.is_some(), "{machines:?} live on");
    }

    #[test]
    fn a_program_that_is_missing_or_ends_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let start =
            |program: &Path| Pool::start(program, Path::new("/c.toml"), dir.path()).unwrap_err().to_string();
        assert!(start(&dir.path().join("none")).contains("which keeps the pool"));
        let error = start(&program(dir.path(), "echo no such command >&2; exit 1"));
        assert_eq!(error, "`kata-runtime factory serve` ended: no such command");
    }
}

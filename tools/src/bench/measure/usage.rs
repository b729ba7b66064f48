//! The CPU time that the processes of a sandbox have used, split into the guest's and everybody else's.

use anyhow::Result;

use crate::bench::{
    engine::Sandbox,
    host::process::{self, Thread},
};

/// CPU seconds so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// The thread that is the guest's CPU.
    pub guest: f64,
    /// The rest of QEMU.
    pub hypervisor: f64,
    /// The shim, and the programs that it ran to their end.
    pub shim: f64,
    /// Daemons; without a VM also the container.
    pub others: f64,
}

impl Usage {
    pub fn of(sandbox: &Sandbox) -> Result<Self> {
        let mut usage = match sandbox.hypervisor {
            Some(qemu) => Self::of_qemu(qemu)?,
            None => Self::default(),
        };
        usage.shim = process::cpu_seconds(sandbox.shim)? + process::children_cpu_seconds(sandbox.shim);
        for pid in &sandbox.others {
            // One that has ended in between was waited for by the shim.
            usage.others += process::cpu_seconds(*pid).unwrap_or(0.0);
        }
        Ok(usage)
    }

    pub fn of_qemu(qemu: u32) -> Result<Self> {
        let guest = guest_cpu(qemu, &process::threads(qemu));
        Ok(Self { guest, hypervisor: (process::cpu_seconds(qemu)? - guest).max(0.0), ..Self::default() })
    }

    pub fn outside_guest(&self) -> f64 {
        self.hypervisor + self.shim + self.others
    }
}

/// What the guest's CPU has used: threads that QEMU calls so, or if it names none, the busiest beside the main one.
fn guest_cpu(qemu: u32, threads: &[Thread]) -> f64 {
    let named: Vec<f64> = threads.iter().filter(|t| t.name.starts_with("CPU ")).map(|t| t.seconds).collect();
    if !named.is_empty() {
        return named.iter().sum();
    }
    threads.iter().filter(|thread| thread.id != qemu).map(|thread| thread.seconds).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(id: u32, name: &str, seconds: f64) -> Thread {
        Thread { id, name: name.into(), seconds }
    }

    #[test]
    fn the_guests_cpu_is_named_or_the_busiest_beside_the_main_thread() {
        let unnamed = [thread(9, "qemu", 5.0), thread(10, "qemu", 0.1), thread(11, "qemu", 2.0)];
        assert_eq!(guest_cpu(9, &unnamed), 2.0);
        let named = [thread(9, "qemu", 5.0), thread(10, "CPU 0/TCG", 1.0), thread(11, "CPU 1/TCG", 0.5)];
        assert_eq!(guest_cpu(9, &named), 1.5);
        assert_eq!(guest_cpu(9, &[]), 0.0);
    }
}

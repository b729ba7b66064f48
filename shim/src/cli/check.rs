//! `check`: whether this host can run containers in VMs; what is missing, and what to do about it.

use std::path::Path;

use clap::Args;
use nix::unistd::geteuid;
use runtime::{
    config::{Accelerator, Config},
    error::{Error, Result},
};

use super::{global::Global, host};
use crate::server::kvm::Verdict;

#[derive(Debug, Args)]
pub struct Check {
    /// What only costs speed counts as well
    #[arg(short, long)]
    strict: bool,
    /// Tell what is well too
    #[arg(short, long)]
    verbose: bool,
    /// Of no effect: nothing is asked of a network
    #[arg(short, long)]
    no_network_checks: bool,
}

/// What was found out about one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Finding {
    Good(String),
    /// Works, but not as well as it could.
    Weak(String),
    Missing(String),
}

impl Check {
    pub fn run(self, global: &Global) -> Result<()> {
        let mut findings = Vec::new();
        let accelerator = match Config::find(global.config.as_deref()) {
            Ok(config) => {
                findings.push(Finding::Good(format!("configuration {}", config.path.display())));
                findings.extend(config.warnings.iter().cloned().map(Finding::Weak));
                findings.push(match host::hypervisor_version(&config.hypervisor) {
                    Ok(version) => Finding::Good(version),
                    Err(error) => Finding::Missing(error.to_string()),
                });
                config.hypervisor.accelerator
            }
            Err(error) => {
                findings.push(Finding::Missing(error.to_string()));
                Accelerator::Auto
            }
        };
        findings.push(of_kvm(host::kvm()?, accelerator));
        findings.push(of_device("/dev/net/tun", "modprobe tun", "the network cards of VMs are made with it"));
        findings.push(match host::has_vsock() {
            true => Finding::Good("vhost-vsock".into()),
            false => Finding::Good("no vhost-vsock: agents are reached by a serial port".into()),
        });
        self.tell(&findings)
    }

    fn tell(&self, findings: &[Finding]) -> Result<()> {
        let mut is_capable = true;
        for finding in findings {
            match finding {
                Finding::Good(what) if self.verbose => println!("ok: {what}"),
                Finding::Good(_) => {}
                Finding::Weak(what) => {
                    println!("warning: {what}");
                    is_capable &= !self.strict;
                }
                Finding::Missing(what) => {
                    println!("missing: {what}");
                    is_capable = false;
                }
            }
        }
        if !is_capable {
            return Err(Error::precondition("ERROR: System is not capable of running Kata Containers"));
        }
        println!("System is capable of running Kata Containers");
        if geteuid().is_root() {
            println!("System can currently create Kata Containers");
        } else {
            println!(
                "Only root can create Kata Containers; a user's Podman, or unshare --map-root-user --mount, is root"
            );
        }
        Ok(())
    }
}

fn of_kvm(verdict: Verdict, wanted: Accelerator) -> Finding {
    match (verdict, wanted) {
        (Verdict::Usable, Accelerator::Auto | Accelerator::Kvm) => Finding::Good("KVM".into()),
        (_, Accelerator::Tcg) => Finding::Weak(
            "hypervisor.qemu.accelerator = \"tcg\": guests are emulated, which is slow and no security boundary".into(),
        ),
        (Verdict::Missing(reason), Accelerator::Kvm) => Finding::Missing(format!(
            "KVM: {reason}; enable virtualization in the firmware, load kvm_intel or kvm_amd, or set accelerator = \
             \"auto\""
        )),
        (Verdict::Unusable(reason), Accelerator::Kvm) => Finding::Weak(format!("KVM is slow here: {reason}")),
        (Verdict::Missing(reason) | Verdict::Unusable(reason), Accelerator::Auto) => Finding::Weak(format!(
            "no usable KVM ({reason}): guests are emulated, which is slow and no security boundary; enable \
             virtualization in the firmware, or on the host of this VM"
        )),
    }
}

fn of_device(path: &str, remedy: &str, reason: &str) -> Finding {
    match Path::new(path).exists() {
        true => Finding::Good(path.into()),
        false => Finding::Missing(format!("{path}: {reason}; {remedy}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_is_missing_only_for_those_who_insist_on_it() {
        let missing = || Verdict::Missing("no device".into());
        assert!(matches!(of_kvm(Verdict::Usable, Accelerator::Kvm), Finding::Good(_)));
        assert!(
            matches!(of_kvm(missing(), Accelerator::Kvm), Finding::Missing(what) if what.contains("no device"))
        );
        assert!(matches!(of_kvm(missing(), Accelerator::Auto), Finding::Weak(_)));
        assert!(matches!(of_kvm(Verdict::Usable, Accelerator::Tcg), Finding::Weak(_)));
        assert!(matches!(of_device("/dev/null", "", ""), Finding::Good(_)));
        assert!(matches!(of_device("/dev/nothing", "do", "why"), Finding::Missing(_)));
    }

    #[test]
    fn a_weakness_fails_a_strict_check_alone() {
        let check = |strict| Check { strict, verbose: false, no_network_checks: false };
        let (weak, missing) = (Finding::Weak("slow".into()), Finding::Missing("gone".into()));
        assert!(check(false).tell(std::slice::from_ref(&weak)).is_ok());
        assert!(check(true).tell(&[weak]).is_err());
        assert!(check(false).tell(&[missing]).is_err());
    }
}

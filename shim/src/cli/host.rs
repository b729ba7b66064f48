//! Facts of this host, for `check` and `env`. What cannot be read is empty: these are for people.

use std::{fs, path::Path, process::Command, time::Duration};

use runtime::{
    config::HypervisorConfig,
    error::{Context, Result},
    paths::run_dir,
};

use crate::{
    executor,
    server::kvm::{self, Verdict},
};

/// Where the servers remember, below the run directory, what they have found out about KVM.
const VERDICT: &str = "vc/kvm-probe";
/// For a program that prints its version.
const PATIENCE: Duration = Duration::from_secs(10);

/// A distribution, by its own word.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    pub name: String,
    pub version: String,
}

impl Distribution {
    pub fn of_host() -> Self {
        Self::parse(&fs::read_to_string("/etc/os-release").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        Self { name: field(text, "NAME", '='), version: field(text, "VERSION_ID", '=') }
    }
}

/// The processor's vendor and model.
pub fn processor() -> (String, String) {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    (field(&text, "vendor_id", ':'), field(&text, "model name", ':'))
}

/// A figure of /proc/meminfo, in kB.
pub fn memory(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let figure = field(&text, name, ':');
    figure.trim_end_matches("kB").trim().parse().unwrap_or(0)
}

/// The running kernel's release.
pub fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// Whether the host has a vsock for guests.
pub fn has_vsock() -> bool {
    Path::new("/dev/vhost-vsock").exists()
}

/// Whether KVM runs guests.
pub fn kvm() -> Result<Verdict> {
    Ok(executor::small()?.block_on(kvm::probe(&run_dir().join(VERDICT))))
}

/// The first line of what the hypervisor says of its version.
pub fn hypervisor_version(config: &HypervisorConfig) -> Result<String> {
    executor::small()?.block_on(async {
        let asked = tokio::process::Command::from(Command::new(&config.path))
            .arg("--version")
            .kill_on_drop(true)
            .output();
        let failed = || format!("{} --version", config.path.display());
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        let answer = answer
            .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut)))
            .with_context(failed)?;
        Ok(String::from_utf8_lossy(&answer.stdout).lines().next().unwrap_or_default().to_owned())
    })
}

/// The value of the first line with that name, without quotes.
fn field(text: &str, name: &str, separator: char) -> String {
    let values = text.lines().filter_map(|line| line.split_once(separator));
    let mut named = values.filter(|(key, _)| key.trim() == name);
    named.next().map_or("", |(_, value)| value.trim().trim_matches('"')).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_is_read_from_its_own_file() {
        let text =
            "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\n";
        let wanted = Distribution { name: "Debian GNU/Linux".into(), version: "12".into() };
        assert_eq!(Distribution::parse(text), wanted);
        assert_eq!(Distribution::parse(""), Distribution::default());
    }

    #[test]
    fn this_host_has_memory_and_a_kernel() {
        assert!(memory("MemTotal") > memory("MemFree"));
        assert!(kernel().starts_with(|c: char| c.is_ascii_digit()));
    }
}

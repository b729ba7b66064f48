//! Network namespaces that the bench makes, and threads in them.

use std::{
    fs::File,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use super::command;

const DEADLINE: Duration = Duration::from_secs(20);
const PLACE: &str = "/run/netns";

/// A named network namespace. Dropping it removes it, with the links in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// With nothing but its loopback.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = Self { name: format!("kata-bench-{}-{number}", std::process::id()) };
        ip(&format!("netns add {}", namespace.name))?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from(PLACE).join(&self.name)
    }

    /// Runs `ip` in it.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        ip(&format!("-n {} {arguments}", self.name))
    }

    /// Runs `work` on a thread in it.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = File::open(self.path()).with_context(|| format!("open {}", self.path().display()))?;
        let enter = || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).context("enter a network namespace")?;
            work()
        };
        // The thread ends in the namespace.
        let joined = thread::scope(|scope| scope.spawn(enter).join());
        joined.map_err(|_| anyhow!("a thread in a network namespace panicked"))?
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&format!("netns del {}", self.name)); // It was not made, then.
    }
}

fn ip(arguments: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(arguments.split_ascii_whitespace());
    command::run(command, DEADLINE).map(drop).with_context(|| format!("ip {arguments}"))
}

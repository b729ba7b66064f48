//! Ending a server that nobody talks to any more, and making sure that it is the right one.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use runtime::{
    error::{Context, Result},
    ledger::ProcessId,
};

use crate::flags::{Action, Flags};

/// How long a server that is on its way out may take. containerd gives `delete` five seconds in all.
const GRACE: Duration = Duration::from_millis(1500);
const KILL_DEADLINE: Duration = Duration::from_secs(2);

/// A process's working directory, which is its bundle where it is a server.
fn works_in(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// What procfs calls a directory that was removed.
fn gone(dir: &Path) -> PathBuf {
    let mut gone = dir.as_os_str().to_owned();
    gone.push(" (deleted)");
    gone.into()
}

/// The server of one container, alive when it was looked at.
#[derive(Debug)]
pub struct Server {
    process: ProcessId,
}

impl Server {
    /// The living process `pid`, if it serves container `id` of `namespace` in `bundle`.
    pub fn find(pid: u32, namespace: &str, id: &str, bundle: &Path) -> Option<Self> {
        let process = ProcessId::of(pid).ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let mut words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        words.next(); // The program may be installed under any name.
        let flags = Flags::parse(words).ok()?;
        let ours = match flags.action {
            Action::Serve => {
                flags.id == id && flags.namespace == namespace && Path::new(&flags.bundle) == bundle
            }
            // Its command line is of before it was anybody's.
            Action::StandBy => works_in(pid).is_some_and(|dir| dir == bundle || dir == gone(bundle)),
            _ => false,
        };
        (ours && process.is_alive()).then_some(Self { process })
    }

    /// Those of container `id` whose bundle is gone from `bundle`: containerd knows of them no more.
    pub fn forgotten(namespace: &str, id: &str, bundle: &Path) -> Vec<Self> {
        let gone = gone(bundle);
        let is_gone = |pid: &u32| works_in(*pid).is_some_and(|dir| dir == gone);
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(is_gone).filter_map(|pid| Self::find(pid, namespace, id, bundle)).collect()
    }

    /// Waits until it has ended, killing it if it does not by itself. One that still `serves` is not waited for.
    pub fn end(self, serves: bool) -> Result<()> {
        let patience = if serves { Duration::ZERO } else { GRACE };
        self.process.end(patience, KILL_DEADLINE).context("end the server")
    }
}

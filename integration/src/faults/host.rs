//! What of a run is still on the host: processes, mounts, files, cgroups.

use std::{
    fmt, fs,
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{cgroups::everywhere, remains};

/// In the environment of what would be in the guest, with the run's folder.
pub const GUEST_MARK: &str = "FAULTS_GUEST";
/// For processes that are dying.
const LAST_BREATH: Duration = Duration::from_secs(5);

/// Everything that should not be there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftovers(pub Vec<String>);

impl Leftovers {
    /// What there is of a run in `root`, whose cgroups have `group` in their names. What is dying is waited for.
    pub fn of(root: &Path, group: &str) -> Self {
        let began = Instant::now();
        let processes = loop {
            let processes = processes(root);
            if processes.is_empty() || began.elapsed() > LAST_BREATH {
                break processes;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut left: Vec<String> = processes.iter().map(|line| format!("process {line}")).collect();
        left.extend(remains::below(root).iter().map(|path| path.display().to_string()));
        left.extend(
            everywhere(group).filter(|path| path.exists()).map(|path| format!("cgroup {}", path.display())),
        );
        Self(left)
    }

    /// Ends what runs as if it were in the guest of that run: where the VM is real, it goes with it.
    pub fn end_guest(root: &Path) {
        let mark = format!("{GUEST_MARK}={}", root.display());
        for (pid, _) in marked(&mark) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL); // It may have ended.
        }
    }
}

impl fmt::Display for Leftovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// Processes that have `mark` in their environment or command line: pid and command line.
fn marked(mark: &str) -> Vec<(i32, String)> {
    let contains = |bytes: &[u8]| bytes.windows(mark.len()).any(|part| part == mark.as_bytes());
    let entries = fs::read_dir("/proc").expect("read /proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| *pid != std::process::id() as i32)
        .filter_map(|pid| {
            let read = |file| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let line = read("cmdline");
            let shown = String::from_utf8_lossy(&line).replace('\0', " ");
            (contains(&line) || contains(&read("environ"))).then_some((pid, format!("{pid} {shown}")))
        })
        .collect()
}

fn processes(root: &Path) -> Vec<String> {
    let guest = marked(&format!("{GUEST_MARK}={}", root.display()));
    let all = marked(&root.display().to_string());
    all.into_iter().filter(|process| !guest.contains(process)).map(|(_, line)| line).collect()
}

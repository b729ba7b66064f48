//! The cgroup that an engine names for a sandbox or a container on the host: who is put into it, and how they come out
//! again. And the group of a sandbox's helpers, which is there for being killed as a whole.
//!
//! Files only: versions 1 and 2 differ in where the hierarchies are, and systemd's names stand for paths.

use std::{
    fmt, fs, io,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::signal::{self, Signal},
    unistd::Pid,
};

use crate::error::{Context, Error, Result};

const ROOT: &str = "/sys/fs/cgroup";
pub(crate) const PROCESSES: &str = "cgroup.procs";
/// Ends all in a group of version 2.
const KILL: &str = "cgroup.kill";
/// What a group of CPU sets must have before anybody can be in it.
const CPU_SETS: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];
const COUNTS_BELOW: &str = "cgroup.subtree_control";
/// What figures are read of, which version 2 counts only in groups whose parent has it do so.
const COUNTED: [&str; 4] = ["cpu", "io", "memory", "pids"];
/// How long processes that were killed may take to leave.
const DEADLINE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);

/// What a spec's `linux.cgroupsPath` names: a group in each hierarchy.
#[derive(Debug)]
pub(crate) struct Group {
    name: PathBuf,
    below: PathBuf,
    /// The root of each, and this process's own group there.
    hierarchies: Vec<(PathBuf, PathBuf)>,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux.cgroupsPath {}", self.name.display())
    }
}

impl Group {
    /// An error names the field.
    pub fn named(name: PathBuf) -> Result<Self> {
        let below = place(&name).with_context(|| format!("linux.cgroupsPath {}", name.display()))?;
        let memberships = fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
        Ok(Self { name, below, hierarchies: hierarchies(Path::new(ROOT), &memberships) })
    }

    fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.iter().map(|(hierarchy, _)| hierarchy.join(&self.below))
    }

    /// Whether there are processes in it.
    pub fn has_members(&self) -> bool {
        self.paths().any(|path| members(&path).is_ok_and(|inside| !inside.is_empty()))
    }

    /// Where it is in the hierarchy that has the controller.
    pub fn path(&self, controller: &str) -> Option<PathBuf> {
        let (hierarchy, _) = self.hierarchies.iter().find(|(one, _)| has_controller(one, controller))?;
        Some(hierarchy.join(&self.below))
    }

    /// Makes it and puts the processes there. What [`remove`] needs is handed to `claim` before each hierarchy's is made.
    /// Blocks.
    pub fn enter(
        &self,
        processes: &[u32],
        mut claim: impl FnMut(PathBuf, PathBuf) -> Result<()>,
    ) -> Result<()> {
        for (hierarchy, home) in &self.hierarchies {
            let path = hierarchy.join(&self.below);
            claim(path.clone(), home.clone())?;
            make(hierarchy, &self.below)
                .and_then(|()| {
                    processes.iter().try_for_each(|pid| fs::write(path.join(PROCESSES), pid.to_string()))
                })
                .with_context(|| format!("join {}", path.display()))
                .with_context(|| self.to_string())?;
        }
        Ok(())
    }
}

/// Sends whoever is in the group at `path` to `home`, and removes it. One that is gone counts as removed.
pub(crate) fn remove(path: &Path, home: &Path) -> io::Result<()> {
    let began = Instant::now();
    loop {
        let inside = match members(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            read => read?,
        };
        for pid in inside {
            match fs::write(home.join(PROCESSES), pid.to_string()) {
                // It has ended.
                Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => {}
                moved => moved?,
            }
        }
        match fs::remove_dir(path) {
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) && began.elapsed() < DEADLINE => {
                thread::sleep(PAUSE);
            }
            removed => return removed,
        }
    }
}

/// Makes a group of that name below this process's own, for processes that are born in it, and opens it. `claim` is
/// handed its path before. None where there are no groups of version 2, or none can be made. Blocks.
pub(crate) fn nest(name: &str, claim: impl FnOnce(PathBuf) -> Result<()>) -> Result<Option<OwnedFd>> {
    let memberships = fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
    let Some(home) = own_of_version_2(Path::new(ROOT), &memberships) else { return Ok(None) };
    let path = home.join(name);
    claim(path.clone())?;
    match fs::create_dir(&path).and_then(|()| fs::File::open(&path)) {
        Ok(group) => Ok(Some(group.into())),
        Err(error) => {
            tracing::debug!(%error, path = %path.display(), "helpers are in no group of their own");
            Ok(None)
        }
    }
}

/// Kills whoever is in the group at `path`, and removes it. One that is gone counts as removed.
pub(crate) fn kill(path: &Path, patience: Duration) -> io::Result<()> {
    let began = Instant::now();
    loop {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) && began.elapsed() < patience => {
            }
            removed => return removed,
        }
        kill_all(path)?;
        thread::sleep(PAUSE);
    }
}

fn kill_all(path: &Path) -> io::Result<()> {
    match fs::write(path.join(KILL), "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        killed => return killed,
    }
    // Kernels before 5.14.
    for pid in members(path)? {
        let _ = signal::kill(Pid::from_raw(pid), Signal::SIGKILL); // It may have ended.
    }
    Ok(())
}

/// The processes in the group at `path`. One of another pid namespace has the number 0 here, which means oneself to who is
/// told it, and is left out.
pub(crate) fn members(path: &Path) -> io::Result<Vec<i32>> {
    let text = fs::read_to_string(path.join(PROCESSES))?;
    Ok(text.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid > 0).collect())
}

fn own_of_version_2(root: &Path, memberships: &str) -> Option<PathBuf> {
    // Beside those of version 1, without controllers.
    let beside = root.join("unified");
    let hierarchy = [root, &beside].into_iter().find(|dir| dir.join("cgroup.controllers").exists())?;
    let group = memberships.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(home_in(hierarchy, group))
}

/// This process's group in the hierarchy that has the controller.
pub(crate) fn own(controller: &str) -> Option<PathBuf> {
    of(std::process::id(), controller)
}

/// A process's group there; none once it has ended.
pub(crate) fn of(pid: u32, controller: &str) -> Option<PathBuf> {
    let memberships = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    own_of(Path::new(ROOT), &memberships, controller)
}

fn own_of(root: &Path, memberships: &str, controller: &str) -> Option<PathBuf> {
    let mut all = hierarchies(root, memberships).into_iter();
    all.find(|(hierarchy, _)| has_controller(hierarchy, controller)).map(|(_, group)| group)
}

/// Of version 2, which has them all, or of version 1, named after its own.
fn has_controller(hierarchy: &Path, controller: &str) -> bool {
    let name = hierarchy.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.split(',').any(|name| name == controller) || hierarchy.join("cgroup.controllers").exists()
}

/// Where the group of that name is below a hierarchy's root.
fn place(name: &Path) -> Result<PathBuf> {
    let text = name.to_str().unwrap_or_default();
    let below = match text.split(':').collect::<Vec<_>>()[..] {
        [slice, prefix, name] if !text.starts_with('/') => {
            let unit = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}-{name}") };
            let scope = if unit.ends_with(".slice") { unit } else { format!("{unit}.scope") };
            slice_path(slice)?.join(scope)
        }
        _ => name.strip_prefix("/").unwrap_or(name).to_path_buf(),
    };
    let plain = below.components().all(|part| matches!(part, Component::Normal(_)));
    match plain && below.components().next().is_some() {
        true => Ok(below),
        false => Err(Error::invalid("it names no group below the root")),
    }
}

/// `a-b.slice` is below `a.slice`.
fn slice_path(slice: &str) -> Result<PathBuf> {
    let slice = if slice.is_empty() { "system.slice" } else { slice };
    let stem =
        slice.strip_suffix(".slice").ok_or_else(|| Error::invalid(format!("{slice:?} is no slice")))?;
    if stem == "-" {
        return Ok(PathBuf::new());
    }
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    Ok(ends.map(|end| format!("{}.slice", &stem[..end])).collect())
}

/// Each hierarchy's root, and this process's group in it.
fn hierarchies(root: &Path, memberships: &str) -> Vec<(PathBuf, PathBuf)> {
    let unified = root.join("cgroup.controllers").exists();
    let lines = memberships.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let wanted = lines.filter_map(|(controllers, group)| match controllers {
        "" if unified => Some((root.to_path_buf(), group)),
        "" => None,
        // Without controllers: somebody's own.
        named if named.starts_with("name=") => None,
        controllers => Some((root.join(controllers), group)),
    });
    wanted
        .filter(|(hierarchy, _)| hierarchy.join(PROCESSES).exists())
        .map(|(hierarchy, group)| {
            let home = home_in(&hierarchy, group);
            (hierarchy, home)
        })
        .collect()
}

/// Where that group of this process's is. What is shown from another cgroup namespace is not below the root.
fn home_in(hierarchy: &Path, group: &str) -> PathBuf {
    let home = hierarchy.join(group.trim_start_matches('/'));
    if home.join(PROCESSES).exists() { home } else { hierarchy.to_path_buf() }
}

/// Makes the group and what is above it.
fn make(hierarchy: &Path, below: &Path) -> io::Result<()> {
    let mut path = hierarchy.to_path_buf();
    for part in below.components() {
        let above = path.clone();
        count_below(&above);
        path.push(part);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        for file in CPU_SETS {
            // Version 1 begins with none.
            if fs::read_to_string(path.join(file)).is_ok_and(|set| set.trim().is_empty())
                && let Ok(set) = fs::read_to_string(above.join(file))
                && !hierarchy.join("cgroup.controllers").exists()
            {
                fs::write(path.join(file), set)?;
            }
        }
    }
    Ok(())
}

/// Has a group of version 2 count what those below it use. One that has processes of its own cannot.
fn count_below(group: &Path) {
    let words = |file: &str| fs::read_to_string(group.join(file)).unwrap_or_default();
    let (all, counted) = (words("cgroup.controllers"), words(COUNTS_BELOW));
    let has = |words: &str, name: &str| words.split_whitespace().any(|word| word == name);
    for name in COUNTED.into_iter().filter(|name| has(&all, name) && !has(&counted, name)) {
        if let Err(error) = fs::write(group.join(COUNTS_BELOW), format!("+{name}")) {
            tracing::debug!(%error, group = %group.display(), name, "not counted below");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_or_systemds() {
        for (name, expected) in [
            ("/kubepods/burstable/pod1/c1", "kubepods/burstable/pod1/c1"),
            ("default/c1", "default/c1"),
            (
                "kubepods-burstable-pod_1.slice:cri-containerd:c1",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod_1.slice/cri-containerd-c1.scope",
            ),
            (":docker:c1", "system.slice/docker-c1.scope"),
            ("-.slice::c1", "c1.scope"),
            ("/with:colons:in/it", "with:colons:in/it"),
        ] {
            assert_eq!(place(Path::new(name)).unwrap(), Path::new(expected), "{name}");
        }
        for name in ["", "/", "/a/../../b", "a:b:c", "a.slice::../c"] {
            assert!(place(Path::new(name)).is_err(), "{name}");
        }
    }

    #[test]
    fn hierarchies_are_found_in_both_versions() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            fs::create_dir_all(root.path().join(path)).unwrap();
            fs::write(root.path().join(path).join(PROCESSES), "").unwrap();
            root.path().join(path)
        };
        let (memory, shims, cpu) = (make("memory"), make("memory/shims"), make("cpu,cpuacct"));
        make("unified");
        let memberships = "9:name=systemd:/x\n4:memory:/shims\n3:pids:/\n1:cpu,cpuacct:/not/here\n0::/\n";
        let expected = [(memory.clone(), shims.clone()), (cpu.clone(), cpu.clone())];
        assert_eq!(hierarchies(root.path(), memberships), expected);
        for (controller, expected) in [("memory", Some(shims)), ("cpuacct", Some(cpu)), ("pids", None)] {
            assert_eq!(own_of(root.path(), memberships, controller), expected, "{controller}");
        }

        fs::write(root.path().join("cgroup.controllers"), "cpu memory").unwrap();
        let shims = make("shims");
        make(".");
        assert_eq!(hierarchies(root.path(), "0::/shims\n"), [(root.path().to_path_buf(), shims.clone())]);
        assert_eq!(own_of(root.path(), "0::/shims\n", "memory"), Some(shims));
    }

    #[test]
    fn a_new_group_of_version_1_has_the_cpus_of_the_one_above() {
        let root = tempfile::tempdir().unwrap();
        let below = Path::new("a/b");
        for dir in ["", "a", "a/b"] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
            for file in CPU_SETS {
                fs::write(root.path().join(dir).join(file), if dir.is_empty() { "0-3\n" } else { "\n" })
                    .unwrap();
            }
        }
        make(root.path(), below).unwrap();
        for file in CPU_SETS {
            assert_eq!(fs::read_to_string(root.path().join(below).join(file)).unwrap(), "0-3\n");
        }
    }

    #[test]
    fn a_group_of_version_2_is_counted_by_those_above() {
        let root = tempfile::tempdir().unwrap();
        for (dir, counted) in [("", "cpuset memory pids"), ("a", ""), ("a/b", "")] {
            let dir = root.path().join(dir);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("cgroup.controllers"), "cpuset memory pids\n").unwrap();
            fs::write(dir.join(COUNTS_BELOW), counted).unwrap();
        }
        make(root.path(), Path::new("a/b")).unwrap();
        let counted = |dir: &str| fs::read_to_string(root.path().join(dir).join(COUNTS_BELOW)).unwrap();
        // A file keeps what was written last; the kernel adds it up.
        assert_eq!(["", "a", "a/b"].map(counted), ["cpuset memory pids", "+pids", ""]);
    }

    #[test]
    fn what_is_gone_is_removed() {
        let root = tempfile::tempdir().unwrap();
        remove(&root.path().join("x"), root.path()).unwrap();
    }
}

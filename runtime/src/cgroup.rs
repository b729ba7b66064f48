//! The cgroup that an engine names for a sandbox on the host: who is put into it, and how they come out again.
//!
//! Everything that serves the sandbox runs in it then, so that a pod's limits and figures are about the whole of it.
//! Files only: versions 1 and 2 differ in where the hierarchies are, and systemd's names stand for paths.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use crate::error::{Context, Error, Result};

const ROOT: &str = "/sys/fs/cgroup";
const PROCESSES: &str = "cgroup.procs";
/// What a group of CPU sets must have before anybody can be in it.
const CPU_SETS: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];
/// How long processes that were killed may take to leave.
const DEADLINE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);

/// Puts the processes into the group that a spec calls `name`. What [`remove`] needs is handed to `claim` before each
/// hierarchy's is made. Blocks.
pub(crate) fn enter(
    name: &Path,
    processes: &[u32],
    claim: impl Fn(PathBuf, PathBuf) -> Result<()>,
) -> Result<()> {
    let what = || format!("linux.cgroupsPath {}", name.display());
    let below = place(name).with_context(what)?;
    let memberships = fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
    for (hierarchy, home) in hierarchies(Path::new(ROOT), &memberships) {
        let path = hierarchy.join(&below);
        claim(path.clone(), home)?;
        make(&hierarchy, &below)
            .and_then(|()| {
                processes.iter().try_for_each(|pid| fs::write(path.join(PROCESSES), pid.to_string()))
            })
            .with_context(|| format!("join {}", path.display()))
            .with_context(what)?;
    }
    Ok(())
}

/// Sends whoever is in the group at `path` to `home`, and removes it. One that is gone counts as removed.
pub(crate) fn remove(path: &Path, home: &Path) -> io::Result<()> {
    let began = Instant::now();
    loop {
        let inside = match fs::read_to_string(path.join(PROCESSES)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            read => read?,
        };
        for pid in inside.lines() {
            match fs::write(home.join(PROCESSES), pid) {
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

/// This process's group in the hierarchy that has the controller.
pub(crate) fn own(controller: &str) -> Option<PathBuf> {
    let memberships = fs::read_to_string("/proc/self/cgroup").ok()?;
    own_of(Path::new(ROOT), &memberships, controller)
}

fn own_of(root: &Path, memberships: &str, controller: &str) -> Option<PathBuf> {
    let has_it = |hierarchy: &Path| {
        let name = hierarchy.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        hierarchy == root || name.split(',').any(|name| name == controller)
    };
    let found = hierarchies(root, memberships).into_iter().find(|(hierarchy, _)| has_it(hierarchy));
    found.map(|(_, group)| group)
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
            let home = hierarchy.join(group.trim_start_matches('/'));
            // What is shown from another cgroup namespace is not below this root.
            let home = if home.join(PROCESSES).exists() { home } else { hierarchy.clone() };
            (hierarchy, home)
        })
        .collect()
}

/// Makes the group and what is above it.
fn make(hierarchy: &Path, below: &Path) -> io::Result<()> {
    let mut path = hierarchy.to_path_buf();
    for part in below.components() {
        let above = path.clone();
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
    fn what_is_gone_is_removed() {
        let root = tempfile::tempdir().unwrap();
        remove(&root.path().join("x"), root.path()).unwrap();
    }
}

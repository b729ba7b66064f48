//! Groups of processes on the host: those that engines make for pods, and those that a sandbox runs in.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::place::unique;

const ROOT: &str = "/sys/fs/cgroup";
/// A limit of memory, by version.
const LIMITS: [&str; 2] = ["memory.max", "memory.limit_in_bytes"];

/// Where a group of that name is or would be: below the root of each hierarchy, of either version.
pub fn everywhere(name: &str) -> impl Iterator<Item = PathBuf> {
    let roots = fs::read_dir(ROOT).into_iter().flatten().flatten().map(|root| root.path());
    roots.chain([ROOT.into()]).map(move |root| root.join(name))
}

/// Removes the groups of that name and those below them, as far as nobody is in them; whether all are gone.
pub fn remove_everywhere(name: &str) -> bool {
    let groups: Vec<_> = everywhere(name).collect();
    groups.iter().for_each(|group| remove(group));
    !groups.iter().any(|group| group.exists())
}

fn remove(group: &Path) {
    for below in fs::read_dir(group).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        remove(&below.path());
    }
    let _ = fs::remove_dir(group); // There is none in most hierarchies.
}

/// A pod's cgroup, as the kubelet makes it: in each hierarchy of the host's. Gone when dropped.
pub struct Parent {
    pub name: String,
    dirs: Vec<PathBuf>,
}

impl Parent {
    /// With a name that no other has.
    pub fn make() -> Self {
        let name = format!("kt-pod-{}", unique());
        let root = Path::new(ROOT);
        let hierarchies = match root.join("cgroup.controllers").exists() {
            true => vec![root.to_path_buf()],
            false => ["cpu", "cpuacct", "memory", "pids"].map(|controller| root.join(controller)).into(),
        };
        let dirs: Vec<_> = hierarchies.iter().map(|dir| dir.join(&name)).collect();
        for dir in &dirs {
            fs::create_dir(dir).expect("make a cgroup");
        }
        Self { name, dirs }
    }

    /// The processes of a group below it, in every hierarchy the same.
    pub fn members(&self, group: &str) -> Vec<i32> {
        let read = |dir: &PathBuf| {
            let text =
                fs::read_to_string(dir.join(group).join("cgroup.procs")).expect("there is such a group");
            let mut pids: Vec<i32> = text.lines().map(|pid| pid.parse().expect("a pid")).collect();
            pids.sort_unstable();
            pids
        };
        let first = read(&self.dirs[0]);
        assert!(self.dirs.iter().all(|dir| read(dir) == first));
        first
    }

    /// The one that counts memory.
    pub fn memory(&self) -> &Path {
        let found = self.dirs.iter().find(|dir| LIMITS.iter().any(|file| dir.join(file).exists()));
        found.expect("a hierarchy for memory")
    }

    /// Whether there is such a group below it.
    pub fn has(&self, group: &str) -> bool {
        self.dirs.iter().any(|dir| dir.join(group).exists())
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        for dir in everywhere(&self.name) {
            let _ = fs::remove_dir(dir); // The test has said what is wrong.
        }
    }
}

/// The groups of helpers of the sandboxes of that name, with the pids of their owners. Shims of tests make them below the
/// tests' own.
pub fn of_helpers(id: &str) -> Vec<(PathBuf, u32)> {
    let memberships = fs::read_to_string("/proc/self/cgroup").expect("read /proc/self/cgroup");
    let own = memberships.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let root = Path::new(ROOT);
    let hierarchy = [root.to_path_buf(), root.join("unified")]
        .into_iter()
        .find(|dir| dir.join("cgroup.controllers").exists());
    let dir = hierarchy.map(|dir| dir.join(own.trim_start_matches('/')));
    let groups = dir.and_then(|dir| fs::read_dir(dir).ok()).into_iter().flatten().flatten();
    let named = groups.filter_map(|group| {
        let name = group.file_name().into_string().ok()?;
        let owner = name.strip_prefix(&format!("kata-{id}-"))?.parse().ok()?;
        Some((group.path(), owner))
    });
    named.collect()
}

/// The group in which the kernel counts a process's memory.
#[derive(Debug, Clone)]
pub struct MemoryGroup {
    pub path: PathBuf,
    is_v2: bool,
}

impl MemoryGroup {
    /// The one of a running process.
    pub fn of(pid: u32) -> Self {
        let memberships = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the process runs");
        let root = Path::new(ROOT);
        let below = |controller: &str| {
            let mut fields = memberships.lines().map(|line| line.splitn(3, ':').skip(1));
            fields.find_map(|mut fields| (fields.next()? == controller).then(|| fields.next())?)
        };
        let is_v2 = root.join("cgroup.controllers").exists();
        let (hierarchy, controller) = if is_v2 { (root.into(), "") } else { (root.join("memory"), "memory") };
        let group = below(controller).expect("the process is in a group");
        Self::at(&hierarchy.join(group.trim_start_matches('/')))
    }

    /// The one at that path.
    pub fn at(path: &Path) -> Self {
        Self { path: path.into(), is_v2: path.join(LIMITS[0]).exists() }
    }

    /// In bytes.
    pub fn usage(&self) -> u64 {
        let file = if self.is_v2 { "memory.current" } else { "memory.usage_in_bytes" };
        let text = fs::read_to_string(self.path.join(file)).expect("read the group's use");
        text.trim().parse().expect("a number")
    }

    /// In bytes. Not one's own group's: whoever runs the tests lives in that.
    pub fn limit_to(&self, bytes: u64) {
        assert_ne!(self.path, Self::of(std::process::id()).path, "the sandbox has no group of its own");
        let file = if self.is_v2 { LIMITS[0] } else { LIMITS[1] };
        fs::write(self.path.join(file), bytes.to_string()).expect("set the group's limit");
    }
}

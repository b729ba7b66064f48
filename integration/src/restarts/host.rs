//! What is on the host of one container, wherever it is to be found.

use std::{
    fs,
    path::{Path, PathBuf},
};

use shim::shim::Address;

use crate::containerd::Containerd;

/// Deeper than any cgroup that is made for a container here.
const DEPTH: usize = 4;

/// Everything that should not be there once the container is removed.
pub fn left(containerd: &Containerd, id: &str) -> Vec<String> {
    let mut left = containerd.remains(id);
    let bundle = bundle(containerd, id);
    let socket = Address::of(
        Path::new("/run/containerd/s"),
        &containerd.socket().display().to_string(),
        containerd.namespace(),
        id,
    );
    let socket = PathBuf::from(socket.to_string().trim_start_matches("unix://"));
    left.extend(
        [bundle, socket].into_iter().filter(|path| path.exists()).map(|path| path.display().to_string()),
    );
    cgroups(Path::new("/sys/fs/cgroup"), id, DEPTH, &mut left);
    left
}

/// containerd's folder for it.
pub fn bundle(containerd: &Containerd, id: &str) -> PathBuf {
    let tasks = containerd.dir().join("state/io.containerd.runtime.v2.task");
    tasks.join(containerd.namespace()).join(id)
}

fn cgroups(dir: &Path, id: &str, depth: usize, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().contains(id) {
            found.push(format!("cgroup {}", entry.path().display()));
        } else if depth > 1 {
            cgroups(&entry.path(), id, depth - 1, found);
        }
    }
}

//! What sandboxes leave below a root of their own, and how a test that failed half-way is rid of it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, umount2};

const MOUNTS: &str = "/proc/self/mountinfo";

/// Mounts below `root`, and what lies in the folders that are there for all sandboxes.
pub fn below(root: &Path) -> Vec<PathBuf> {
    let dirs = ["vc/sbs", "vc/vm", "kata-containers/shared/sandboxes"];
    let entries = dirs.iter().flat_map(|dir| fs::read_dir(root.join(dir)).into_iter().flatten().flatten());
    let mounts_now = fs::read_to_string(MOUNTS).expect("read the mounts");
    mounts(&mounts_now, root).into_iter().chain(entries.map(|entry| entry.path())).collect()
}

/// Takes every mount off that would keep the folder.
pub fn unmount(root: &Path) {
    let mounts_now = fs::read_to_string(MOUNTS).unwrap_or_default();
    for point in mounts(&mounts_now, root).iter().rev() {
        let _ = umount2(point, MntFlags::MNT_DETACH); // The next test has another folder.
    }
}

/// In the order in which they were made.
fn mounts(mounts: &str, root: &Path) -> Vec<PathBuf> {
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| point.starts_with(root)).collect()
}

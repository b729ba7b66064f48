//! Names in the shared tree, each for one thing only.
//!
//! A guest knows what a name stands for until it asks again: for a second by virtiofs, for a day where `virtio_fs_cache` is
//! `always`. Another thing of that name would meanwhile be the former one. And once the guest's kernel learns of the change,
//! it takes away all that is mounted below, as from under a running container (`d_invalidate` of fs/dcache.c).

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

/// Of the names that are remembered. A pod whose containers come and go for years takes no more memory than this.
const LIMIT: usize = 4096;

/// What was shown to one guest so far.
#[derive(Debug, Default)]
pub(super) struct Names {
    shown: HashSet<PathBuf>,
    others: u64,
}

impl Names {
    /// `name`, if nothing had it so far; else a place below a directory that no container can be named after.
    pub fn fresh(&mut self, name: &Path) -> PathBuf {
        if self.shown.len() < LIMIT && self.shown.insert(name.into()) {
            return name.into();
        }
        self.others += 1;
        Path::new(&format!("@{}", self.others)).join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_comes_twice() {
        let mut names = Names::default();
        let given =
            ["a/rootfs", "a-1", "a/rootfs", "a/rootfs", "a-1"].map(|name| names.fresh(Path::new(name)));
        assert_eq!(given, ["a/rootfs", "a-1", "@1/a/rootfs", "@2/a/rootfs", "@3/a-1"].map(PathBuf::from));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut names = Names::default();
        let all: HashSet<_> = (0..2 * LIMIT).map(|n| names.fresh(Path::new(&n.to_string()))).collect();
        assert_eq!((all.len(), names.shown.len()), (2 * LIMIT, LIMIT));
    }
}

//! The limit of open files: this process's own, and that of a container whose spec names none.
//!
//! runc's containers inherit the limit that their engine was given. A guest's kernel gives its processes another, so
//! what this process was given goes along with the spec.

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process};

/// The guest's kernel grants no more: the default of `fs.nr_open`.
const MOST: u64 = 1 << 20;

/// Soft and hard.
static GIVEN: OnceLock<Option<(u64, u64)>> = OnceLock::new();

/// Raises this process's limit to what it may have, for a sandbox with many streams; a child inherits it. To be called
/// before the first container.
pub fn raise() {
    let Some((soft, hard)) = given() else { return };
    if soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, soft, hard, "raise the limit of open files");
    }
}

/// Adds the limit that this process was given, if `process` names none.
pub(crate) fn inherit(process: &mut Process) {
    let Some((soft, hard)) = given() else { return };
    let mut limits = process.rlimits().clone().unwrap_or_default();
    if limits.iter().any(|limit| limit.typ() == PosixRlimitType::RlimitNofile) {
        return;
    }
    limits.push(open_files(soft.min(MOST), hard.min(MOST)));
    process.set_rlimits(Some(limits));
}

fn open_files(soft: u64, hard: u64) -> PosixRlimit {
    let limit = PosixRlimitBuilder::default().typ(PosixRlimitType::RlimitNofile).soft(soft).hard(hard);
    limit.build().expect("every field has a default")
}

fn given() -> Option<(u64, u64)> {
    *GIVEN.get_or_init(|| getrlimit(Resource::RLIMIT_NOFILE).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_added_once_and_a_named_one_stays() {
        let named = open_files(7, 9);
        let mut process = Process::default();
        process.set_rlimits(Some(vec![named]));
        inherit(&mut process);
        assert_eq!(process.rlimits(), &Some(vec![named]));

        process.set_rlimits(None);
        inherit(&mut process);
        inherit(&mut process);
        let limits = process.rlimits().clone().unwrap();
        let (soft, hard) = given().unwrap();
        assert_eq!(limits.len(), 1);
        assert_eq!((limits[0].soft(), limits[0].hard()), (soft.min(MOST), hard.min(MOST)));
    }
}

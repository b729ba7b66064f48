//! Files of the host that are written between a container's making and its start.
//!
//! Podman 5 mounts an empty /etc/hosts and fills it in when the network is there. The guest's kernel believes for a second
//! what it heard of a shared file when it was mounted: to a program that reads it at once it would still be empty.

use std::{
    ffi::CString,
    mem::MaybeUninit,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use nix::{errno::Errno, libc};
use oci_spec::runtime::Mount;

/// What the host may have changed meanwhile: the sources of bind mounts.
pub fn sources(mounts: &[Mount]) -> Vec<PathBuf> {
    let bind = |mount: &&Mount| mount.typ().as_deref() == Some("bind");
    mounts.iter().filter(bind).filter_map(|mount| mount.source().clone()).collect()
}

/// Has the kernel ask anew how they are.
pub fn look_again(sources: &[PathBuf]) {
    for source in sources {
        if let Err(errno) = ask(source) {
            // What is mounted stays so, whatever became of its name.
            tracing::debug!(source = %source.display(), %errno, "look at a mount's source again");
        }
    }
}

fn ask(path: &Path) -> nix::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    let mut found = MaybeUninit::<libc::statx>::uninit();
    // SAFETY: `path` ends with a zero, and the kernel writes one `statx` to where there is room for one.
    let done = unsafe {
        libc::statx(
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_STATX_FORCE_SYNC,
            libc::STATX_BASIC_STATS,
            found.as_mut_ptr(),
        )
    };
    Errno::result(done).map(drop)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::MountBuilder;

    use super::*;

    #[test]
    fn bind_mounts_are_asked_for_and_one_that_is_gone_is_no_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mount = |typ: &str, source: &Path| {
            MountBuilder::default().destination("/x").typ(typ).source(source).build().unwrap()
        };
        let mounts = [mount("bind", file.path()), mount("proc", Path::new("proc"))];
        let sources = sources(&mounts);
        assert_eq!(sources, [file.path()]);
        assert_eq!(ask(file.path()), Ok(()));
        assert_eq!(ask(Path::new("/gone")), Err(Errno::ENOENT));
        look_again(&[PathBuf::from("/gone")]);
    }
}

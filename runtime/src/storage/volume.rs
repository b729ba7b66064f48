//! Which way a mount of the spec takes to the guest. Decides by the mount and a look at its source.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use oci_spec::runtime::Mount;

use crate::{
    error::{Error, Result},
    ids::ContainerId,
    share_fs::Access,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// The guest mounts its own: proc, sysfs, tmpfs, devices.
    AsIs,
    /// The sandbox's shared memory.
    Shm,
    /// A host file or directory.
    Share(Access),
}

impl Route {
    pub fn of(mount: &Mount) -> Result<Self> {
        let options = mount.options().as_deref().unwrap_or_default();
        let is_bind = mount.typ().as_deref().is_some_and(|typ| typ == "bind" || typ == "rbind")
            || options.iter().any(|option| option == "bind" || option == "rbind");
        if !is_bind {
            return Ok(Self::AsIs);
        }
        if mount.destination() == Path::new("/dev/shm") {
            // The one that a pod's containers share on a host. One of a container's own is a tmpfs with a size.
            return Ok(Self::Shm);
        }
        let source = mount
            .source()
            .as_deref()
            .ok_or_else(|| Error::invalid("source: is missing from a bind mount"))?;
        if !source.is_absolute() {
            return Err(Error::invalid(format!("source: {} is not absolute", source.display())));
        }
        if is_guests_own(source) {
            return Ok(Self::AsIs);
        }
        let meta = fs::metadata(source).map_err(|error| Error::invalid(format!("source: {error}")))?;
        if meta.file_type().is_block_device() {
            return Err(Error::unimplemented("source: block devices are not served by this version"));
        }
        if meta.file_type().is_socket() {
            return Err(Error::invalid(format!(
                "source: {} is a socket of the host, which the guest cannot connect to",
                source.display()
            )));
        }
        let access = match options.iter().rev().find(|option| *option == "ro" || *option == "rw") {
            Some(option) if option == "ro" => Access::ReadOnly,
            _ => Access::ReadWrite,
        };
        Ok(Self::Share(access))
    }
}

/// What the guest has itself: its kernel's views and device nodes. A regular file below `/dev` is the host's.
fn is_guests_own(source: &Path) -> bool {
    let kernel_view = source.starts_with("/proc") || source.starts_with("/sys");
    let device = source == Path::new("/dev")
        || source.starts_with("/dev")
            && !source.starts_with("/dev/shm")
            && !source.is_file()
            && !is_mounted_dir(source);
    kernel_view || device
}

/// A directory below `/dev` other than the kernel's own is data, such as a hugetlbfs or a tmpfs of the host.
fn is_mounted_dir(source: &Path) -> bool {
    source.is_dir()
        && !["/dev/pts", "/dev/mqueue", "/dev/dri", "/dev/net", "/dev/snd"]
            .iter()
            .any(|own| source.starts_with(own))
}

/// A name in the shared tree that no other mount has: `<container>-<16 hex>-<last part of the destination>`.
pub(super) fn share_name(id: &ContainerId, index: usize, destination: &Path) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    (id.as_str(), index, destination).hash(&mut hasher);
    let base = destination.file_name().and_then(|name| name.to_str()).unwrap_or("root");
    // A file name has 255 bytes at most.
    let base: String = base.chars().take(40).collect();
    let id: String = id.as_str().chars().take(80).collect();
    format!("{id}-{:016x}-{base}", hasher.finish()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::MountBuilder;

    fn route(destination: &str, typ: &str, source: &str, options: &[&str]) -> Result<Route> {
        let mount = MountBuilder::default()
            .destination(destination)
            .typ(typ)
            .source(source)
            .options(options.iter().map(|o| o.to_string()).collect::<Vec<_>>())
            .build()
            .unwrap();
        Route::of(&mount)
    }

    #[test]
    fn each_mount_takes_its_way() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().to_str().unwrap();
        for (destination, typ, source, options, expected) in [
            ("/proc", "proc", "proc", &[][..], Route::AsIs),
            ("/dev", "tmpfs", "tmpfs", &["nosuid"], Route::AsIs),
            ("/dev/shm", "tmpfs", "shm", &["size=65536k"], Route::AsIs),
            ("/dev/shm", "bind", "/some/where", &["rbind"], Route::Shm),
            ("/x", "bind", "/proc/sys", &["rbind"], Route::AsIs),
            ("/x", "bind", "/sys/fs/cgroup", &["ro"], Route::AsIs),
            ("/dev/null", "bind", "/dev/null", &["rbind"], Route::AsIs),
            ("/data", "bind", dir, &["rbind", "rw"], Route::Share(Access::ReadWrite)),
            ("/data", "none", dir, &["rbind", "ro"], Route::Share(Access::ReadOnly)),
            ("/data", "bind", dir, &["ro", "rw"], Route::Share(Access::ReadWrite)),
        ] {
            assert_eq!(
                route(destination, typ, source, options).unwrap(),
                expected,
                "{destination} {typ} {source}"
            );
        }
    }

    #[test]
    fn a_source_that_is_not_there_is_named() {
        assert!(route("/x", "bind", "/nonexistent", &[]).unwrap_err().to_string().starts_with("source: "));
        assert!(route("/x", "bind", "relative", &[]).is_err());
    }

    #[test]
    fn a_socket_of_the_host_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = route("/x", "bind", socket.to_str().unwrap(), &["rbind"]).unwrap_err().to_string();
        assert!(error.contains("s.sock is a socket of the host"), "{error}");
    }

    #[test]
    fn names_differ_and_fit() {
        let id = ContainerId::new("c".repeat(200)).unwrap();
        let (a, b) = (share_name(&id, 0, Path::new("/a/x")), share_name(&id, 1, Path::new("/b/x")));
        assert_ne!(a, b);
        assert!(a.as_os_str().len() < 160);
    }
}

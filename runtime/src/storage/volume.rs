//! Which way a mount of the spec takes to the guest. Decides by the mount and a look at its source.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use oci_spec::runtime::{Linux, LinuxNamespaceType, Mount};

use super::{disk::block_device, rootfs::RootfsMount};
use crate::{
    bundle::{Bundle, Role},
    error::{Error, Result},
    idmap::{Depth, IdMap},
    ids::ContainerId,
    share_fs::{Access, Below, Owners},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// The guest mounts its own: proc, sysfs, tmpfs, devices.
    AsIs,
    /// The sandbox's shared memory.
    Shm,
    /// A host file or directory.
    Share(Access),
    /// Directories of the host, one over the other: Podman's volumes with `:O`, and images as volumes.
    Overlay,
    /// A block device.
    Disk { major: i64, minor: i64, access: Access },
}

impl Route {
    pub fn of(mount: &Mount) -> Result<Self> {
        let options = mount.options().as_deref().unwrap_or_default();
        let is_bind = mount.typ().as_deref().is_some_and(|typ| typ == "bind" || typ == "rbind")
            || options.iter().any(|option| option == "bind" || option == "rbind");
        if !is_bind {
            let is_overlay = mount.typ().as_deref() == Some("overlay");
            return Ok(if is_overlay { Self::Overlay } else { Self::AsIs });
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
        if block_device(source).is_none() && is_guests_own(source) {
            return Ok(Self::AsIs);
        }
        let meta = fs::metadata(source).map_err(|error| Error::invalid(format!("source: {error}")))?;
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
        Ok(match block_device(source) {
            Some((major, minor)) => Self::Disk { major, minor, access },
            None => Self::Share(access),
        })
    }
}

/// Whether this is the shared memory of a pod that has no container of its own: containerd's sandbox API has nowhere to keep
/// one, and names a tmpfs, which on a host each container would have for itself.
pub(super) fn is_pods_memory(mount: &Mount, bundle: &Bundle) -> bool {
    let joins_ipc = matches!(bundle.namespace(LinuxNamespaceType::Ipc), Some(Some(_)));
    mount.destination() == Path::new("/dev/shm")
        && mount.typ().as_deref() == Some("tmpfs")
        && matches!(bundle.role, Role::PodContainer { .. })
        && joins_ipc
}

/// Takes from a shared mount what it says of its files' owners: the host maps them, and the guest sees the outcome. With the
/// option alone, they are mapped as those of the container are.
pub(super) fn owners(mount: &mut Mount, linux: Option<&Linux>) -> Result<Owners> {
    let mut options = mount.options().clone().unwrap_or_default();
    let has = |options: &[String], word| options.iter().any(|option| option == word);
    let (one, all) = (has(&options, "idmap"), has(&options, "ridmap"));
    options.retain(|option| option != "idmap" && option != "ridmap");
    let (uids, gids) = (mount.uid_mappings().clone(), mount.gid_mappings().clone());
    mount.set_options(Some(options)).set_uid_mappings(None).set_gid_mappings(None);
    let mut map = IdMap::of_spec(uids.as_deref(), gids.as_deref())?;
    if map.is_none() && (one || all) {
        let of_container =
            linux.map(|linux| (linux.uid_mappings().as_deref(), linux.gid_mappings().as_deref()));
        map = of_container.map(|(uids, gids)| IdMap::of_spec(uids, gids)).transpose()?.flatten();
    }
    match map {
        Some(map) => Ok(Owners::Mapped(map, if all { Depth::All } else { Depth::One })),
        None if one || all => Err(Error::invalid("options: idmap without any uidMappings")),
        None => Ok(Owners::AsTheyAre),
    }
}

/// Whether what is mounted below the source belongs to a bind mount.
pub(super) fn below(mount: &Mount) -> Below {
    let by_type = mount.typ().as_deref() == Some("rbind");
    let by_option = mount.options().iter().flatten().any(|option| option == "rbind");
    if by_type || by_option { Below::Shown } else { Below::Hidden }
}

/// Takes from an overlay what the host mounts, and leaves a bind mount of that.
pub(super) fn layers(mount: &mut Mount) -> RootfsMount {
    let (layers, mut rest): (Vec<_>, Vec<_>) =
        mount.options().iter().flatten().cloned().partition(|option| option.contains('='));
    rest.push("rbind".into());
    mount.set_options(Some(rest));
    RootfsMount { fstype: "overlay".into(), source: "overlay".into(), target: String::new(), options: layers }
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
            ("/data", "overlay", "/merged", &["lowerdir=/a:/b", "private"], Route::Overlay),
        ] {
            assert_eq!(
                route(destination, typ, source, options).unwrap(),
                expected,
                "{destination} {typ} {source}"
            );
        }
    }

    #[test]
    fn an_overlays_layers_are_the_hosts_and_its_propagation_the_guests() {
        let mount = serde_json::json!({"destination": "/x", "type": "overlay", "options": ["lowerdir=/a:/b", "private"]});
        let mut mount: Mount = serde_json::from_value(mount).unwrap();
        assert_eq!(layers(&mut mount).options, ["lowerdir=/a:/b"]);
        assert_eq!(mount.options().as_deref(), Some(&["private".to_owned(), "rbind".to_owned()][..]));
    }

    #[test]
    fn a_source_that_is_not_there_is_named() {
        assert!(route("/x", "bind", "/nonexistent", &[]).unwrap_err().to_string().starts_with("source: "));
        assert!(route("/x", "bind", "relative", &[]).is_err());
    }

    #[test]
    fn the_owners_of_files_are_mapped_as_the_mount_says_or_its_container() {
        let mount = |extra: serde_json::Value| -> Mount {
            let mut mount = serde_json::json!({"destination": "/x", "type": "bind", "source": "/s"});
            mount.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            serde_json::from_value(mount).unwrap()
        };
        let mapping = |host: u32| serde_json::json!([{"containerID": 0, "hostID": host, "size": 10}]);
        let linux: Linux =
            serde_json::from_value(serde_json::json!({"uidMappings": mapping(5), "gidMappings": mapping(5)}))
                .unwrap();
        let map = |number: u32| {
            let words = format!("0:{number}:10");
            IdMap::of_words(Some(&words), Some(&words)).unwrap().unwrap()
        };
        let own = |options| serde_json::json!({"options": options, "uidMappings": mapping(9), "gidMappings": mapping(9)});
        for (given, expected) in [
            (serde_json::json!({"options": ["rbind"]}), Owners::AsTheyAre),
            (own(["rbind"]), Owners::Mapped(map(9), Depth::One)),
            (own(["ridmap"]), Owners::Mapped(map(9), Depth::All)),
            (serde_json::json!({"options": ["idmap"]}), Owners::Mapped(map(5), Depth::One)),
        ] {
            let mut mount = mount(given.clone());
            assert_eq!(owners(&mut mount, Some(&linux)).unwrap(), expected, "{given}");
            let left = serde_json::to_string(&mount).unwrap();
            assert!(!left.contains("map") && !left.contains("Mappings"), "{left}");
        }
        assert!(owners(&mut mount(serde_json::json!({"options": ["idmap"]})), None).is_err());
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

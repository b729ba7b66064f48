//! What of a container's files is on the host, for its stand-in to show.

use std::path::Path;

use oci_spec::runtime::Mount;
use runtime::bundle::Bundle;

use super::proxy::{Files, Mounted, Whose};

/// The guest makes what is below these.
const KERNELS: [&str; 3] = ["/dev", "/proc", "/sys"];

/// The files of the container in `bundle`, as far as they are here.
pub fn of(bundle: &Bundle) -> Files {
    let read_only = bundle.spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false);
    let mounts = bundle.spec.mounts().iter().flatten().filter_map(mounted).collect();
    Files { rootfs: bundle.rootfs(), read_only, mounts }
}

fn mounted(mount: &Mount) -> Option<Mounted> {
    let destination = Path::new("/").join(mount.destination());
    if KERNELS.iter().any(|kernels| destination.starts_with(kernels)) {
        return None;
    }
    let has = |word: &str| mount.options().iter().flatten().any(|option| option == word);
    let is_bind = matches!(mount.typ().as_deref(), Some("bind" | "rbind")) || has("bind") || has("rbind");
    let source = mount.source().clone().filter(|source| is_bind && source.is_absolute());
    let whose = match (source, mount.typ().as_deref()) {
        (Some(source), _) if KERNELS.iter().all(|kernels| !source.starts_with(kernels)) => {
            Whose::Host { source, read_only: has("ro") }
        }
        // An overlay is on the host, but for its server alone.
        (Some(_), _) | (None, Some("tmpfs" | "overlay")) => Whose::Guest,
        _ => return None,
    };
    Some(Mounted { destination, whose })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_hosts_and_the_guests_are_told_apart() {
        let host = |read_only| Some(Whose::Host { source: "/data".into(), read_only });
        for (destination, typ, source, options, expected) in [
            ("/v", "bind", "/data", &["rbind", "rw"][..], host(false)),
            ("v", "none", "/data", &["bind", "ro"], host(true)),
            ("/t", "tmpfs", "tmpfs", &["nosuid"], Some(Whose::Guest)),
            ("/d", "bind", "/dev/sda", &["bind"], Some(Whose::Guest)),
            ("/o", "overlay", "/merged", &["lowerdir=/a"], Some(Whose::Guest)),
            ("/dev/shm", "bind", "/data", &["bind"], None),
            ("/proc", "proc", "proc", &[], None),
            ("/m", "mqueue", "mqueue", &[], None),
        ] {
            let mount =
                json!({"destination": destination, "type": typ, "source": source, "options": options});
            let found = mounted(&serde_json::from_value(mount).unwrap());
            let expected =
                expected.map(|whose| Mounted { destination: Path::new("/").join(destination), whose });
            assert_eq!(found, expected, "{destination}");
        }
    }
}

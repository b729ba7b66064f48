//! The mounts of the OCI spec as libcontainer can make them. Pure.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};

use super::copy_up;
use crate::error::{Error, Result};

/// Options that change nothing here: the flags of a mount that is not made by this system call, or of messages.
const WITHOUT_MEANING: [&str; 4] = ["silent", "loud", "_netdev", "nofail"];
/// Options that libcontainer leaves out without a word: nothing propagates out of a VM, and the mounts of a container have
/// no peers in its guest.
const PROPAGATION: [&str; 4] = ["shared", "rshared", "unbindable", "runbindable"];

/// Shapes the mounts of `spec`.
pub fn plan_mounts(spec: &mut Spec, has_user_namespace: bool) -> Result<()> {
    let mounts = spec.mounts().clone().unwrap_or_default();
    let planned = mounts.into_iter().enumerate().map(|(index, mount)| {
        let destination = mount.destination().display().to_string();
        plan_mount(mount, has_user_namespace)
            .map_err(|error| error.context(format!("mounts[{index}] (on {destination})")))
    });
    let planned = planned.collect::<Result<Vec<_>>>()?;
    spec.set_mounts(Some(planned));
    Ok(())
}

fn plan_mount(mut mount: Mount, has_user_namespace: bool) -> Result<Mount> {
    let mut options = mount.options().clone().unwrap_or_default();
    if let Some(word) = options.iter().find(|option| matches!(option.as_str(), "idmap" | "ridmap")) {
        return Err(Error::invalid(format!("{word}: mounts with mapped ids are not served")));
    }
    if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
        return Err(Error::invalid("uidMappings: mounts with mapped ids are not served"));
    }
    if options.iter().any(|option| option == copy_up::WORD) && mount.typ().as_deref() != Some("tmpfs") {
        return Err(Error::invalid("tmpcopyup: is for a tmpfs alone"));
    }
    if let Some(word) = options.iter().find(|option| PROPAGATION.contains(&option.as_str())) {
        tracing::warn!(destination = %mount.destination().display(), word, "a mount does not propagate out of the VM");
    }
    options.retain(|option| !WITHOUT_MEANING.contains(&option.as_str()));
    mount.set_destination(from_root(mount.destination()));
    let is_bind =
        mount.typ().as_deref() == Some("bind") || options.iter().any(|o| o == "bind" || o == "rbind");
    let typ = mount.typ().clone().filter(|typ| !typ.is_empty() && typ != "none");
    match typ {
        _ if is_bind => {
            if mount.destination() == Path::new("/dev") {
                return Err(Error::invalid("a directory of devices cannot be bound: name the devices"));
            }
            if !options.iter().any(|option| option == "bind" || option == "rbind") {
                options.push("bind".into());
            }
            mount.set_typ(Some("bind".into()));
        }
        Some(typ) if typ == "sysfs" && has_user_namespace => {
            // The kernel lets nobody mount it whose user namespace does not own the network.
            options.retain(|option| !option.contains('='));
            options.push("rbind".into());
            mount.set_typ(Some("bind".into()));
            mount.set_source(Some("/sys".into()));
        }
        Some(typ) => {
            if mount.source().is_none() {
                mount.set_source(Some(PathBuf::from(typ)));
            }
        }
        None => return Err(Error::invalid("type: is missing")),
    }
    mount.set_options(Some(options));
    Ok(mount)
}

/// A place as seen from the root, without steps back: those of a directory that is still to be made lead nowhere.
fn from_root(path: &Path) -> PathBuf {
    let mut place = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => place.push(name),
            Component::ParentDir => drop(place.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn planned(mount: Value, has_user_namespace: bool) -> Result<Value> {
        let mut spec: Spec =
            serde_json::from_value(json!({"ociVersion": "1.0.2", "mounts": [mount]})).unwrap();
        plan_mounts(&mut spec, has_user_namespace)?;
        Ok(serde_json::to_value(spec).unwrap()["mounts"][0].take())
    }

    #[test]
    fn mounts_become_such_as_libcontainer_makes() {
        for (mount, user, expected) in [
            (
                json!({"destination": "/t", "type": "tmpfs"}),
                false,
                json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": []}),
            ),
            (
                json!({"destination": "/b", "type": "none", "source": "/s", "options": ["rbind", "silent", "ro"]}),
                false,
                json!({"destination": "/b", "type": "bind", "source": "/s", "options": ["rbind", "ro"]}),
            ),
            (
                json!({"destination": "a/./b/../../../c", "type": "tmpfs", "source": "t", "options": []}),
                false,
                json!({"destination": "/c", "type": "tmpfs", "source": "t", "options": []}),
            ),
            (
                json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "ro"]}),
                true,
                json!({"destination": "/sys", "type": "bind", "source": "/sys", "options": ["nosuid", "ro", "rbind"]}),
            ),
        ] {
            assert_eq!(planned(mount, user).unwrap(), expected);
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (mount, words) in [
            (json!({"destination": "/x", "source": "/s"}), "type: is missing"),
            (
                json!({"destination": "/x", "type": "bind", "source": "/s", "options": ["idmap"]}),
                "mounts[0] (on /x): idmap",
            ),
            (json!({"destination": "/x", "type": "proc", "options": ["tmpcopyup"]}), "tmpcopyup"),
            (json!({"destination": "/dev", "type": "bind", "source": "/dev"}), "devices"),
        ] {
            let error = planned(mount.clone(), false).unwrap_err().to_string();
            assert!(error.contains(words), "{mount}: {error}");
        }
    }
}

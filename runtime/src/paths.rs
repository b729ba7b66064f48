//! Every host path that the engine owns, under roots that tests replace.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;

use crate::ids::{ContainerId, SandboxId};

const RUN: &str = "/run";

/// The roots of what a sandbox keeps on the host. Names and layout are Kata's, since people and tools look there.
#[derive(Debug, Clone)]
pub struct Paths {
    state: PathBuf,
    shared: PathBuf,
    log: PathBuf,
}

/// The folder of what is gone with the next boot: `/run`, or that of the user whose it is not, root in a user namespace
/// too. The names below it are the same.
pub fn run_dir() -> PathBuf {
    let owner = fs::metadata(RUN).ok().map(|run| run.uid());
    chosen(owner, geteuid().as_raw(), env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from))
}

fn chosen(owner: Option<u32>, user: u32, own: Option<PathBuf>) -> PathBuf {
    own.filter(|dir| owner != Some(user) && dir.is_absolute()).unwrap_or_else(|| RUN.into())
}

/// The same path, in the folder that takes the place of `/run`.
pub fn in_run_dir(path: PathBuf) -> PathBuf {
    match path.strip_prefix(RUN) {
        Ok(below) => run_dir().join(below),
        Err(_) => path,
    }
}

impl Default for Paths {
    fn default() -> Self {
        let run = run_dir();
        let is_users = run != Path::new(RUN);
        Self {
            state: run.join("vc"),
            shared: run.join("kata-containers/shared"),
            log: if is_users { run.join("kata-containers/log") } else { "/var/log/kata-containers".into() },
        }
    }
}

impl Paths {
    /// The same layout below `root`, for tests and for several installations on one host.
    pub fn under(root: &Path) -> Self {
        Self { state: root.join("vc"), shared: root.join("kata-containers/shared"), log: root.join("log") }
    }

    /// `/run/vc/sbs`: one directory per sandbox.
    pub fn sandboxes(&self) -> PathBuf {
        self.state.join("sbs")
    }

    /// `/run/vc/sbs/<id>`: the record and the sockets that people talk to.
    pub fn sandbox(&self, id: &SandboxId) -> PathBuf {
        self.sandboxes().join(id.as_str())
    }

    /// `/run/vc/vm/<id>`: what belongs to the VM, such as its QMP socket.
    pub fn vm(&self, id: &SandboxId) -> PathBuf {
        self.state.join("vm").join(id.as_str())
    }

    /// `/var/log/kata-containers/accidents`: reports of what died, the newest few.
    pub fn accidents(&self) -> PathBuf {
        self.log.join("accidents")
    }

    /// `/run/kata-containers/shared/sandboxes/<id>`: the tree behind the shared file system.
    pub fn share(&self, id: &SandboxId) -> SharePaths {
        SharePaths { root: self.shared.join("sandboxes").join(id.as_str()) }
    }
}

/// The shared tree of one sandbox: everything is bound below `mounts`, the guest sees it read-only as `shared`.
#[derive(Debug, Clone)]
pub struct SharePaths {
    root: PathBuf,
}

impl SharePaths {
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the host makes its mounts.
    pub fn mounts(&self) -> PathBuf {
        self.root.join("mounts")
    }

    /// The read-only view of `mounts` that the guest is given.
    pub fn shared(&self) -> PathBuf {
        self.root.join("shared")
    }

    /// A container's root file system, relative to either view.
    pub fn rootfs_name(id: &ContainerId) -> PathBuf {
        Path::new(id.as_str()).join("rootfs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_folder_of_their_own_and_the_machines_root_never_does() {
        let own = || Some(PathBuf::from("/run/user/7"));
        for (owner, user, own, expected) in [
            (Some(0), 0, own(), "/run"),
            (Some(0), 7, own(), "/run/user/7"),
            (Some(65534), 0, own(), "/run/user/7"),
            (Some(0), 7, Some("user/7".into()), "/run"),
            (Some(0), 7, None, "/run"),
        ] {
            assert_eq!(chosen(owner, user, own), Path::new(expected), "{owner:?} {user}");
        }
    }
}

//! Every host path that the engine owns, under roots that tests replace.

use std::path::{Path, PathBuf};

use crate::ids::{ContainerId, SandboxId};

/// The roots of what a sandbox keeps on the host. Names and layout are Kata's, since people and tools look there.
#[derive(Debug, Clone)]
pub struct Paths {
    state: PathBuf,
    shared: PathBuf,
    log: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            state: "/run/vc".into(),
            shared: "/run/kata-containers/shared".into(),
            log: "/var/log/kata-containers".into(),
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

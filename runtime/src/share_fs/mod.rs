//! The host directory that the guest sees: one device, maybe one daemon, and bind mounts.
//!
//! Everything shared is bound below `mounts`, which is a shared mount; the guest is given `shared`, a read-only slave
//! view of it. So the guest cannot change the layout, and what is bound later shows up by propagation, also in the
//! mount namespace of a jailed daemon.

mod bind;
mod names;
mod virtiofsd;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use protocols::{agent::Storage, guest};

pub(crate) use bind::{Access, Below, Owners, View};

use names::Names;

use crate::{
    child::Child,
    config::{HypervisorConfig, SharedFs},
    error::{Error, Result},
    ledger::{Ledger, Resource},
    paths::SharePaths,
    vm::{Device, MemoryKind},
};

/// How much later than its consequences the end of the daemon may be known.
const NEWS_OF_DEATH: Duration = Duration::from_millis(500);

/// The shared tree of one sandbox. Sharing is the same whatever the kind.
#[derive(Debug)]
pub(crate) struct ShareFs {
    kind: Kind,
    paths: SharePaths,
    names: Mutex<Names>,
    ledger: Ledger,
}

#[derive(Debug)]
enum Kind {
    VirtioFs { daemon: Mutex<Option<Arc<Child>>>, socket: PathBuf, config: Box<HypervisorConfig> },
    NineP { msize: u32 },
}

impl ShareFs {
    /// Makes the tree. `vm_dir` takes the daemon's socket. What was made stays claimed on failure.
    pub fn create(
        config: &HypervisorConfig,
        paths: SharePaths,
        vm_dir: &Path,
        ledger: &Ledger,
    ) -> Result<Self> {
        bind::make_tree(&paths, ledger)?;
        let kind = match config.shared_fs {
            SharedFs::VirtioFs => {
                let socket = vm_dir.join("vhost-fs.sock");
                Kind::VirtioFs { daemon: Mutex::default(), socket, config: Box::new(config.clone()) }
            }
            SharedFs::Virtio9p => Kind::NineP { msize: config.msize_9p },
        };
        Ok(Self { kind, paths, names: Mutex::default(), ledger: ledger.clone() })
    }

    /// Starts what serves the tree to one VM; it ends with that VM. Afterwards a VM may connect at once.
    pub async fn serve(&self) -> Result<()> {
        if let Kind::VirtioFs { daemon, socket, config } = &self.kind {
            let started = virtiofsd::start(config, &self.paths.shared(), socket, &self.ledger).await?;
            let former = lock(daemon).replace(Arc::new(started));
            if let Some(former) = former {
                former.end(Duration::ZERO).await?;
            }
        }
        Ok(())
    }

    /// Why the tree is not served; none while it is. A daemon that ended in good order did so because its VM had ended.
    pub async fn failure(&self) -> Option<String> {
        let Kind::VirtioFs { daemon, .. } = &self.kind else { return None };
        let Some(daemon) = lock(daemon).clone() else { return Some("no daemon was started".into()) };
        let status = daemon.wait(NEWS_OF_DEATH).await.ok()?;
        (!status.success()).then(|| daemon.epitaph())
    }

    /// The device through which the guest reaches the tree.
    pub fn device(&self) -> Device {
        let tag = guest::SHARE_TAG.to_owned();
        match &self.kind {
            Kind::VirtioFs { socket, config, .. } => {
                Device::VirtioFs { tag, socket: socket.clone(), queue_size: config.virtio_fs_queue_size }
            }
            Kind::NineP { .. } => Device::NineP { tag, path: self.paths.shared() },
        }
    }

    /// Where the guest's memory must live for that device.
    pub fn memory(&self) -> MemoryKind {
        match self.kind {
            Kind::VirtioFs { .. } => MemoryKind::Shared,
            Kind::NineP { .. } => MemoryKind::Private,
        }
    }

    /// How the guest mounts the tree.
    pub fn guest_mount(&self) -> Storage {
        let (driver, fstype, options) = match &self.kind {
            Kind::VirtioFs { .. } => (guest::DRIVER_VIRTIOFS, "virtiofs", Vec::new()),
            Kind::NineP { msize } => {
                let options = format!("trans=virtio,version=9p2000.L,cache=mmap,msize={msize}");
                (guest::DRIVER_9P, "9p", options.split(',').map(str::to_owned).collect())
            }
        };
        Storage {
            driver: driver.into(),
            source: guest::SHARE_TAG.into(),
            fstype: fstype.into(),
            options,
            mount_point: guest::SHARE_DIR.into(),
            ..Default::default()
        }
    }

    /// A directory of the sandbox for mounts that the guest does not see.
    pub fn private(&self) -> PathBuf {
        bind::private(&self.paths)
    }

    /// The daemon that serves the tree, if there is one.
    pub fn daemon(&self) -> Option<Arc<Child>> {
        match &self.kind {
            Kind::VirtioFs { daemon, .. } => lock(daemon).clone(),
            Kind::NineP { .. } => None,
        }
    }

    /// Makes `source`, a directory or file, visible in the guest as `name`, a relative path, or below another directory if
    /// there was something of that name before. Returns the guest's path and what was claimed, oldest first.
    pub fn share(&self, source: &Path, name: &Path, view: &View) -> Result<(PathBuf, Vec<Resource>)> {
        if let (Kind::NineP { .. }, Owners::Mapped(..)) = (&self.kind, &view.owners) {
            // QEMU makes files as root, who is nobody on such a mount.
            return Err(Error::unimplemented(
                "uidMappings: owners are mapped with shared_fs = \"virtio-fs\" alone",
            ));
        }
        let name = lock(&self.names).fresh(name);
        let claims = bind::bind(&self.paths, source, &name, view, &self.ledger)?;
        Ok((Path::new(guest::SHARE_DIR).join(name), claims))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain values that are whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

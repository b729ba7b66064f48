//! How the root file system and the mounts of a spec reach the guest.

mod disk;
mod rootfs;
mod volume;

use std::path::PathBuf;

use oci_spec::runtime::Mount;
use protocols::{agent::Device, guest};

pub(crate) use disk::{Disk, allows_all};
pub use rootfs::RootfsMount;

use crate::{
    bundle::Bundle,
    error::{Context, Result},
    ids::ContainerId,
    ledger::{Ledger, Resource},
    paths::SharePaths,
    share_fs::{Access, ShareFs, View},
};
use volume::Route;

/// What a container has on the host, and where the guest finds it.
#[derive(Debug)]
pub(crate) struct Storage {
    /// The root file system in the guest.
    pub guest_root: PathBuf,
    /// The spec's mounts as the guest is to make them.
    pub mounts: Vec<Mount>,
    /// What the VM is to have for it.
    pub disks: Vec<Disk>,
    /// How the guest is told of them.
    pub devices: Vec<Device>,
    claims: Vec<Resource>,
    ledger: Ledger,
}

impl Storage {
    /// That of a container which has nothing to read.
    pub fn none(ledger: &Ledger) -> Self {
        Self {
            guest_root: PathBuf::new(),
            mounts: Vec::new(),
            disks: Vec::new(),
            devices: Vec::new(),
            claims: Vec::new(),
            ledger: ledger.clone(),
        }
    }

    /// Mounts and shares everything. What was made before a failure is released. Blocks.
    pub fn prepare(
        id: &ContainerId,
        bundle: &Bundle,
        rootfs: &[RootfsMount],
        share: &ShareFs,
        ledger: &Ledger,
    ) -> Result<Self> {
        let mut storage = Self::none(ledger);
        match storage.fill(id, bundle, rootfs, share) {
            Ok(()) => Ok(storage),
            Err(error) => {
                if let Err(error) = storage.release() {
                    tracing::warn!(%error, "failed storage leaves something for the sandbox's end");
                }
                Err(error)
            }
        }
    }

    fn fill(
        &mut self,
        id: &ContainerId,
        bundle: &Bundle,
        rootfs: &[RootfsMount],
        share: &ShareFs,
    ) -> Result<()> {
        self.disks = disk::of_spec(&bundle.spec);
        let root = bundle.rootfs();
        rootfs::mount_all(rootfs, &root, &share.private().join(id.as_str()), &self.ledger, &mut self.claims)?;
        let (guest_root, claims) =
            share.share(&root, &SharePaths::rootfs_name(id), &View::WHOLE).context("root.path")?;
        self.claims.extend(claims);
        self.guest_root = guest_root;
        for (index, mount) in bundle.spec.mounts().iter().flatten().enumerate() {
            let mount = self.route(id, mount, index, bundle, share).with_context(|| {
                format!("mounts[{index}] ({} on {})", source(mount).display(), mount.destination().display())
            })?;
            self.mounts.push(mount);
        }
        Ok(())
    }

    fn route(
        &mut self,
        id: &ContainerId,
        mount: &Mount,
        index: usize,
        bundle: &Bundle,
        share: &ShareFs,
    ) -> Result<Mount> {
        let mut mount = mount.clone();
        match Route::of(&mount)? {
            Route::AsIs if !volume::is_pods_memory(&mount, bundle) => {}
            Route::AsIs | Route::Shm => {
                mount.set_typ(Some("bind".into()));
                mount.set_source(Some(guest::SHM_DIR.into()));
                mount.set_options(Some(vec!["rbind".into()]));
                // Anybody may write there, whatever numbers it has.
                mount.set_uid_mappings(None).set_gid_mappings(None);
            }
            Route::Disk { major, minor, access } => {
                let place = mount.destination().clone();
                self.disks.push(Disk { place, major, minor, read_only: access == Access::ReadOnly });
            }
            Route::Share(access) => self.share(id, &mut mount, index, bundle, share, access)?,
            Route::Overlay => {
                // Its layers are the host's.
                let made = share.private().join(format!("{id}-overlay-{index}"));
                let layers = volume::layers(&mut mount);
                rootfs::mount_all(&[layers], &made, &made, &self.ledger, &mut self.claims)?;
                mount.set_source(Some(made));
                self.share(id, &mut mount, index, bundle, share, Access::ReadWrite)?;
            }
        }
        Ok(mount)
    }

    /// Shares the mount's source, which is to be bound in the guest.
    fn share(
        &mut self,
        id: &ContainerId,
        mount: &mut Mount,
        index: usize,
        bundle: &Bundle,
        share: &ShareFs,
        access: Access,
    ) -> Result<()> {
        let name = volume::share_name(id, index, mount.destination());
        let owners = volume::owners(mount, bundle.spec.linux().as_ref())?;
        let view = View { access, owners, below: volume::below(mount) };
        let (guest_path, claims) = share.share(&source(mount), &name, &view)?;
        self.claims.extend(claims);
        mount.set_typ(Some("bind".into()));
        mount.set_source(Some(guest_path));
        Ok(())
    }

    /// Has what was claimed elsewhere go with it.
    pub fn keep(&mut self, claims: Vec<Resource>) {
        self.claims.extend(claims);
    }

    /// Takes everything away again. Idempotent. Blocks.
    pub fn release(&mut self) -> Result<()> {
        while let Some(claim) = self.claims.last() {
            self.ledger.release(claim)?;
            self.claims.pop();
        }
        Ok(())
    }
}

fn source(mount: &Mount) -> PathBuf {
    mount.source().clone().unwrap_or_default()
}

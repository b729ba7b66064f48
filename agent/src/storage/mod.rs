//! What the host asks to be mounted before containers use it, counted by mount point.

mod mount;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use protocols::{agent::Storage, guest};

pub use mount::is_flag;

use crate::error::{Context, Error, Result};

/// Whether storages are truly mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mounting {
    Real,
    /// Only the directory is made, in tests without a guest.
    DirectoryOnly,
}

/// The mounts of a sandbox, by mount point, with how many containers use each.
pub struct Storages {
    mounting: Mounting,
    used: Mutex<HashMap<PathBuf, usize>>,
}

/// Every driver served, for the host to know.
pub const DRIVERS: [&str; 4] =
    [guest::DRIVER_VIRTIOFS, guest::DRIVER_9P, guest::DRIVER_EPHEMERAL, guest::DRIVER_LOCAL];

impl Storages {
    pub fn new(mounting: Mounting) -> Self {
        Self { mounting, used: Mutex::default() }
    }

    /// Mounts `storages` in their order. Returns the mount points that are to be given back; on failure those of this
    /// call are given back already. Blocks.
    pub fn add(&self, storages: &[Storage]) -> Result<Vec<PathBuf>> {
        let mut added = Vec::new();
        for storage in storages {
            match self.add_one(storage) {
                Ok(point) => added.extend(point),
                Err(error) => {
                    self.release(&added);
                    return Err(
                        error.context(format!("storage {} on {}", storage.driver, storage.mount_point))
                    );
                }
            }
        }
        Ok(added)
    }

    fn add_one(&self, storage: &Storage) -> Result<Option<PathBuf>> {
        let point = Path::new(&storage.mount_point);
        if !point.is_absolute() {
            return Err(Error::invalid("mount_point is not absolute"));
        }
        let mounts = match storage.driver.as_str() {
            guest::DRIVER_VIRTIOFS | guest::DRIVER_9P => true,
            // Their contents live as long as the sandbox, for its containers share them.
            guest::DRIVER_EPHEMERAL | guest::DRIVER_LOCAL => false,
            other => return Err(Error::invalid(format!("Failed to find the storage handler {other}"))),
        };
        let mut used = self.lock();
        if let Some(count) = used.get_mut(point) {
            *count += 1;
            return Ok(mounts.then(|| point.to_path_buf()));
        }
        fs::create_dir_all(point).context("create the mount point")?;
        if self.mounting == Mounting::Real {
            match storage.driver.as_str() {
                guest::DRIVER_LOCAL => mount::set_up_local(storage)?,
                guest::DRIVER_EPHEMERAL => mount::mount_ephemeral(storage)?,
                _ => mount::mount(storage)?,
            }
        }
        used.insert(point.to_path_buf(), 1);
        Ok(mounts.then(|| point.to_path_buf()))
    }

    /// Changes mounted memory file systems, as when the guest's memory has grown.
    pub fn update_ephemeral(&self, storages: &[Storage]) -> Result<()> {
        for storage in storages {
            if storage.driver != guest::DRIVER_EPHEMERAL {
                return Err(Error::invalid(format!("driver {} cannot be updated", storage.driver)));
            }
            fs::create_dir_all(&storage.mount_point).context("create the mount point")?;
            if self.mounting == Mounting::Real && !storage.options.is_empty() {
                mount::mount_ephemeral(storage)?;
            }
        }
        Ok(())
    }

    /// Gives back mount points; each is unmounted when nobody uses it any more.
    pub fn release(&self, points: &[PathBuf]) {
        let mut used = self.lock();
        for point in points.iter().rev() {
            match used.get_mut(point) {
                Some(count) if *count > 1 => *count -= 1,
                Some(_) => {
                    used.remove(point);
                    if self.mounting == Mounting::Real
                        && let Err(error) = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH)
                    {
                        tracing::warn!(%error, point = %point.display(), "a storage stays mounted");
                    }
                }
                None => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, usize>> {
        // Counts are changed in single steps.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_drivers_and_relative_points_are_named() {
        let storages = Storages::new(Mounting::DirectoryOnly);
        let storage = |driver: &str, point: &str| Storage {
            driver: driver.into(),
            mount_point: point.into(),
            ..Default::default()
        };
        let error = storages.add(&[storage("floppy", "/x")]).unwrap_err().to_string();
        assert!(error.contains("Failed to find the storage handler floppy"), "{error}");
        assert!(storages.add(&[storage("local", "x")]).is_err());
    }

    #[test]
    fn a_mount_point_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let storages = Storages::new(Mounting::DirectoryOnly);
        let point = dir.path().join("share");
        let storage = Storage {
            driver: guest::DRIVER_VIRTIOFS.into(),
            mount_point: point.display().to_string(),
            ..Default::default()
        };
        let storage = [storage];
        let (first, second) = (storages.add(&storage).unwrap(), storages.add(&storage).unwrap());
        assert_eq!(first, std::slice::from_ref(&point));
        storages.release(&first);
        assert!(storages.lock().contains_key(&point));
        storages.release(&second);
        assert!(storages.lock().is_empty());
    }
}

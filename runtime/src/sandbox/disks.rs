//! The block devices of the host that a VM has: each once, for as many containers as ask for it.
//!
//! Nothing of them is on the host but descriptors, which end with the VM.

use std::sync::Arc;

use protocols::{agent, guest};
use tokio::{sync::Mutex, task::spawn_blocking};

use crate::{
    error::{Context, Error, Result},
    storage::Disk,
    vm::{self, Vm},
};

pub(super) struct Disks {
    vm: Arc<dyn Vm>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    disks: Vec<Plugged>,
    /// How many there have been.
    count: usize,
}

struct Plugged {
    number: usize,
    major: i64,
    minor: i64,
    read_only: bool,
    /// Where the guest finds it.
    address: String,
    /// The containers that have it.
    users: Vec<String>,
}

impl Disks {
    pub fn new(vm: Arc<dyn Vm>) -> Self {
        Self { vm, held: Mutex::default() }
    }

    /// Gives the VM what `container` asks for, and tells what the guest is to be told. On failure the container has none.
    pub async fn attach(&self, container: &str, asked: &[Disk]) -> Result<Vec<agent::Device>> {
        let mut devices = Vec::new();
        for disk in asked {
            match self.attach_one(container, disk).await {
                Ok(address) => devices.push(agent::Device {
                    id: address,
                    type_: guest::DEVICE_BLK.into(),
                    container_path: disk.place.display().to_string(),
                    ..Default::default()
                }),
                Err(error) => {
                    self.detach(container).await;
                    return Err(error);
                }
            }
        }
        Ok(devices)
    }

    async fn attach_one(&self, container: &str, disk: &Disk) -> Result<String> {
        let opened = disk.clone();
        let (device, read_only) = spawn_blocking(move || opened.open())
            .await
            .map_err(|error| Error::internal(error.to_string()))??;
        let mut held = self.held.lock().await;
        let is_it = |plugged: &&mut Plugged| {
            (plugged.major, plugged.minor, plugged.read_only) == (disk.major, disk.minor, read_only)
        };
        if let Some(plugged) = held.disks.iter_mut().find(is_it) {
            plugged.users.push(container.to_owned());
            return Ok(plugged.address.clone());
        }
        let number = held.count;
        held.count += 1;
        let address = self.vm.add_disk(vm::Disk { number, device: Arc::new(device), read_only }).await;
        let address = address.with_context(|| disk.place.display().to_string())?;
        let (major, minor, users) = (disk.major, disk.minor, vec![container.to_owned()]);
        held.disks.push(Plugged { number, major, minor, read_only, address: address.clone(), users });
        Ok(address)
    }

    /// Takes away what nobody but `container` has. The guest has let go of it with the container; if it has not, the disk
    /// stays for whoever asks for it next.
    pub async fn detach(&self, container: &str) {
        let mut held = self.held.lock().await;
        let mut kept = Vec::new();
        for mut plugged in held.disks.drain(..) {
            let used = !plugged.users.is_empty();
            plugged.users.retain(|user| user != container);
            if used && plugged.users.is_empty() {
                match self.vm.remove_disk(plugged.number).await.context("unplug") {
                    Ok(()) => continue,
                    Err(error) => tracing::warn!(%error, container, "a disk stays in the VM"),
                }
            }
            kept.push(plugged);
        }
        held.disks = kept;
    }
}

//! A VM that grows with the limits of its containers. It never shrinks: what a smaller limit frees stays the guest's. With
//! the first container that it has to grow for it grows for all of which the engine has told.

use oci_spec::runtime::LinuxResources;

use super::{Running, Sandbox, boot, lock};
use crate::{
    container::sizing::{Workload, grown, memory_step, vm_size},
    error::{Error, Result},
    process::Status,
    vm::{MiB, VmSize},
};

impl Sandbox {
    /// Sets new limits for a container, after the VM has got what they allow beyond its size, as far as it can.
    pub async fn update_container(&self, id: &str, resources: &LinuxResources) -> Result<()> {
        let container = self.container(id)?;
        container.check_update()?;
        let running = self.running()?;
        self.seek_room(id, container.workload().updated(resources), running).await;
        container.update(resources).await
    }

    /// [`Self::make_room`], and a word if there is none. A limit is still worth setting then: it says what is allowed, not
    /// what there is.
    pub(super) async fn seek_room(&self, id: &str, new: Workload, running: &Running) {
        if let Err(error) = self.make_room(id, new, running).await {
            tracing::warn!(%error, container = id, "the VM keeps its size");
        }
    }

    /// Grows the VM, as far as it can, to what its containers ask for if the one called `id` asks for `new`.
    pub(super) async fn make_room(&self, id: &str, new: Workload, running: &Running) -> Result<()> {
        match self.setup.config.runtime.static_sandbox_resource_mgmt {
            true => Ok(()),
            false => self.grow(running, self.workload(id, new)).await,
        }
    }

    /// What all containers ask for, if the one called `id` asks for `new`. One that has ended asks for nothing.
    fn workload(&self, id: &str, new: Workload) -> Workload {
        let containers = lock(&self.containers);
        let others = containers.iter().filter(|(name, _)| *name != id);
        others
            .filter_map(|(_, container)| container.as_ref())
            .filter(|container| container.status() != Status::Stopped)
            .fold(new, |sum, other| sum.plus(other.workload()))
    }

    async fn grow(&self, running: &Running, workload: Workload) -> Result<()> {
        let (config, cpus) = (&self.setup.config.hypervisor, boot::Host::look().cpus);
        let announced = lock(&self.identity).announced;
        let wanted = vm_size(config, workload, cpus);
        let expected = vm_size(config, workload.or_more(announced), cpus);
        // Held while the VM grows, for the next growth begins at the size that this one leaves.
        let mut size = running.size.lock().await;
        let memory = memory_step(*size, wanted.memory, expected.memory, MiB(config.default_memory));
        let vcpus = match wanted.vcpus > size.vcpus {
            true => expected.vcpus.min(size.max_vcpus),
            false => size.vcpus,
        };
        let switch_on = async {
            match vcpus > size.vcpus {
                true => running.agent.online(vcpus).await,
                false => Ok(()),
            }
        };
        let (plugged, switched_on) = tokio::join!(running.vm.add_memory(memory), switch_on);
        if plugged.is_ok() {
            *size = grown(*size, size.vcpus, memory);
        }
        if switched_on.is_ok() {
            size.vcpus = vcpus;
        }
        plugged.and(switched_on)?;
        enough(*size, wanted, config.memory_slots)
    }
}

/// Says why a VM is smaller than it was wanted, if it is.
fn enough(size: VmSize, wanted: VmSize, slots: u32) -> Result<()> {
    let VmSize { vcpus, memory, .. } = size;
    let why = if wanted.memory > memory && memory < size.max_memory && size.memory_slots == 0 {
        format!("memory_slots: memory was plugged in {slots} times, no slot is left")
    } else if wanted.memory > memory {
        format!("it has {} MiB, and no room for {}", memory.0, wanted.memory.0)
    } else if wanted.vcpus > vcpus {
        format!("it has {vcpus} vCPUs, and no room for {}", wanted.vcpus)
    } else {
        return Ok(());
    };
    Err(Error::precondition(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_that_stays_too_small_says_why() {
        let size = |vcpus, memory, memory_slots| VmSize {
            vcpus,
            max_vcpus: 2,
            memory: MiB(memory),
            max_memory: MiB(4096),
            memory_slots,
        };
        let why = |is: VmSize, wanted| enough(is, wanted, 9).err().map(|error| error.to_string());
        assert_eq!(why(size(2, 2176, 0), size(2, 2100, 0)), None);
        let slots = "memory_slots: memory was plugged in 9 times, no slot is left";
        assert_eq!(why(size(2, 2176, 0), size(2, 2200, 0)).as_deref(), Some(slots));
        let room = "it has 4096 MiB, and no room for 5000";
        assert_eq!(why(size(2, 4096, 0), size(2, 5000, 0)).as_deref(), Some(room));
        assert_eq!(
            why(size(2, 2048, 3), size(3, 2048, 3)).as_deref(),
            Some("it has 2 vCPUs, and no room for 3")
        );
    }
}

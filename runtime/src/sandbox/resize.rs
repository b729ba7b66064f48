//! A VM that grows with the limits of its containers. It never shrinks: what a smaller limit frees stays the guest's.

use oci_spec::runtime::LinuxResources;

use super::{Running, Sandbox, boot, lock};
use crate::{
    container::sizing::{MEMORY_BLOCK, Workload, vm_size},
    error::{Error, Result},
    process::Status,
    vm::MiB,
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
        let wanted = vm_size(&self.setup.config.hypervisor, workload, boot::Host::look().cpus);
        // Held while the VM grows, for the next growth begins at the size that this one leaves.
        let mut size = running.size.lock().await;
        let lacking = wanted.memory.0.saturating_sub(size.memory.0).next_multiple_of(MEMORY_BLOCK.0);
        let room = size.max_memory.0.saturating_sub(size.memory.0) / MEMORY_BLOCK.0 * MEMORY_BLOCK.0;
        let memory = MiB(lacking.min(room));
        let vcpus = wanted.vcpus.min(size.max_vcpus);
        let plug = async {
            if memory.0 == 0 {
                return Ok((size.memory, size.memory_slots));
            }
            let left = size.memory_slots.checked_sub(1).ok_or_else(|| {
                let slots = self.setup.config.hypervisor.memory_slots;
                Error::precondition(format!(
                    "memory_slots: memory was plugged in {slots} times, no slot is left"
                ))
            })?;
            running.vm.add_memory(memory).await?;
            Ok((MiB(size.memory.0 + memory.0), left))
        };
        let switch_on = async {
            if vcpus > size.vcpus {
                running.agent.online(vcpus).await?;
            }
            Ok(vcpus.max(size.vcpus))
        };
        let (plugged, switched_on): (Result<(MiB, u32)>, Result<u32>) = tokio::join!(plug, switch_on);
        if let Ok((memory, slots)) = &plugged {
            (size.memory, size.memory_slots) = (*memory, *slots);
        }
        if let Ok(vcpus) = &switched_on {
            size.vcpus = *vcpus;
        }
        plugged.and(switched_on).map(drop)
    }
}

//! The containers of a sandbox: made, found, started and deleted. Beside a container that is made, the guest is told of
//! the network that it is to find.

use std::{sync::Arc, time::Instant};

use tokio::task::spawn_blocking;

use super::{KILLED, Running, Sandbox, grouping, lock, phase};
use crate::{
    bundle::{Bundle, Role},
    container::{Container, Owner, sizing::Workload},
    error::{Context, Error, ErrorKind, Result},
    events::Event,
    ids::ContainerId,
    process::{Exit, Status},
    state::{ContainerConfig, Record},
    stdio::Stdio,
    storage::{RootfsMount, Storage},
};

/// What a container is made from.
pub struct CreateContainer {
    pub id: ContainerId,
    pub bundle: Bundle,
    /// Mounts that make the root file system; none if it is mounted already.
    pub rootfs: Vec<RootfsMount>,
    pub stdio: Stdio,
}

impl Sandbox {
    /// Makes a container in the running sandbox. On failure nothing of it is left.
    pub async fn create_container(self: &Arc<Self>, mut request: CreateContainer) -> Result<Arc<Container>> {
        let running = self.running()?;
        let joins = matches!(request.bundle.role, Role::PodContainer { .. });
        if joins {
            request.bundle.add_sysctls(lock(&self.identity).sysctls.clone());
        }
        self.reserve(&request.id)?;
        let make = self.make_networked_container(&request, running);
        let room = async {
            if joins {
                // What fails is tried again below, and told there.
                let workload = Workload::of(&request.bundle.spec);
                let _ = self.make_room(request.id.as_str(), workload, running).await;
            }
        };
        let (made, ()) = tokio::join!(make, room);
        let CreateContainer { id, bundle, rootfs, stdio } = request;
        match made {
            Ok(container) => {
                lock(&self.containers).insert(id.to_string(), Some(container.clone()));
                if running.vm.exited().borrow().is_some() {
                    // It ended just now, and told those that it knew.
                    container.guest_died(KILLED);
                }
                let (container_id, pid) = (id.to_string(), running.vm.pid());
                self.tell(Event::Created { container: container_id, bundle: bundle.dir, rootfs, stdio, pid });
                self.listen_for_oom(running);
                if joins {
                    lock(&self.identity).sysctls.clear();
                    // For those that came meanwhile: now each can be found, and is counted.
                    self.seek_room(id.as_str(), container.workload(), running).await;
                }
                Ok(container)
            }
            Err(error) => {
                lock(&self.containers).remove(id.as_str());
                Err(error.context(format!("create container {id}")))
            }
        }
    }

    async fn make_container(&self, request: &CreateContainer, running: &Running) -> Result<Arc<Container>> {
        let CreateContainer { id, bundle, rootfs, stdio } = request;
        let began = Instant::now();
        let mut storage = self.prepare(id, bundle, rootfs).await?;
        match running.disks.attach(id.as_str(), &storage.disks).await {
            Ok(devices) => storage.devices = devices,
            Err(error) => {
                release(storage).await;
                return Err(error);
            }
        }
        phase("storage", began);
        let began = Instant::now();
        let (agent, pid) = (running.agent.clone(), bundle.stand_in.unwrap_or_else(|| running.vm.pid()));
        let owner = Owner {
            agent,
            pid,
            events: self.setup.events.clone(),
            ledger: self.ledger.clone(),
            hook_deadline: self.setup.config.agent.create_deadline(),
        };
        let seccomp = !self.setup.config.runtime.disable_guest_seccomp;
        // What it sets may be about an interface, and hooks may have brought one.
        let network = async {
            match bundle.sets_network() {
                true => running.network.settle().await.context("network"),
                false => Ok(()),
            }
        };
        let made =
            Container::create(id.clone(), bundle, stdio.clone(), storage, seccomp, owner, network).await;
        phase("container-create", began);
        let container = match made {
            Ok(container) => container,
            Err((error, storage)) => {
                running.disks.detach(id.as_str()).await;
                release(storage).await;
                return Err(error);
            }
        };
        self.take_precedence_of(bundle);
        let config = ContainerConfig { id: id.to_string(), rootfs: bundle.rootfs().display().to_string() };
        self.store.note(|record| record.config.container_configs.push(config));
        Ok(container)
    }

    /// What it has on the host. On failure nothing of it is left.
    async fn prepare(&self, id: &ContainerId, bundle: &Bundle, rootfs: &[RootfsMount]) -> Result<Storage> {
        let group = grouping::group_stand_in(bundle, &self.ledger);
        let (grouped, prepared) = tokio::join!(group, self.prepare_storage(id, bundle, rootfs));
        match prepared {
            Ok(mut storage) => {
                storage.keep(grouped);
                Ok(storage)
            }
            Err(error) => {
                let mut made = Storage::none(&self.ledger);
                made.keep(grouped);
                release(made).await;
                Err(error)
            }
        }
    }

    async fn prepare_storage(
        &self,
        id: &ContainerId,
        bundle: &Bundle,
        rootfs: &[RootfsMount],
    ) -> Result<Storage> {
        if bundle.only_waits() {
            return Ok(Storage::none(&self.ledger));
        }
        // Snapshotters may sit on network file systems; they block a thread of their own.
        tokio::task::block_in_place(|| Storage::prepare(id, bundle, rootfs, &self.share, &self.ledger))
    }

    /// The container of that name.
    pub fn container(&self, id: &str) -> Result<Arc<Container>> {
        lock(&self.containers)
            .get(id)
            .and_then(Option::as_ref)
            .cloned()
            .ok_or_else(|| Error::not_found(format!("container {id}")))
    }

    /// Runs the init of a container. What stands in the network namespace by now is in the guest then: engines may add
    /// interfaces between create and start.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        if container.process(None)?.status() == Status::Created
            && let Ok(running) = self.running()
        {
            running.network.settle().await.context("network")?;
            self.serve_names(running).await;
        }
        container.start().await
    }

    /// The file may have come with an interface.
    async fn serve_names(&self, running: &Running) {
        let Some(file) = lock(&self.identity).resolv_conf.clone() else { return };
        let answers = running.network.answers();
        if let Err(error) = running.names.begin(&file, running.vm.pid(), &running.agent, answers).await {
            tracing::warn!(%error, ?file, "the guest cannot ask the engine's name server");
        }
    }

    /// Removes a container that does not run. WrongState if it does.
    pub async fn delete_container(&self, id: &str) -> Result<Exit> {
        let container = self.container(id)?;
        let exit = container.delete().await.map_err(|error| match error.kind() {
            // Its words are runc's.
            ErrorKind::WrongState => error,
            _ => error.context(format!("delete container {id}")),
        })?;
        if let Ok(running) = self.running() {
            running.disks.detach(id).await;
        }
        lock(&self.containers).remove(id);
        self.store.note(|record| record.config.container_configs.retain(|container| container.id != id));
        Ok(exit)
    }

    /// The guest is told of its network while the container is made.
    async fn make_networked_container(
        &self,
        request: &CreateContainer,
        running: &Running,
    ) -> Result<Arc<Container>> {
        let began = Instant::now();
        let ready = async {
            let ready = running.network.ready().await.context("network");
            phase("network-settle", began);
            ready
        };
        let make = self.make_container(request, running);
        let (ready, made) = tokio::join!(ready, make);
        if let (Err(_), Ok(container)) = (&ready, &made) {
            if let Err(error) = container.delete().await {
                tracing::warn!(%error, "a container without a network stays for the sandbox's end");
            }
            running.disks.detach(request.id.as_str()).await;
            let configs =
                |record: &mut Record| record.config.container_configs.retain(|c| c.id != request.id.as_str());
            self.store.note(configs);
        }
        ready.and(made)
    }

    fn reserve(&self, id: &ContainerId) -> Result<()> {
        let mut containers = lock(&self.containers);
        if containers.contains_key(id.as_str()) {
            return Err(Error::already_exists(format!("container {id}")));
        }
        containers.insert(id.to_string(), None);
        Ok(())
    }
}

/// Gives back what a failed container had.
async fn release(mut storage: Storage) {
    let released = spawn_blocking(move || storage.release()).await;
    if let Ok(Err(error)) = released {
        tracing::warn!(%error, "a failed container leaves something for the sandbox's end");
    }
}

//! What the guest holds: the sandbox, its shared namespaces and storages, and the containers. No globals, so that one
//! process can hold many guests.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};
use protocols::{
    agent::{CreateContainerRequest, CreateSandboxRequest, Device},
    guest::{ANNOTATION_CONTAINER_TYPE, CONTAINER_TYPE_POD_CONTAINER},
};
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc, watch},
    task::spawn_blocking,
};

use crate::{
    container::{
        Container, Isolation, Surroundings,
        hold::Users,
        oom::{self, OomKill},
    },
    disks::{self, Disk, Disks},
    error::{Context, Error, Result},
    namespaces::{self, SharedNamespaces},
    network::{Bus, Network, dns},
    storage::{Mounting, Storages},
};

/// What a guest is made from.
pub struct GuestConfig {
    pub isolation: Isolation,
    /// Directory with one bundle directory per container.
    pub bundles: PathBuf,
    /// Bytes of the pipes of standard streams; 0 leaves the kernel's default.
    pub pipe_size: u32,
    /// For a network card to appear that the host speaks of.
    pub hotplug_timeout: Duration,
}

/// The guest of one sandbox.
pub struct Guest {
    isolation: Arc<Isolation>,
    bundles: PathBuf,
    pipe_size: u32,
    pub(crate) storages: Storages,
    disks: Arc<Disks>,
    /// For a device to appear that the host speaks of.
    patience: Duration,
    pub(crate) network: Network,
    sandbox: Mutex<Option<Sandbox>>,
    /// `None` while a container of that name is being made.
    containers: Mutex<HashMap<String, Option<Arc<Container>>>>,
    /// Held while a process namespace for sharing is made.
    making_pids: AsyncMutex<()>,
    /// The user namespaces that containers have asked for, with what belongs to each.
    users: AsyncMutex<Vec<(Users, SharedNamespaces)>>,
    finished: watch::Sender<bool>,
    oom_sender: mpsc::Sender<OomKill>,
    oom_kills: AsyncMutex<mpsc::Receiver<OomKill>>,
}

#[derive(Clone)]
struct Sandbox {
    hostname: String,
    shared: Option<SharedNamespaces>,
    /// The process namespace that containers may join: that of the pod's own container, or one without any.
    pid_namespace: Option<PathBuf>,
}

impl Guest {
    pub fn new(config: GuestConfig) -> Self {
        let (mounting, bus) = match config.isolation {
            Isolation::Full(_) => (Mounting::Real, Bus::Pci),
            Isolation::PlainChildren => (Mounting::DirectoryOnly, Bus::Foreign),
        };
        let (oom_sender, oom_kills) = mpsc::channel(oom::QUEUE);
        Self {
            oom_sender,
            oom_kills: AsyncMutex::new(oom_kills),
            isolation: Arc::new(config.isolation),
            bundles: config.bundles,
            pipe_size: config.pipe_size,
            storages: Storages::new(mounting),
            disks: Arc::default(),
            patience: config.hotplug_timeout,
            network: Network::new(bus, config.hotplug_timeout),
            sandbox: Mutex::default(),
            containers: Mutex::default(),
            making_pids: AsyncMutex::default(),
            users: AsyncMutex::default(),
            finished: watch::Sender::new(false),
        }
    }

    /// Becomes true when the sandbox has been destroyed.
    pub fn finished(&self) -> watch::Receiver<bool> {
        self.finished.subscribe()
    }

    /// Makes the sandbox. As long as nobody has a container in it, it can be made anew: a VM that was started before it
    /// was wanted learns so whose it is.
    pub async fn create_sandbox(self: &Arc<Self>, request: CreateSandboxRequest) -> Result<()> {
        let former = lock(&self.sandbox).clone();
        if former.is_some() && !lock(&self.containers).is_empty() {
            return Err(Error::internal("the sandbox exists already, and has containers"));
        }
        for module in &request.kernel_modules {
            crate::modules::modprobe(&module.name, &module.parameters).await?;
        }
        let guest = self.clone();
        spawn_blocking(move || {
            if matches!(*guest.isolation, Isolation::Full(_)) {
                namespaces::name_guest(&request.hostname)?;
                dns::set(&request.dns)?;
            }
            let shared = match (&*guest.isolation, former.and_then(|former| former.shared)) {
                (Isolation::Full(_), None) => Some(SharedNamespaces::create()?),
                (Isolation::Full(_), Some(shared)) => {
                    shared.rename(&request.hostname)?;
                    Some(shared)
                }
                (Isolation::PlainChildren, _) => None,
            };
            fs::create_dir_all(&guest.bundles).context(guest.bundles.display())?;
            // They last as long as the sandbox, so nothing is given back.
            guest.storages.add(&request.storages)?;
            *lock(&guest.sandbox) = Some(Sandbox { hostname: request.hostname, shared, pid_namespace: None });
            Ok(())
        })
        .await
        .map_err(|error| Error::internal(error.to_string()))?
    }

    /// Kills everything and tells whoever waits for the end.
    pub fn destroy_sandbox(&self) -> Result<()> {
        lock(&self.sandbox).take().ok_or_else(|| Error::internal("there is no sandbox"))?;
        for container in lock(&self.containers).values().flatten() {
            if let Err(error) = container.kill_all() {
                tracing::warn!(%error, "a container outlives its sandbox");
            }
        }
        self.finished.send_replace(true);
        Ok(())
    }

    pub async fn create_container(&self, request: CreateContainerRequest) -> Result<()> {
        let id = request.container_id.clone();
        if !is_valid(&id) {
            return Err(Error::invalid(format!("container_id {id:?} must be two or more of [a-zA-Z0-9_.-]")));
        }
        let spec = match (request.spec_json.is_empty(), request.OCI.as_ref()) {
            (false, _) => protocols::oci::spec_from_json(&request.spec_json)?.0,
            (true, Some(spec)) => protocols::oci::spec_from_wire(spec)?,
            (true, None) => return Err(Error::invalid("OCI: is missing")),
        };
        self.reserve(&id)?;
        let made = self.make_container(&request, spec).await;
        let mut containers = lock(&self.containers);
        match made {
            Ok(container) => {
                containers.insert(id, Some(Arc::new(container)));
                Ok(())
            }
            Err(error) => {
                containers.remove(&id);
                Err(error)
            }
        }
    }

    async fn make_container(
        &self,
        request: &CreateContainerRequest,
        mut spec: oci_spec::runtime::Spec,
    ) -> Result<Container> {
        let sandbox =
            lock(&self.sandbox).clone().ok_or_else(|| Error::internal("there is no sandbox yet"))?;
        let own = self.users_of(&spec, &sandbox.hostname).await?;
        let pid_namespace = match (request.sandbox_pidns, sandbox.pid_namespace) {
            (false, _) => None,
            (true, Some(path)) => Some(path),
            (true, None) => self.shared_pids(own.as_ref()).await?,
        };
        let shared = own.or(sandbox.shared);
        let is_member = spec
            .annotations()
            .as_ref()
            .and_then(|all| all.get(ANNOTATION_CONTAINER_TYPE))
            .map(String::as_str)
            == Some(CONTAINER_TYPE_POD_CONTAINER);
        let disks = self.attach_disks(&request.devices, &mut spec).await?;
        let storages = match self.storages.add(&request.storages) {
            Ok(storages) => storages,
            Err(error) => {
                self.release_disks(disks).await;
                return Err(error);
            }
        };
        let around = Surroundings { shared, pid_namespace, pipe_size: self.pipe_size };
        let (id, bundle) = (&request.container_id, self.bundles.join(&request.container_id));
        let made =
            Container::create(id, bundle, spec, self.isolation.clone(), around, storages.clone()).await;
        match &made {
            Ok(container) => {
                container.keep_disks(disks);
                if let Some(sandbox) = lock(&self.sandbox).as_mut()
                    && !is_member
                {
                    sandbox.pid_namespace.get_or_insert_with(|| pid_namespace_of(container.init_pid()));
                }
            }
            Err(_) => {
                self.storages.release(&storages);
                self.release_disks(disks).await;
            }
        }
        made
    }

    /// The namespaces of a container with users of its own. Those with the same numbers share them, as the containers of a
    /// pod do.
    async fn users_of(
        &self,
        spec: &oci_spec::runtime::Spec,
        hostname: &str,
    ) -> Result<Option<SharedNamespaces>> {
        let Isolation::Full(launcher) = &*self.isolation else { return Ok(None) };
        let Some(linux) = spec.linux() else { return Ok(None) };
        let is_user = |namespace: &LinuxNamespace| namespace.typ() == LinuxNamespaceType::User;
        if !linux.namespaces().iter().flatten().any(is_user) {
            return Ok(None);
        }
        let (Some(uids), Some(gids)) = (linux.uid_mappings(), linux.gid_mappings()) else {
            return Err(Error::invalid("linux.uidMappings, linux.gidMappings: a user namespace needs both"));
        };
        let users = Users::new(uids, gids, hostname);
        let mut known = self.users.lock().await;
        if let Some((_, shared)) = known.iter().find(|(other, _)| *other == users) {
            return Ok(Some(shared.clone()));
        }
        let holder = launcher.hold(Some(users.clone())).await?;
        let shared = spawn_blocking(move || SharedNamespaces::held_by(holder))
            .await
            .map_err(|error| Error::internal(error.to_string()))??;
        known.push((users, shared.clone()));
        Ok(Some(shared))
    }

    /// The namespace to join where no sandbox's container has made one. A pod whose processes are shared gets one that
    /// lasts; but if there is one container, with processes of its own, then it is this one's that are to be seen, as
    /// by an ephemeral container with a target.
    async fn shared_pids(&self, own: Option<&SharedNamespaces>) -> Result<Option<PathBuf>> {
        let Isolation::Full(launcher) = &*self.isolation else { return Ok(None) };
        let others: Vec<_> = lock(&self.containers).values().flatten().cloned().collect();
        if let [target] = &others[..] {
            return Ok(Some(pid_namespace_of(target.init_pid())));
        }
        let _one = self.making_pids.lock().await;
        let known = lock(&self.sandbox).as_ref().and_then(|sandbox| sandbox.pid_namespace.clone());
        if known.is_some() {
            return Ok(known);
        }
        let path = match own.and_then(|own| own.pid.clone()) {
            Some(path) => path,
            None => pid_namespace_of(launcher.hold(None).await?),
        };
        if let Some(sandbox) = lock(&self.sandbox).as_mut() {
            sandbox.pid_namespace = Some(path.clone());
        }
        Ok(Some(path))
    }

    /// Runs the container's init.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        container.watch_memory(self.oom_sender.clone());
        container.start().await
    }

    /// Waits until a process of some container is killed for want of memory. Each is told once, to one who asks.
    pub async fn oom_kill(&self) -> Result<OomKill> {
        let mut finished = self.finished();
        let kill = async { self.oom_kills.lock().await.recv().await };
        tokio::select! {
            kill = kill => kill.ok_or_else(|| Error::internal("nobody watches the memory")),
            _ = finished.wait_for(|finished| *finished) => Err(Error::internal("the sandbox has ended")),
        }
    }

    /// INVALID_ARGUMENT if there is no such container.
    pub fn container(&self, id: &str) -> Result<Arc<Container>> {
        let container = lock(&self.containers).get(id).and_then(Option::as_ref).cloned();
        container.ok_or_else(|| Error::invalid(format!("InvalidContainerId: {id}")))
    }

    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        container.remove().await?;
        self.storages.release(&container.storages);
        self.release_disks(container.give_up_disks()).await;
        lock(&self.containers).remove(id);
        Ok(())
    }

    async fn attach_disks(
        &self,
        devices: &[Device],
        spec: &mut oci_spec::runtime::Spec,
    ) -> Result<Vec<Disk>> {
        if devices.is_empty() {
            return Ok(Vec::new());
        }
        let (known, devices, patience) = (self.disks.clone(), devices.to_vec(), self.patience);
        let disks = spawn_blocking(move || known.attach(&devices, patience))
            .await
            .map_err(|error| Error::internal(error.to_string()))??;
        match disks::adopt(spec, &disks) {
            Ok(()) => Ok(disks),
            Err(error) => {
                self.release_disks(disks).await;
                Err(error)
            }
        }
    }

    async fn release_disks(&self, disks: Vec<Disk>) {
        if disks.is_empty() {
            return;
        }
        let known = self.disks.clone();
        let _ = spawn_blocking(move || known.release(&disks)).await; // A panic is told by its hook.
    }

    fn reserve(&self, id: &str) -> Result<()> {
        let mut containers = lock(&self.containers);
        if containers.contains_key(id) {
            return Err(Error::new(ttrpc::Code::ALREADY_EXISTS, format!("container {id} exists already")));
        }
        containers.insert(id.to_owned(), None);
        Ok(())
    }
}

fn pid_namespace_of(pid: i32) -> PathBuf {
    format!("/proc/{pid}/ns/pid").into()
}

/// Ids become file names.
fn is_valid(id: &str) -> bool {
    (2..=255).contains(&id.len())
        && id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Maps and options, changed in single steps.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The one sandbox of this process: made by the first create, ended after the last delete.
//!
//! One lock orders making and ending, so that there is never more than one sandbox and each is ended once. Finding the
//! sandbox takes no lock that those hold.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use runtime::{
    bundle::{Bundle, Role},
    config::Config,
    error::{Error, Result},
    events,
    ids::SandboxId,
    paths::Paths,
    sandbox::{Sandbox, Setup},
    vm::Hypervisor,
};
use tokio::sync::Mutex as AsyncMutex;

use crate::logging::{LogLevel, phase};

/// Makes the hypervisor that a configuration describes.
pub type HypervisorFor = Box<dyn Fn(&Config) -> Arc<dyn Hypervisor> + Send + Sync>;

/// What a keeper works with.
pub struct KeeperSetup {
    pub hypervisor_for: HypervisorFor,
    pub paths: Paths,
    pub events: events::Sender,
    /// Raised when the configuration asks for it.
    pub log_level: LogLevel,
    /// A sandbox that was made before anybody wanted it.
    pub reserve: Option<Arc<Sandbox>>,
}

/// Holds the sandbox of this process, if there is one.
pub struct Keeper {
    setup: KeeperSetup,
    state: Mutex<State>,
    order: AsyncMutex<()>,
}

#[derive(Default)]
struct State {
    current: Option<Current>,
    reserve: Option<Arc<Sandbox>>,
    /// No sandbox is made any more.
    closed: bool,
    /// The sandbox stays when its last container goes: it is ended by a call of its own.
    stays: bool,
    /// Containers that are being made.
    wanted: usize,
}

impl State {
    fn close(&mut self) -> bool {
        let over = !self.stays && self.current.as_ref().is_none_or(|current| current.sandbox.is_empty());
        self.closed |= over;
        self.closed
    }

    /// The sandbox that nobody needs any more, if it is so.
    fn unused(&self) -> Option<Current> {
        let wanted = self.stays || self.wanted > 0 && !self.closed;
        self.current.clone().filter(|current| !wanted && current.sandbox.is_empty())
    }
}

/// A container that is being made: no sandbox is ended for want of one meanwhile, unless by a shutdown.
pub struct Wanted<'a>(&'a Keeper);

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.state().wanted -= 1;
    }
}

#[derive(Clone)]
struct Current {
    id: SandboxId,
    sandbox: Arc<Sandbox>,
}

impl Keeper {
    pub fn new(mut setup: KeeperSetup) -> Self {
        let state = State { reserve: setup.reserve.take(), ..State::default() };
        Self { setup, state: Mutex::new(state), order: AsyncMutex::default() }
    }

    /// The sandbox, if there is one.
    pub fn sandbox(&self) -> Option<Arc<Sandbox>> {
        self.state().current.as_ref().map(|current| current.sandbox.clone())
    }

    /// The sandbox's id, if there is one.
    pub fn id(&self) -> Option<SandboxId> {
        self.state().current.as_ref().map(|current| current.id.clone())
    }

    /// To be held from before [`Self::sandbox_for`] until the container is in the sandbox. Whoever fails to put it there
    /// calls [`Self::release`].
    pub fn want(&self) -> Wanted<'_> {
        self.state().wanted += 1;
        Wanted(self)
    }

    /// Whether a container is being made.
    pub fn is_wanted(&self) -> bool {
        self.state().wanted > 0
    }

    /// The sandbox that a new container belongs to; made if this container is its first. `config` names the
    /// configuration file, if the caller does.
    pub async fn sandbox_for(
        &self,
        id: &SandboxId,
        bundle: &Bundle,
        config: Option<&Path>,
    ) -> Result<Arc<Sandbox>> {
        let _one = self.order.lock().await;
        let current = self.state().current.clone();
        match (current, &bundle.role) {
            (Some(current), _) if current.id == *id => Ok(current.sandbox),
            (Some(current), _) => {
                Err(Error::precondition(format!("this shim serves sandbox {}, not {id}", current.id)))
            }
            (None, Role::PodContainer { .. }) => {
                Err(Error::not_found(format!("sandbox {id} does not run here")))
            }
            (None, Role::Single | Role::PodSandbox) => {
                self.check_open()?;
                let sandbox = self.make(id, bundle, config).await?;
                if self.keep(Current { id: id.clone(), sandbox: sandbox.clone() }) {
                    return Ok(sandbox);
                }
                sandbox.stop().await?;
                Err(closed())
            }
        }
    }

    async fn make(&self, id: &SandboxId, bundle: &Bundle, config: Option<&Path>) -> Result<Arc<Sandbox>> {
        let began = Instant::now();
        let annotations = bundle.spec.annotations().iter().flatten();
        let (config, ignored) = Config::find(config)?.annotated(annotations)?;
        self.setup.log_level.apply(&config.runtime);
        self.setup.log_level.name(id);
        for warning in config.warnings.iter().chain(&ignored) {
            tracing::warn!(file = %config.path.display(), warning, "configuration");
        }
        phase("config", began);
        if let Some(reserve) = self.adopt(id, bundle, &config).await? {
            return Ok(reserve);
        }
        let setup = Setup {
            id: id.clone(),
            hypervisor: (self.setup.hypervisor_for)(&config),
            config,
            paths: self.setup.paths.clone(),
            events: self.setup.events.clone(),
        };
        let sandbox = Sandbox::create(setup, bundle).await?;
        sandbox.start().await?;
        Ok(sandbox)
    }

    /// The sandbox in reserve, if it can be the one that is wanted.
    async fn adopt(&self, id: &SandboxId, bundle: &Bundle, config: &Config) -> Result<Option<Arc<Sandbox>>> {
        let Some(reserve) = self.state().reserve.take() else {
            return Ok(None);
        };
        let began = Instant::now();
        let adopted = match reserve.config() == config {
            true => reserve.adopt(id, bundle).await,
            false => Err(Error::precondition("another configuration is wanted")),
        };
        match adopted {
            Ok(()) => {
                phase("adopt", began);
                Ok(Some(reserve))
            }
            Err(error) => {
                tracing::warn!(%error, "the VM that was ready is not used");
                reserve.stop().await.map(|()| None)
            }
        }
    }

    /// False if a shutdown came meanwhile.
    fn keep(&self, current: Current) -> bool {
        let mut state = self.state();
        if !state.closed {
            state.current = Some(current);
        }
        !state.closed
    }

    /// From now on no sandbox is made. Refused, with `false`, while there are containers.
    pub fn close(&self) -> bool {
        self.state().close()
    }

    /// The same, refused also while a container is being made.
    pub fn close_unless_wanted(&self) -> bool {
        let mut state = self.state();
        state.wanted == 0 && state.close()
    }

    /// From now on the sandbox lasts until [`Self::end`].
    pub fn keep_without_containers(&self) {
        self.state().stays = true;
    }

    /// Ends the sandbox with all that is in it; no other is made.
    pub async fn end(&self) -> Result<()> {
        let _one = self.order.lock().await;
        let current = {
            let mut state = self.state();
            (state.closed, state.stays) = (true, false);
            state.current.take()
        };
        match current {
            Some(Current { sandbox, .. }) => sandbox.end().await,
            None => Ok(()),
        }
    }

    /// Ends the sandbox if no container is left in it, nor comes into it.
    pub async fn release(&self) -> Result<()> {
        let _one = self.order.lock().await;
        let unused = self.state().reserve.take();
        if let Some(unused) = unused {
            unused.stop().await?;
        }
        let Some(Current { id, sandbox }) = self.state().unused() else {
            return Ok(());
        };
        let stopped = sandbox.stop().await;
        // Even if something resists: the record stays on disk, and `delete` tries again.
        self.state().current = None;
        stopped.map_err(|error| error.context(format!("release sandbox {id}")))
    }

    fn check_open(&self) -> Result<()> {
        if self.state().closed { Err(closed()) } else { Ok(()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Plain values that are whole at any time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn closed() -> Error {
    Error::precondition("this shim is shutting down")
}

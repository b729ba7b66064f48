//! The sandbox's network: whatever stands in its network namespace, the guest has too, now and later.
//!
//! Each link is joined to a tap, whose other end is a network card of the guest: what comes in at one goes out at the
//! other. The link keeps its place in the namespace, and the guest gets its name, addresses and routes. In a namespace
//! that is the host's own nothing is touched, and the guest has no interface.
//!
//! Before the VM there is a [`Ground`], which makes the cards; with it, a [`Network`], which follows what happens.

mod convert;
mod endpoint;
mod follower;
mod guest;
mod joints;
mod scan;

use std::{path::Path, sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    agent::AgentClient,
    error::{Context, Error, ErrorKind, Result},
    netlink::Namespace,
    vm::{NetworkNamespace, Nic, Vm},
};

use follower::{Follower, Request};
use joints::Joints;
pub(crate) use joints::Settings;

/// For all that a start finds in its namespace: cards, and the guest's word on each.
const SETTLE: Duration = Duration::from_secs(120);

/// The network namespace before the VM is there.
pub(crate) struct Ground {
    settings: Settings,
    place: Place,
}

enum Place {
    /// Nobody's but the host's.
    Host,
    /// Comes with the hypervisor, and is empty at first.
    WithVm,
    Made(Joints),
}

impl Ground {
    /// Enters the namespace of a sandbox, and makes a tap for each link.
    pub async fn prepare(settings: Settings, namespace: &NetworkNamespace) -> Result<Self> {
        let place = match namespace {
            NetworkNamespace::New => Place::WithVm,
            NetworkNamespace::Path(path) => {
                let opened =
                    Namespace::open(path).map_err(|error| error.with_kind(ErrorKind::InvalidArgument));
                let namespace = opened.context("linux.namespaces")?;
                if namespace.is_our_own()? {
                    Place::Host
                } else {
                    let mut joints = Joints::new(settings.clone(), namespace).await?;
                    joints.prepare().await?;
                    Place::Made(joints)
                }
            }
            NetworkNamespace::Host => Place::Host,
        };
        if matches!(place, Place::Host) {
            tracing::info!("the sandbox is in the host's network namespace: its guest has no interface");
        }
        Ok(Self { settings, place })
    }

    /// The cards that the VM is to have.
    pub fn nics(&self) -> Vec<Nic> {
        match &self.place {
            Place::Made(joints) => joints.nics(),
            Place::Host | Place::WithVm => Vec::new(),
        }
    }

    /// Joins the links with their taps. Takes the kernel some milliseconds, and may go on beside the VM's start.
    pub async fn join(&mut self) -> Result<()> {
        match &mut self.place {
            Place::Made(joints) => joints.join().await,
            Place::Host | Place::WithVm => Ok(()),
        }
    }

    /// Follows the network of a running VM from now on.
    pub async fn follow(self, vm: Arc<dyn Vm>, agent: Arc<AgentClient>) -> Result<Network> {
        let joints = match self.place {
            Place::Host => return Ok(Network::none()),
            Place::Made(joints) => joints,
            Place::WithVm => {
                let path = format!("/proc/{}/ns/net", vm.pid());
                let namespace = Namespace::open(Path::new(&path))?;
                if namespace.is_our_own()? {
                    return Ok(Network::none()); // A hypervisor that knows no namespaces.
                }
                Joints::new(self.settings, namespace).await?
            }
        };
        let (requests, received) = mpsc::channel(1);
        let (first, outcome) = oneshot::channel();
        requests
            .try_send(Request::Settle(first))
            .map_err(|_| Error::internal("the follower takes no request"))?;
        let task = tokio::spawn(Follower::new(joints, vm, agent).run(received));
        Ok(Network { follower: Some((requests, task)), first: Mutex::new(Some(outcome)) })
    }
}

/// The network of a running VM. Dropping it leaves all as it is, for the ledger to undo.
pub(crate) struct Network {
    follower: Option<(mpsc::Sender<Request>, JoinHandle<()>)>,
    /// What came of what stood in the namespace when the VM was ready, until somebody has asked.
    first: Mutex<Option<oneshot::Receiver<Result<()>>>>,
}

impl Network {
    fn none() -> Self {
        Self { follower: None, first: Mutex::new(None) }
    }

    /// Returns when the guest has what stood in the namespace when its VM was ready.
    pub async fn ready(&self) -> Result<()> {
        let mut first = self.first.lock().await;
        let Some(outcome) = &mut *first else { return Ok(()) };
        let outcome = settled(async { outcome.await.map_err(|_| ended())? }).await;
        *first = None;
        outcome
    }

    /// Returns when the guest has what stands in the namespace now.
    pub async fn settle(&self) -> Result<()> {
        let Some((requests, _)) = &self.follower else { return Ok(()) };
        let settle = async {
            let (sender, answer) = oneshot::channel();
            requests.send(Request::Settle(sender)).await.map_err(|_| ended())?;
            answer.await.map_err(|_| ended())?
        };
        settled(settle).await
    }

    /// For who lets a program in the namespace, on the host, ask others for names.
    pub fn answers(&self) -> Answers {
        Answers(self.follower.as_ref().map(|(requests, _)| requests.clone()))
    }

    /// Follows no longer, and lets go of the namespace.
    pub fn close(&self) {
        if let Some((_, task)) = &self.follower {
            task.abort();
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.close();
    }
}

/// A part of a [`Network`], which does not keep it.
pub(crate) struct Answers(Option<mpsc::Sender<Request>>);

impl Answers {
    /// Returns when the namespace's own stack hears answers to its own questions for names, which else go to the guest. Where
    /// that cannot be, one line in the log says so.
    pub async fn keep(&self) -> Result<()> {
        let Some(requests) = &self.0 else { return Ok(()) };
        let keep = async {
            let (sender, answer) = oneshot::channel();
            requests.send(Request::KeepAnswers(sender)).await.map_err(|_| ended())?;
            answer.await.map_err(|_| ended())
        };
        settled(keep).await
    }
}

fn ended() -> Error {
    Error::unavailable("the network is no longer followed")
}

async fn settled(settling: impl Future<Output = Result<()>>) -> Result<()> {
    timeout(SETTLE, settling)
        .await
        .map_err(|_| Error::deadline(format!("the guest's network is not ready within {SETTLE:?}")))?
}

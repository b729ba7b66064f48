//! Links of the namespace and the taps they are joined to.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use futures::TryStreamExt;
use rtnetlink::{LinkUnspec, MulticastGroup};
use tokio::{task::spawn_blocking, time::timeout};

use super::{
    endpoint::{Endpoint, Kind, Mac, Scan},
    guest,
    scan::scan,
};
use crate::{
    config::InternetworkingModel,
    error::{Context, Error, Result},
    ledger::{Ledger, Resource},
    netlink::{Connection, Namespace, macvtap, tap, traffic},
    state::{
        self, StateStore,
        endpoint::{Address, Interface},
    },
    vm::Nic,
};

/// For what one link needs of the kernel: 25 ms, for the most part its grace periods.
const DEADLINE: Duration = Duration::from_secs(10);
/// What may change what the guest is to have.
const GROUPS: &[MulticastGroup] = &[
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Neigh,
];

/// What a network is made with.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub model: InternetworkingModel,
    /// Of each card.
    pub queues: u32,
    pub ledger: Ledger,
    pub store: Arc<StateStore>,
}

/// All joints of a namespace.
pub(super) struct Joints {
    settings: Settings,
    namespace: Namespace,
    pub connection: Connection,
    joints: Vec<Joint>,
    /// Whether the namespace's own stack is to hear answers to its questions for names.
    keeps_answers: bool,
}

/// A link and its tap.
struct Joint {
    /// The link's index; `None` when it has gone.
    link: Option<u32>,
    name: String,
    /// The link's when the card was made.
    mac: Mac,
    way: Way,
    /// Of the card.
    number: usize,
    tap: u32,
    /// Until the VM has it.
    nic: Option<Nic>,
    joined: bool,
}

/// How packets come from a link to its tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By filters at both.
    Filters,
    /// The tap is on top of the link.
    OnTop,
    /// That is somebody else's work.
    Foreign,
}

impl Way {
    fn of(model: InternetworkingModel, kind: &Kind) -> Self {
        match (model, kind) {
            // Such a link is on top of another one already, which would be the one to be taken over.
            (InternetworkingModel::Macvtap, Kind::Joined(kind))
                if matches!(kind.as_str(), "macvlan" | "ipvlan") =>
            {
                tracing::info!(kind, "a link of this kind is joined by tcfilter, not by macvtap");
                Self::Filters
            }
            (InternetworkingModel::Macvtap, _) => Self::OnTop,
            (InternetworkingModel::Tcfilter, _) => Self::Filters,
            (InternetworkingModel::None, _) => Self::Foreign,
        }
    }
}

impl Joints {
    pub async fn new(settings: Settings, namespace: Namespace) -> Result<Self> {
        let connection = namespace.connect(GROUPS).await?;
        Ok(Self { settings, namespace, connection, joints: Vec::new(), keeps_answers: false })
    }

    pub async fn scan(&self) -> Result<Scan> {
        scan(&self.connection.handle, |name| self.joints.iter().any(|joint| tap_name(joint.number) == name))
            .await
    }

    /// Makes a tap for each link that is there.
    pub async fn prepare(&mut self) -> Result<()> {
        for endpoint in self.scan().await?.endpoints {
            if let Err(error) = self.make(&endpoint).await
                && !self.is_gone(endpoint.index).await
            {
                return Err(error.context(format!("interface {}", endpoint.name)));
            }
        }
        Ok(())
    }

    /// The cards that no VM has yet.
    pub fn nics(&self) -> Vec<Nic> {
        self.joints.iter().filter_map(|joint| joint.nic.clone()).collect()
    }

    /// From now on the VM holds the taps, which are gone when it ends.
    pub fn hand_over(&mut self) {
        for joint in &mut self.joints {
            joint.nic = None;
        }
    }

    /// Joins every link that is not yet.
    pub async fn join(&mut self) -> Result<()> {
        for at in 0..self.joints.len() {
            let Some(link) = self.joints[at].link else { continue };
            if let Err(error) = self.join_one(at).await
                && !self.is_gone(link).await
            {
                return Err(error.context(format!("interface {}", self.joints[at].name)));
            }
        }
        Ok(())
    }

    /// Whether a link has gone, which explains whatever went wrong with it.
    pub async fn is_gone(&self, link: u32) -> bool {
        let found = self.connection.handle.link().get().match_index(link).execute();
        let found = within(async { found.try_collect::<Vec<_>>().await.map_err(Error::from) }).await;
        found.is_err()
    }

    pub fn has(&self, link: u32) -> bool {
        self.joints.iter().any(|joint| joint.link == Some(link))
    }

    /// Joins a link that has come. Returns its card if the VM has none for it, and the number of the one it has if it
    /// has.
    pub async fn add(&mut self, endpoint: &Endpoint) -> Result<Added> {
        let way = Way::of(self.settings.model, &endpoint.kind);
        let spare = self.joints.iter().position(|joint| {
            joint.link.is_none()
                && joint.mac == endpoint.mac
                && (joint.way, way) == (Way::Filters, Way::Filters)
        });
        let at = match spare {
            Some(at) => {
                self.joints[at].link = Some(endpoint.index);
                self.set_mtu(self.joints[at].tap, endpoint.mtu).await?;
                at
            }
            None => {
                self.make(endpoint).await?;
                self.joints.len() - 1
            }
        };
        if let Err(error) = self.join_one(at).await {
            self.joints[at].link = None;
            if spare.is_none() {
                self.give_up(self.joints[at].number).await?;
            }
            return Err(error);
        }
        let joint = &mut self.joints[at];
        Ok(joint.nic.take().map_or(Added::Back(joint.number), Added::New))
    }

    /// Forgets the card of a link, which no VM has, with its tap.
    pub async fn give_up(&mut self, number: usize) -> Result<()> {
        self.joints.retain(|joint| joint.number != number);
        self.release_tap(number).await
    }

    /// Parts the links that are not among `there` any more, or have got another hardware address, from their cards.
    pub async fn part(&mut self, there: &[Endpoint]) -> Result<Vec<Parted>> {
        let mut parted = Vec::new();
        for joint in &mut self.joints {
            let stays = |link: u32| there.iter().find(|endpoint| endpoint.index == link);
            let Some(link) = joint.link else { continue };
            if stays(link).is_some_and(|endpoint| endpoint.mac == joint.mac) {
                continue;
            }
            if joint.way == Way::Filters && joint.joined {
                if stays(link).is_some() {
                    within(traffic::remove_ingress(&self.connection.handle, link)).await?;
                } // Else its filters went with it.
                let namespace = self.namespace.id().clone();
                self.settings.ledger.forget(&Resource::Ingress { namespace, link })?;
            }
            (joint.link, joint.joined) = (None, false);
            parted.push(Parted { number: joint.number, link, mac: joint.mac, name: joint.name.clone() });
        }
        Ok(parted)
    }

    /// Lets the namespace's own stack hear answers to its questions for names, at the links that are joined and at those to
    /// come. It may not be possible, and nothing else is amiss then.
    pub async fn keep_answers(&mut self) {
        if self.keeps_answers {
            return;
        }
        self.keeps_answers = true;
        for joint in self.joints.iter().filter(|joint| joint.joined) {
            self.keep_answers_of(joint).await;
        }
    }

    async fn keep_answers_of(&self, joint: &Joint) {
        let kept = match (joint.way, joint.link) {
            (Way::Filters, Some(link)) => {
                within(traffic::keep_answers(&self.connection.handle, link, joint.tap)).await
            }
            (Way::OnTop, Some(_)) => Err(Error::precondition("it needs internetworking_model \"tcfilter\"")),
            _ => Ok(()),
        };
        if let Err(error) = kept {
            tracing::warn!(%error, interface = joint.name, "the engine's name server hears no answers of others");
        }
    }

    /// Lets a tap follow its link's size of packets.
    pub async fn resize(&self, endpoint: &Endpoint) -> Result<()> {
        match self.joints.iter().find(|joint| joint.link == Some(endpoint.index)) {
            Some(joint) => self.set_mtu(joint.tap, endpoint.mtu).await,
            None => Ok(()),
        }
    }

    /// Lets outsiders read which links the guest has.
    pub fn record(&self, endpoints: &[Endpoint]) -> Result<()> {
        let model = match self.settings.model {
            InternetworkingModel::Macvtap => 1,
            InternetworkingModel::Tcfilter => 2,
            InternetworkingModel::None => 3,
        };
        let told = |endpoint: &Endpoint| {
            let number = self.joints.iter().find(|joint| joint.link == Some(endpoint.index))?.number;
            let addresses = endpoint.addresses.iter();
            let link = Interface {
                name: endpoint.name.clone(),
                hard_addr: guest::colons(&endpoint.mac),
                addrs: addresses.map(|prefix| Address::new(prefix.address, prefix.length)).collect(),
            };
            let (Kind::Joined(kind) | Kind::Unsupported(kind)) = &endpoint.kind;
            Some(state::endpoint::Endpoint::new(kind, number, tap_name(number), link, model))
        };
        let endpoints = endpoints.iter().filter_map(told).collect();
        self.settings.store.update(|record| record.network.endpoints = endpoints)
    }

    async fn make(&mut self, endpoint: &Endpoint) -> Result<()> {
        let number = self.joints.iter().map(|joint| joint.number + 1).max().unwrap_or(0);
        let (namespace, name) = (self.namespace.id().clone(), tap_name(number));
        let claim = Resource::Tap { namespace, name: name.clone() };
        self.settings.ledger.claim(claim.clone())?;
        let (way, queues) = (Way::of(self.settings.model, &endpoint.kind), self.settings.queues);
        let made = match way {
            Way::Filters | Way::Foreign => tap::make(&self.namespace, &name, queues).await,
            Way::OnTop => {
                let handle = &self.connection.handle;
                within(macvtap::make(&self.namespace, handle, &name, endpoint.index, queues)).await
            }
        };
        let tap = match made {
            Ok(tap) => tap,
            Err(error) => {
                // One of that name is not ours.
                self.settings.ledger.forget(&claim)?;
                return Err(error);
            }
        };
        self.set_mtu(tap.index, endpoint.mtu).await?;
        let nic = Nic { number, mac: endpoint.mac, queues: Arc::from(tap.queues) };
        self.joints.push(Joint {
            link: Some(endpoint.index),
            name: endpoint.name.clone(),
            mac: endpoint.mac,
            way,
            number,
            tap: tap.index,
            nic: Some(nic),
            joined: false,
        });
        Ok(())
    }

    async fn release_tap(&self, number: usize) -> Result<()> {
        let (namespace, ledger) = (self.namespace.id().clone(), self.settings.ledger.clone());
        let tap = Resource::Tap { namespace, name: tap_name(number) };
        spawn_blocking(move || ledger.release(&tap))
            .await
            .map_err(|error| Error::internal(error.to_string()))?
    }

    async fn set_mtu(&self, link: u32, mtu: u32) -> Result<()> {
        let change = LinkUnspec::new_with_index(link).mtu(mtu).up().build();
        within(async { self.connection.handle.link().set(change).execute().await.map_err(Error::from) })
            .await
            .with_context(|| format!("set the tap up with MTU {mtu}"))
    }

    async fn join_one(&mut self, at: usize) -> Result<()> {
        let joint = &self.joints[at];
        let Some(link) = joint.link.filter(|_| !joint.joined) else { return Ok(()) };
        if joint.way == Way::Filters {
            self.join_links(link, joint.tap).await.context("join it to its tap")?;
        }
        self.joints[at].joined = true;
        if self.keeps_answers {
            self.keep_answers_of(&self.joints[at]).await;
        }
        Ok(())
    }

    async fn join_links(&self, link: u32, tap: u32) -> Result<()> {
        let handle = &self.connection.handle;
        let claim = Resource::Ingress { namespace: self.namespace.id().clone(), link };
        self.settings.ledger.claim(claim.clone())?;
        if let Err(error) = within(traffic::add_ingress(handle, link)).await {
            // One that was there before is not ours.
            self.settings.ledger.forget(&claim)?;
            return Err(error);
        }
        let joined = async {
            // Of a link that was joined to it before.
            traffic::remove_ingress(handle, tap).await?;
            traffic::add_ingress(handle, tap).await?;
            traffic::redirect(handle, link, tap).await?;
            traffic::redirect(handle, tap, link).await
        };
        within(joined).await
    }
}

/// What became of a link that has come.
pub(super) enum Added {
    New(Nic),
    Back(usize),
}

/// A card whose link is no longer what it was.
pub(super) struct Parted {
    pub number: usize,
    pub link: u32,
    pub mac: Mac,
    pub name: String,
}

fn tap_name(number: usize) -> String {
    format!("tap{number}_kata")
}

async fn within<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(DEADLINE, work)
        .await
        .map_err(|_| Error::deadline(format!("the kernel does not answer within {DEADLINE:?}")))?
}

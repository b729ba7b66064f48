//! Links of the namespace and the taps they are joined to.

use std::{sync::Arc, time::Duration};

use rtnetlink::{LinkUnspec, MulticastGroup};
use tokio::time::timeout;

use super::{
    endpoint::{Endpoint, Scan},
    scan::scan,
};
use crate::{
    config::InternetworkingModel,
    error::{Context, Error, Result},
    ledger::{Ledger, Resource},
    netlink::{Connection, Namespace, tap, traffic},
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
];

/// What a network is made with.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub model: InternetworkingModel,
    /// Of each card.
    pub queues: u32,
    pub ledger: Ledger,
}

/// All joints of a namespace.
pub(super) struct Joints {
    settings: Settings,
    namespace: Namespace,
    pub connection: Connection,
    joints: Vec<Joint>,
}

/// A link and its tap.
struct Joint {
    /// The link's index; `None` when it has gone.
    link: Option<u32>,
    /// The link's when the card was made.
    mac: [u8; 6],
    /// Of the card.
    number: usize,
    tap: u32,
    /// Until the VM has it.
    nic: Option<Nic>,
    joined: bool,
}

impl Joints {
    pub async fn new(settings: Settings, namespace: Namespace) -> Result<Self> {
        let connection = namespace.connect(GROUPS).await?;
        Ok(Self { settings, namespace, connection, joints: Vec::new() })
    }

    pub async fn scan(&self) -> Result<Scan> {
        scan(&self.connection.handle, |name| self.joints.iter().any(|joint| tap_name(joint.number) == name))
            .await
    }

    /// Makes a tap for each link that is there.
    pub async fn prepare(&mut self) -> Result<()> {
        for endpoint in self.scan().await?.endpoints {
            self.make(&endpoint).await.with_context(|| format!("interface {}", endpoint.name))?;
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
            self.join_one(at).await?;
        }
        Ok(())
    }

    pub fn has(&self, link: u32) -> bool {
        self.joints.iter().any(|joint| joint.link == Some(link))
    }

    /// Joins a link that has come. Returns its card if the VM has none for it, and the number of the one it has if it
    /// has.
    pub async fn add(&mut self, endpoint: &Endpoint) -> Result<Added> {
        let spare = self.joints.iter().position(|joint| joint.link.is_none() && joint.mac == endpoint.mac);
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
                self.joints.remove(at); // Its tap goes with the descriptors.
            }
            return Err(error);
        }
        let joint = &mut self.joints[at];
        Ok(joint.nic.take().map_or(Added::Back(joint.number), Added::New))
    }

    /// Forgets the card of a link that no VM has taken.
    pub fn give_up(&mut self, link: u32) {
        self.joints.retain(|joint| joint.link != Some(link));
    }

    /// Parts the links that are not among `there` any more; returns the numbers of their cards.
    pub fn part(&mut self, there: &[Endpoint]) -> Result<Vec<usize>> {
        let mut parted = Vec::new();
        for joint in &mut self.joints {
            let gone = |link: &u32| !there.iter().any(|endpoint| endpoint.index == *link);
            if let Some(link) = joint.link.take_if(|link| gone(link)) {
                joint.joined = false;
                parted.push(joint.number);
                // Its filters went with it.
                let namespace = self.namespace.id().clone();
                self.settings.ledger.forget(&Resource::Ingress { namespace, link })?;
            }
        }
        Ok(parted)
    }

    /// Lets a tap follow its link's size of packets.
    pub async fn resize(&self, endpoint: &Endpoint) -> Result<()> {
        match self.joints.iter().find(|joint| joint.link == Some(endpoint.index)) {
            Some(joint) => self.set_mtu(joint.tap, endpoint.mtu).await,
            None => Ok(()),
        }
    }

    async fn make(&mut self, endpoint: &Endpoint) -> Result<()> {
        let number = self.joints.iter().map(|joint| joint.number + 1).max().unwrap_or(0);
        let (namespace, name) = (self.namespace.id().clone(), tap_name(number));
        let claim = Resource::Tap { namespace, name: name.clone() };
        self.settings.ledger.claim(claim.clone())?;
        let tap = match tap::make(&self.namespace, &name, self.settings.queues).await {
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
            mac: endpoint.mac,
            number,
            tap: tap.index,
            nic: Some(nic),
            joined: false,
        });
        Ok(())
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
        match self.settings.model {
            InternetworkingModel::None => {}
            InternetworkingModel::Tcfilter => {
                self.join_links(link, joint.tap).await.context("join it to its tap")?
            }
        }
        self.joints[at].joined = true;
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

fn tap_name(number: usize) -> String {
    format!("tap{number}_kata")
}

async fn within(work: impl Future<Output = Result<()>>) -> Result<()> {
    timeout(DEADLINE, work)
        .await
        .map_err(|_| Error::deadline(format!("the kernel does not answer within {DEADLINE:?}")))?
}

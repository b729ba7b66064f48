//! The guest's network, which is that of its containers: interfaces, routes and neighbours as the host tells them.
//!
//! What the host tells is what there is on its side, so it replaces what it told before. An interface is known by its
//! hardware address; its name is a name to be given.

mod address;
pub mod dns;
mod interface;
pub mod iptables;
mod link;
mod neighbour;
mod queues;
mod route;
mod socket;
mod wanted;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use netlink_packet_route::link::LinkFlags;
use protocols::types as wire;
use tokio::task::spawn_blocking;

use self::{link::Link, socket::Socket};
use crate::{
    error::{Error, Result},
    pci,
};

/// Where links come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// The VM's, on which devices may wait to be found.
    Pci,
    /// None of ours: links come by themselves.
    Foreign,
}

/// The network of the namespace that the agent is in.
pub struct Network {
    bus: Bus,
    /// For a link to appear, unless the host's own patience ends before.
    patience: Duration,
    /// What the host has set; also the turn of whoever changes something.
    set: Arc<Mutex<Vec<wanted::Route>>>,
}

impl Network {
    pub fn new(bus: Bus, patience: Duration) -> Self {
        Self { bus, patience, set: Arc::default() }
    }

    /// Makes the link with the interface's hardware address that interface. Waits for the link, but no longer than
    /// `patience`, of which zero is the host's way to say that it has no end.
    pub async fn update_interface(&self, interface: &wire::Interface, patience: Duration) -> Result<()> {
        let wanted = wanted::Interface::parse(interface)?;
        // Less some of it, so that the host still hears why.
        let patience = if patience.is_zero() { self.patience } else { self.patience.min(patience * 4 / 5) };
        let (bus, set) = (self.bus, self.set.clone());
        blocking(move || {
            let deadline = Instant::now() + patience;
            let mut socket = Socket::open()?;
            let mut news: Option<Socket> = None;
            loop {
                {
                    let _turn = set.lock().unwrap_or_else(PoisonError::into_inner);
                    let links = link::list(&mut socket)?;
                    if let Some(link) = link::of_address(&links, wanted.address, &wanted.name) {
                        interface::apply(&mut socket, &links, link, &wanted)?;
                        if link.queues > 1
                            && let Err(error) = queues::use_all(&wanted.name)
                        {
                            tracing::warn!(%error, interface = wanted.name, "it uses fewer queues than there are");
                        }
                        return Ok(());
                    }
                }
                if let Some(news) = &mut news {
                    if !news.news_before(deadline)? {
                        return Err(not_found(&wanted, patience));
                    }
                } else {
                    news = Some(Socket::hearing_of_links()?);
                    find_devices(bus);
                }
            }
        })
        .await
    }

    /// Lets go of the card with that hardware address, the one called `name` if there are several. One that is gone is as
    /// good.
    pub async fn remove_interface(&self, address: &str, name: &str) -> Result<()> {
        let address = wanted::Mac::parse("hw_addr", address)?;
        let (bus, set, name) = (self.bus, self.set.clone(), name.to_owned());
        blocking(move || {
            let _turn = set.lock().unwrap_or_else(PoisonError::into_inner);
            let links = link::list(&mut Socket::open()?)?;
            match link::of_address(&links, address, &name) {
                Some(link) if bus == Bus::Pci => pci::remove_link(&link.name),
                _ => Ok(()),
            }
        })
        .await
    }

    /// Sets these routes, in place of those of the last call.
    pub async fn update_routes(&self, routes: &[wire::Route]) -> Result<Vec<wire::Route>> {
        let wanted = wanted::Route::parse_all(routes)?;
        let set = self.set.clone();
        blocking(move || {
            let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
            let mut socket = Socket::open()?;
            let links = link::list(&mut socket)?;
            let wanted = route::but_kernels(&mut socket, &links, wanted)?;
            let former = set.clone();
            // If it fails half-way, some of both are set.
            set.extend(wanted.iter().cloned());
            route::replace(&mut socket, &links, &former, &wanted)?;
            *set = wanted;
            all_routes(&mut socket, &links)
        })
        .await
    }

    pub async fn add_neighbours(&self, neighbours: &[wire::ARPNeighbor]) -> Result<()> {
        let wanted = wanted::Neighbour::parse_all(neighbours)?;
        blocking(move || {
            let mut socket = Socket::open()?;
            let links = link::list(&mut socket)?;
            neighbour::add(&mut socket, &links, &wanted)
        })
        .await
    }

    pub async fn interfaces(&self) -> Result<Vec<wire::Interface>> {
        blocking(|| {
            let mut socket = Socket::open()?;
            let links = link::list(&mut socket)?;
            let addresses = address::all(&mut socket)?;
            Ok(links.iter().map(|link| told(link, &addresses)).collect())
        })
        .await
    }

    pub async fn routes(&self) -> Result<Vec<wire::Route>> {
        blocking(|| {
            let mut socket = Socket::open()?;
            let links = link::list(&mut socket)?;
            all_routes(&mut socket, &links)
        })
        .await
    }
}

fn all_routes(socket: &mut Socket, links: &[Link]) -> Result<Vec<wire::Route>> {
    Ok(route::list(socket, links)?.into_iter().map(|present| present.route).collect())
}

/// The kernel's answers are there at once, but a device that is found may take its time.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work).await.map_err(|error| Error::internal(error.to_string()))?
}

fn find_devices(bus: Bus) {
    if bus == Bus::Pci
        && let Err(error) = pci::rescan()
    {
        // The link may come without.
        tracing::warn!(%error, "look for new devices");
    }
}

/// Upstream's host looks for the first words.
fn not_found(wanted: &wanted::Interface, patience: Duration) -> Error {
    Error::not_found(format!(
        "Link not found: hwAddr {} of interface {}, within {:.1} s",
        wanted::hardware_address(&wanted.address.0),
        wanted.name,
        patience.as_secs_f32(),
    ))
}

fn told(link: &Link, addresses: &[address::Present]) -> wire::Interface {
    let addresses = addresses.iter().filter(|present| present.index == link.index);
    wire::Interface {
        name: link.name.clone(),
        hwAddr: wanted::hardware_address(&link.address),
        mtu: link.mtu.into(),
        raw_flags: if link.is_without_arp { LinkFlags::Noarp.bits() } else { 0 },
        IPAddresses: addresses
            .map(|present| wire::IPAddress {
                family: if present.cidr.address.is_ipv6() { wire::IPFamily::v6 } else { wire::IPFamily::v4 }
                    .into(),
                address: present.cidr.address.to_string(),
                mask: present.cidr.prefix.to_string(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}

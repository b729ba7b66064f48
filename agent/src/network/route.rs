//! The routes of the guest's main table: those that the host wants, and the listing of all.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, Parseable};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMessageBuffer, RouteMetric,
        RouteProtocol, RouteScope, RouteType, RouteVia,
    },
};
use nix::errno::Errno;
use protocols::types as wire;

use super::{
    link::Link,
    socket::{Change, Socket, malformed},
    wanted::Route,
};
use crate::error::{Context, Error, Result};

/// Those of a route's flags that are told to the kernel; the others it tells.
const TOLD: RouteFlags = RouteFlags::Onlink.union(RouteFlags::Pervasive);

/// Sets `wanted`, and removes what is `former` and wanted no more. What others set, the kernel or a container, stays.
pub fn replace(socket: &mut Socket, links: &[Link], former: &[Route], wanted: &[Route]) -> Result<()> {
    // A gateway must be in reach by the time its route is set.
    let (far, near): (Vec<_>, Vec<_>) = wanted.iter().partition(|route| route.gateway.is_some());
    let wanted_in_order: Vec<&Route> = near.into_iter().chain(far).collect();
    let mut additions = Vec::new();
    for route in &wanted_in_order {
        let link = link_of(links, route).ok_or_else(|| {
            Error::invalid(format!("Link not found: device {:?} of {}", route.device, told(route)))
        })?;
        additions.push(addition(route, link));
    }
    let mut again = Vec::new();
    for (route, (what, outcome)) in wanted_in_order.into_iter().zip(socket.try_all(additions)?) {
        match outcome {
            Err(Errno::EEXIST) if former.contains(route) => {}
            Err(Errno::EEXIST) => again.push(route),
            outcome => outcome.context(what)?,
        }
    }
    set_anew(socket, links, again)?;
    let gone = former.iter().filter(|old| !wanted.iter().any(|new| takes_place_of(new, old)));
    remove(socket, links, gone)
}

/// For routes of IPv6, of which the kernel takes but one with these ways, whatever else is said of it.
fn set_anew(socket: &mut Socket, links: &[Link], routes: Vec<&Route>) -> Result<()> {
    remove(socket, links, routes.iter().copied())?;
    let additions = routes.iter().filter_map(|route| Some(addition(route, link_of(links, route)?)));
    for (what, outcome) in socket.try_all(additions.collect())? {
        match outcome {
            // One of the kernel's own.
            Err(Errno::EEXIST) => {}
            outcome => outcome.context(what)?,
        }
    }
    Ok(())
}

fn remove<'a>(socket: &mut Socket, links: &[Link], routes: impl Iterator<Item = &'a Route>) -> Result<()> {
    let removals = routes.filter_map(|route| {
        let message = RouteNetlinkMessage::DelRoute(message(route, link_of(links, route)?));
        Some(Change { message, flags: 0, what: format!("remove {}", told(route)) })
    });
    for (what, outcome) in socket.try_all(removals.collect())? {
        match outcome {
            // The kernel has removed it, with its address or its link.
            Err(Errno::ESRCH | Errno::ENODEV) => {}
            outcome => outcome.context(what)?,
        }
    }
    Ok(())
}

/// A route of the main table.
#[derive(Debug)]
pub struct Present {
    /// In the form in which the host could set it again: without a destination if it is a default route.
    pub route: wire::Route,
    /// Made by the kernel, for an address.
    is_kernels: bool,
}

/// The main table.
pub fn list(socket: &mut Socket, links: &[Link]) -> Result<Vec<Present>> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let found = socket.dump(&RouteNetlinkMessage::GetRoute(request), |payload| read(payload, links));
        match found {
            Ok(found) => routes.extend(found),
            // A kernel without IPv6.
            Err(_)
                if family == AddressFamily::Inet6
                    && links.iter().all(|link| link.address_generation.is_none()) => {}
            Err(error) => return Err(error.context("list the routes")),
        }
    }
    Ok(routes)
}

/// `wanted` without what the kernel has by itself, and would not have any more once the host's had come and gone.
pub fn but_kernels(socket: &mut Socket, links: &[Link], mut wanted: Vec<Route>) -> Result<Vec<Route>> {
    // The kernel's have no gateway.
    if wanted.iter().any(|route| route.gateway.is_none()) {
        for present in list(socket, links)?.iter().filter(|present| present.is_kernels) {
            let kernels = Route::parse(&present.route)?;
            wanted.retain(|route| *route != kernels);
        }
    }
    Ok(wanted)
}

/// Whether setting `new` leaves nothing of `old`: what differs otherwise does not tell routes apart.
fn takes_place_of(new: &Route, old: &Route) -> bool {
    let key = |route: &Route| (route.is_v6, route.destination, route.source, route.metric);
    key(new) == key(old) && (new.device == old.device && new.gateway == old.gateway || !new.is_v6)
}

fn link_of<'a>(links: &'a [Link], route: &Route) -> Option<&'a Link> {
    links.iter().find(|link| link.name == route.device)
}

fn addition(route: &Route, link: &Link) -> Change {
    Change {
        message: RouteNetlinkMessage::NewRoute(message(route, link)),
        // In IPv6, it would take the place of the same route over another link.
        flags: if route.is_v6 { NLM_F_CREATE } else { NLM_F_CREATE | NLM_F_REPLACE },
        what: told(route),
    }
}

fn told(route: &Route) -> String {
    let destination = match route.destination {
        Some(network) => format!("route {}/{}", network.address, network.prefix),
        None => format!("default route of IPv{}", if route.is_v6 { 6 } else { 4 }),
    };
    let gateway = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
    format!("{destination}{gateway} dev {}", route.device)
}

fn message(route: &Route, link: &Link) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: if route.is_v6 { AddressFamily::Inet6 } else { AddressFamily::Inet },
        destination_prefix_length: route.destination.map_or(0, |network| network.prefix),
        source_prefix_length: route.source.map_or(0, |network| network.prefix),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Boot,
        scope: RouteScope::from(route.scope),
        kind: RouteType::Unicast,
        flags: RouteFlags::from_bits_retain(route.flags) & TOLD,
        ..RouteHeader::default()
    };
    let attributes = &mut message.attributes;
    attributes.extend(route.destination.map(|network| RouteAttribute::Destination(network.address.into())));
    attributes.extend(route.source.map(|network| RouteAttribute::Source(network.address.into())));
    attributes.extend(route.preferred_source.map(|source| RouteAttribute::PrefSource(source.into())));
    attributes.extend(route.gateway.map(|gateway| match gateway {
        IpAddr::V6(gateway) if !route.is_v6 => RouteAttribute::Via(RouteVia::Inet6(gateway)),
        gateway => RouteAttribute::Gateway(gateway.into()),
    }));
    attributes.push(RouteAttribute::Oif(link.index));
    attributes.extend((route.metric > 0).then_some(RouteAttribute::Priority(route.metric)));
    attributes.extend((route.mtu > 0).then(|| RouteAttribute::Metrics(vec![RouteMetric::Mtu(route.mtu)])));
    message
}

fn read(payload: &[u8], links: &[Link]) -> Result<Option<Present>> {
    let buffer = RouteMessageBuffer::new_checked(&payload).map_err(malformed)?;
    let message = RouteMessage::parse(&buffer).map_err(malformed)?;
    let header = message.header;
    let is_main = header.table == RouteHeader::RT_TABLE_MAIN;
    if !is_main || header.kind != RouteType::Unicast || header.flags.contains(RouteFlags::Cloned) {
        return Ok(None);
    }
    let family =
        if header.address_family == AddressFamily::Inet6 { wire::IPFamily::v6 } else { wire::IPFamily::v4 };
    let mut route = wire::Route {
        family: family.into(),
        scope: u8::from(header.scope).into(),
        flags: (header.flags & TOLD).bits(),
        ..Default::default()
    };
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                route.dest = network(&address, header.destination_prefix_length)
            }
            RouteAttribute::Source(address) => route.source = network(&address, header.source_prefix_length),
            RouteAttribute::PrefSource(address) => route.source = text(&address),
            RouteAttribute::Gateway(address) => route.gateway = text(&address),
            RouteAttribute::Via(RouteVia::Inet6(gateway)) => route.gateway = gateway.to_string(),
            RouteAttribute::Oif(index) => {
                route.device = links
                    .iter()
                    .find(|link| link.index == index)
                    .map_or(String::new(), |link| link.name.clone());
            }
            RouteAttribute::Priority(metric) => route.metric = metric,
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(mtu).unwrap_or_default();
            }
            _ => {}
        }
    }
    // Without one it has several ways, or none.
    let is_kernels = header.protocol == RouteProtocol::Kernel;
    Ok((!route.device.is_empty()).then_some(Present { route, is_kernels }))
}

fn mtu(metric: &RouteMetric) -> Option<u32> {
    match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn text(address: &RouteAddress) -> String {
    ip(address).map_or(String::new(), |address| address.to_string())
}

fn network(address: &RouteAddress, prefix: u8) -> String {
    ip(address).map_or(String::new(), |address| format!("{address}/{prefix}"))
}

//! What the guest's agent is told of the network, in the wire's words. Pure.

use std::net::IpAddr;

use protocols::{
    agent::{ARPNeighbors, AddARPNeighborsRequest, Routes, UpdateInterfaceRequest, UpdateRoutesRequest},
    types::{ARPNeighbor, IPAddress, IPFamily, Interface, Route as WireRoute},
};

use super::endpoint::{Endpoint, Kind, Neighbour, Prefix, Route, Source};

/// `IFF_NOARP`, the only flag that the guest takes over.
const NO_ARP: u32 = 0x80;
/// `NUD_PERMANENT`.
const PERMANENT: i32 = 0x80;

pub(super) fn interface(endpoint: &Endpoint) -> UpdateInterfaceRequest {
    let kind = match &endpoint.kind {
        Kind::Joined(kind) | Kind::Unsupported(kind) => kind.clone(),
    };
    let interface = Interface {
        device: endpoint.name.clone(),
        name: endpoint.name.clone(),
        IPAddresses: endpoint.addresses.iter().map(address).collect(),
        mtu: endpoint.mtu.into(),
        hwAddr: colons(&endpoint.mac),
        type_: kind,
        raw_flags: if endpoint.no_arp { NO_ARP } else { 0 },
        ..Default::default()
    };
    UpdateInterfaceRequest { interface: Some(interface).into(), ..Default::default() }
}

pub(super) fn routes(routes: &[Route], endpoints: &[Endpoint]) -> UpdateRoutesRequest {
    let route = |route: &Route| WireRoute {
        dest: route.to.map_or_else(String::new, |to| to.to_string()),
        gateway: route.gateway.map_or_else(String::new, |gateway| gateway.to_string()),
        device: name(endpoints, route.link),
        source: match route.source {
            // Length 0 says that it is the one for packets without a source.
            Some(Source::Preferred(address)) => format!("{address}/0"),
            Some(Source::From(prefix)) => prefix.to_string(),
            None => String::new(),
        },
        scope: route.scope.into(),
        family: if route.v6 { IPFamily::v6 } else { IPFamily::v4 }.into(),
        flags: route.flags,
        mtu: route.mtu,
        metric: route.metric,
        ..Default::default()
    };
    let routes = Routes { Routes: routes.iter().map(route).collect(), ..Default::default() };
    UpdateRoutesRequest { routes: Some(routes).into(), ..Default::default() }
}

pub(super) fn neighbours(neighbours: &[Neighbour], endpoints: &[Endpoint]) -> AddARPNeighborsRequest {
    let neighbour = |neighbour: &Neighbour| {
        let to = IPAddress {
            family: family(neighbour.address).into(),
            address: neighbour.address.to_string(),
            ..Default::default()
        };
        ARPNeighbor {
            toIPAddress: Some(to).into(),
            device: name(endpoints, neighbour.link),
            lladdr: colons(&neighbour.mac),
            state: PERMANENT,
            flags: neighbour.flags.into(),
            ..Default::default()
        }
    };
    let neighbours =
        ARPNeighbors { ARPNeighbors: neighbours.iter().map(neighbour).collect(), ..Default::default() };
    AddARPNeighborsRequest { neighbors: Some(neighbours).into(), ..Default::default() }
}

fn address(prefix: &Prefix) -> IPAddress {
    IPAddress {
        family: family(prefix.address).into(),
        address: prefix.address.to_string(),
        mask: prefix.length.to_string(),
        ..Default::default()
    }
}

fn family(address: IpAddr) -> IPFamily {
    if address.is_ipv6() { IPFamily::v6 } else { IPFamily::v4 }
}

fn name(endpoints: &[Endpoint], index: u32) -> String {
    endpoints.iter().find(|endpoint| endpoint.index == index).map_or_else(String::new, |e| e.name.clone())
}

/// A hardware address as the wire has it.
pub(super) fn colons(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_its_routes_and_neighbours_in_the_wires_words() {
        let prefix = |address: &str, length| Prefix { address: address.parse().unwrap(), length };
        let endpoint = Endpoint {
            index: 2,
            name: "eth0".into(),
            kind: Kind::Joined("veth".into()),
            mac: [2, 0, 0, 0, 0xab, 1],
            mtu: 1400,
            no_arp: true,
            addresses: vec![prefix("10.1.0.2", 16), prefix("fd00::2", 64)],
        };
        let told = interface(&endpoint).interface.unwrap();
        assert_eq!((told.name.as_str(), told.hwAddr.as_str()), ("eth0", "02:00:00:00:ab:01"));
        assert_eq!((told.mtu, told.raw_flags, told.type_.as_str()), (1400, 0x80, "veth"));
        let addresses: Vec<_> = told
            .IPAddresses
            .iter()
            .map(|a| (a.family.unwrap(), a.address.as_str(), a.mask.as_str()))
            .collect();
        assert_eq!(addresses, [(IPFamily::v4, "10.1.0.2", "16"), (IPFamily::v6, "fd00::2", "64")]);

        let default = Route {
            link: 2,
            v6: false,
            to: None,
            gateway: Some([10, 1, 0, 1].into()),
            source: Some(Source::Preferred([10, 1, 0, 2].into())),
            scope: 0,
            flags: 4,
            mtu: 0,
            metric: 7,
        };
        let from = Source::From(prefix("fd01::", 48));
        let on_link = Route {
            v6: true,
            to: Some(prefix("fd02::", 48)),
            gateway: None,
            source: Some(from),
            scope: 253,
            ..default.clone()
        };
        let told = routes(&[default, on_link], std::slice::from_ref(&endpoint)).routes.unwrap().Routes;
        let shown: Vec<_> = told
            .iter()
            .map(|r| {
                format!(
                    "{:?} {:?} {} {} {} {} {}",
                    r.dest, r.gateway, r.device, r.source, r.scope, r.flags, r.metric
                )
            })
            .collect();
        assert_eq!(
            shown,
            [r#""" "10.1.0.1" eth0 10.1.0.2/0 0 4 7"#, r#""fd02::/48" "" eth0 fd01::/48 253 4 7"#]
        );

        let gateway = Neighbour { link: 2, address: [10, 1, 0, 1].into(), mac: vec![2; 6], flags: 0 };
        let told = neighbours(&[gateway], &[endpoint]).neighbors.unwrap().ARPNeighbors.remove(0);
        assert_eq!(
            (told.lladdr.as_str(), told.device.as_str(), told.state),
            ("02:02:02:02:02:02", "eth0", 0x80)
        );
        assert_eq!(told.toIPAddress.address, "10.1.0.1");
    }
}

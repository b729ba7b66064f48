//! From what the kernel tells of a namespace to what the guest is to have of it. Pure.

use std::net::IpAddr;

use rtnetlink::packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
        RouteType,
    },
    rule::{RuleAttribute, RuleMessage},
};

use super::endpoint::{Endpoint, Kind, Mac, Neighbour, Prefix, Route, Scan, Source, is_fallback, kind_of};
use crate::error::{Error, Result};

/// The kernel's own rules: tables local, main and default, as far as there are such.
const OWN_PRIORITIES: [u32; 3] = [0, 32766, 32767];
/// `RT_SCOPE_LINK`.
const SCOPE_LINK: u8 = 253;

/// Everything as the kernel told it.
#[derive(Debug, Default)]
pub(super) struct Dump {
    pub links: Vec<LinkMessage>,
    pub addresses: Vec<AddressMessage>,
    pub routes: Vec<RouteMessage>,
    pub neighbours: Vec<NeighbourMessage>,
    pub rules: Vec<RuleMessage>,
}

/// What the guest is to have, without the links for which `ours` holds.
pub(super) fn convert(dump: Dump, ours: impl Fn(&str) -> bool) -> Result<Scan> {
    let mut scan = Scan::default();
    for link in &dump.links {
        if let Some(endpoint) = endpoint(link, &dump.addresses)?
            && !ours(&endpoint.name)
        {
            match &endpoint.kind {
                Kind::Joined(_) => match scan.endpoints.iter().find(|other| other.mac == endpoint.mac) {
                    None => scan.endpoints.push(endpoint),
                    // The guest is told by it which card is meant.
                    Some(other) => scan.left_out.push(format!(
                        "interface {}: it has the hardware address of {}",
                        endpoint.name, other.name
                    )),
                },
                Kind::Unsupported(why) => scan.left_out.push(format!("interface {}: {why}", endpoint.name)),
            }
        }
    }
    for message in &dump.routes {
        if let Some(route) = route(message, &scan.endpoints, &mut scan.left_out)? {
            scan.routes.push(route);
        }
    }
    scan.routes.extend(peers(&dump.addresses, &scan.endpoints));
    let known = |index| scan.endpoints.iter().any(|endpoint| endpoint.index == index);
    scan.neighbours.extend(dump.neighbours.iter().filter_map(neighbour).filter(|found| known(found.link)));
    let rules = dump.rules.iter().filter(|rule| !is_own(rule)).count();
    if rules > 0 {
        scan.left_out.push(format!("{rules} policy rules: the guest has the main table only"));
    }
    Ok(scan)
}

/// The link as the guest shall have it; `None` for the loopback and for what is not in use.
fn endpoint(link: &LinkMessage, addresses: &[AddressMessage]) -> Result<Option<Endpoint>> {
    let (mut name, mut mac, mut mtu, mut infos) = (String::new(), None, 0, [].as_slice());
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name.clone_from(value),
            LinkAttribute::Address(value) => mac = Mac::try_from(value.as_slice()).ok(),
            LinkAttribute::Mtu(value) => mtu = *value,
            LinkAttribute::LinkInfo(value) => infos = value.as_slice(),
            _ => {}
        }
    }
    let addresses = addresses_of(link.header.index, addresses);
    let used = link.header.flags.contains(LinkFlags::Up) || !addresses.is_empty();
    if link.header.flags.contains(LinkFlags::Loopback) || !used || is_fallback(&name) {
        return Ok(None);
    }
    let is_ethernet = link.header.link_layer_type == LinkLayerType::Ether;
    let (kind, mac) = match (kind_of(infos), mac) {
        (Kind::Joined(kind), Some(mac)) if is_ethernet => (Kind::Joined(kind), mac),
        (Kind::Joined(kind), _) => (
            Kind::Unsupported(format!("a device of kind {kind} without Ethernet addresses cannot be joined")),
            [0; 6],
        ),
        (unsupported, mac) => (unsupported, mac.unwrap_or_default()),
    };
    let no_arp = link.header.flags.contains(LinkFlags::Noarp);
    Ok(Some(Endpoint { index: link.header.index, name, kind, mac, mtu, no_arp, addresses }))
}

fn addresses_of(link: u32, all: &[AddressMessage]) -> Vec<Prefix> {
    let on_link = all.iter().filter(|message| message.header.index == link);
    on_link
        .filter_map(|message| {
            let mut found = None;
            for attribute in &message.attributes {
                match attribute {
                    // The other end's, where there is one.
                    AddressAttribute::Address(address) => found = found.or(Some(*address)),
                    AddressAttribute::Local(address) => found = Some(*address),
                    AddressAttribute::Flags(flags) if flags.contains(AddressFlags::Dadfailed) => return None,
                    _ => {}
                }
            }
            Some(Prefix { address: found?, length: message.header.prefix_len })
        })
        .collect()
}

/// The ways to other ends of addresses: the kernel makes them, and in the guest there is only one end.
fn peers(addresses: &[AddressMessage], endpoints: &[Endpoint]) -> Vec<Route> {
    let pair = |message: &AddressMessage| {
        let (mut local, mut peer) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(address) => local = Some(*address),
                AddressAttribute::Address(address) => peer = Some(*address),
                _ => {}
            }
        }
        let (local, peer) = (local?, peer?);
        (local != peer && endpoints.iter().any(|endpoint| endpoint.index == message.header.index)).then(
            || Route {
                link: message.header.index,
                v6: peer.is_ipv6(),
                to: Some(Prefix {
                    address: network(peer, message.header.prefix_len),
                    length: message.header.prefix_len,
                }),
                gateway: None,
                source: Some(Source::Preferred(local)),
                scope: if peer.is_ipv6() { 0 } else { SCOPE_LINK },
                flags: 0,
                mtu: 0,
                metric: 0,
            },
        )
    };
    addresses.iter().filter_map(pair).collect()
}

fn network(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(address) & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            IpAddr::V6((u128::from(address) & mask).into())
        }
    }
}

/// A route that the guest must be told of: its kernel makes those of its addresses itself.
fn route(
    message: &RouteMessage,
    endpoints: &[Endpoint],
    left_out: &mut Vec<String>,
) -> Result<Option<Route>> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let (mut link, mut to, mut gateway, mut mtu, mut metric) = (None, None, None, 0, 0);
    let (mut preferred, mut from, mut obstacle) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(value) => table = *value,
            RouteAttribute::Oif(value) => link = Some(*value),
            RouteAttribute::Destination(value) => to = ip(value),
            RouteAttribute::Gateway(value) => gateway = ip(value),
            RouteAttribute::PrefSource(value) => preferred = ip(value),
            RouteAttribute::Source(value) => from = ip(value),
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics
                    .iter()
                    .find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    })
                    .unwrap_or(0);
            }
            RouteAttribute::MultiPath(_) | RouteAttribute::NhId(_) => {
                obstacle = Some("several ways (multipath, nexthop objects)")
            }
            RouteAttribute::Via(_) => obstacle = Some("a gateway of the other address family"),
            RouteAttribute::Encap(_) => obstacle = Some("an encapsulation"),
            _ => {}
        }
    }
    let made_by_kernel = matches!(header.protocol, RouteProtocol::Kernel | RouteProtocol::Ra);
    let main = table == u32::from(RouteHeader::RT_TABLE_MAIN);
    if made_by_kernel || !main || header.flags.contains(RouteFlags::Cloned) {
        return Ok(None);
    }
    let to = to.map(|address| Prefix { address, length: header.destination_prefix_length });
    let shown = to.map_or_else(|| "default".to_owned(), |to| to.to_string());
    if let Some(obstacle) = obstacle {
        return Err(Error::precondition(format!(
            "route {shown}: the guest cannot have one with {obstacle}: remove it"
        )));
    }
    if header.kind != RouteType::Unicast {
        left_out.push(format!(
            "route {shown}: of type {:?}, the guest can have unicast routes only",
            header.kind
        ));
        return Ok(None);
    }
    let Some(link) = link.filter(|link| endpoints.iter().any(|endpoint| endpoint.index == *link)) else {
        return Ok(None); // Through the loopback, or a link that is left out, which was said.
    };
    let from = from.map(|address| Source::From(Prefix { address, length: header.source_prefix_length }));
    Ok(Some(Route {
        link,
        v6: header.address_family == AddressFamily::Inet6,
        to,
        gateway,
        source: from.or(preferred.map(Source::Preferred)),
        scope: header.scope.into(),
        flags: (header.flags & (RouteFlags::Onlink | RouteFlags::Pervasive)).bits(),
        mtu,
        metric,
    }))
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut address, mut mac) = (None, Vec::new());
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(value)) => {
                address = Some(IpAddr::V4(*value))
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(value)) => {
                address = Some(IpAddr::V6(*value))
            }
            NeighbourAttribute::LinkLayerAddress(value) => mac.clone_from(value),
            _ => {}
        }
    }
    let address = address.filter(|_| !mac.is_empty())?;
    Some(Neighbour { link: message.header.ifindex, address, mac, flags: message.header.flags.bits() })
}

fn is_own(rule: &RuleMessage) -> bool {
    let priority = rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Priority(priority) => Some(*priority),
        _ => None,
    });
    OWN_PRIORITIES.contains(&priority.unwrap_or(0))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use rtnetlink::packet_route::{
        link::{InfoKind, LinkInfo},
        route::{RouteNextHop, RouteScope},
    };

    use super::*;

    const ETH0: u32 = 2;

    fn link(index: u32, name: &str, kind: Option<InfoKind>, flags: LinkFlags) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = flags;
        link.header.link_layer_type = LinkLayerType::Ether;
        link.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, index as u8]),
            LinkAttribute::Mtu(1400),
        ];
        link.attributes.extend(kind.map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])));
        link
    }

    fn address(link: u32, local: [u8; 4], peer: [u8; 4], length: u8) -> AddressMessage {
        let mut message = AddressMessage::default();
        (message.header.index, message.header.prefix_len) = (link, length);
        message.attributes = vec![
            AddressAttribute::Address(Ipv4Addr::from(peer).into()),
            AddressAttribute::Local(Ipv4Addr::from(local).into()),
        ];
        message
    }

    fn route(attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        message.header.destination_prefix_length = 16;
        message.attributes = attributes;
        message
    }

    fn v4(address: [u8; 4]) -> RouteAddress {
        RouteAddress::Inet(address.into())
    }

    fn with_eth0() -> Dump {
        Dump {
            links: vec![link(ETH0, "eth0", Some(InfoKind::Veth), LinkFlags::Up)],
            addresses: vec![address(ETH0, [10, 1, 0, 2], [10, 1, 0, 2], 16)],
            ..Dump::default()
        }
    }

    fn scan_of(dump: Dump) -> Scan {
        convert(dump, |name| name == "tap0_kata").unwrap()
    }

    #[test]
    fn links_in_use_are_taken_and_the_others_named_or_passed_over() {
        let (up, down) = (LinkFlags::Up, LinkFlags::empty());
        let veth = Some(InfoKind::Veth);
        for (case, link, addressed, taken, said) in [
            ("up", link(9, "eth0", veth.clone(), up), false, true, None),
            ("down with an address", link(9, "eth0", veth.clone(), down), true, true, None),
            ("not ready yet", link(9, "eth0", veth, down), false, false, None),
            ("macvlan", link(9, "m", Some(InfoKind::MacVlan), up), true, true, None),
            ("loopback", link(9, "lo", None, up | LinkFlags::Loopback), true, false, None),
            ("ours", link(9, "tap0_kata", Some(InfoKind::Tun), up), false, false, None),
            ("fallback", link(9, "tunl0", Some(InfoKind::IpIp), up), true, false, None),
            ("physical", link(9, "eth0", None, up), true, false, Some("passthrough")),
            ("bridge", link(9, "br0", Some(InfoKind::Bridge), up), true, false, Some("bridge")),
        ] {
            let addresses =
                if addressed { vec![address(9, [10, 0, 0, 1], [10, 0, 0, 1], 24)] } else { Vec::new() };
            let scan = scan_of(Dump { links: vec![link], addresses, ..Dump::default() });
            assert_eq!(scan.endpoints.len(), usize::from(taken), "{case}");
            assert_eq!(scan.left_out.len(), usize::from(said.is_some()), "{case}: {:?}", scan.left_out);
            assert!(said.is_none_or(|said| scan.left_out[0].contains(said)), "{case}: {:?}", scan.left_out);
        }
    }

    #[test]
    fn a_link_keeps_what_it_has() {
        let mut dump = with_eth0();
        dump.links[0].header.flags |= LinkFlags::Noarp;
        let mut failed = address(ETH0, [10, 9, 0, 2], [10, 9, 0, 2], 16);
        failed.attributes.push(AddressAttribute::Flags(AddressFlags::Dadfailed));
        dump.addresses.push(failed);
        dump.addresses.push(address(7, [10, 8, 0, 2], [10, 8, 0, 2], 16));
        let endpoint = Endpoint {
            index: ETH0,
            name: "eth0".into(),
            kind: Kind::Joined("veth".into()),
            mac: [2, 0, 0, 0, 0, 2],
            mtu: 1400,
            no_arp: true,
            addresses: vec![Prefix { address: [10, 1, 0, 2].into(), length: 16 }],
        };
        assert_eq!(scan_of(dump).endpoints, [endpoint]);
    }

    #[test]
    fn of_two_links_with_one_hardware_address_the_second_is_named() {
        let mut dump = with_eth0();
        let mut twin = link(3, "eth1", Some(InfoKind::IpVlan), LinkFlags::Up);
        twin.attributes[1] = dump.links[0].attributes[1].clone();
        dump.links.push(twin);
        let scan = scan_of(dump);
        assert_eq!(scan.endpoints.len(), 1);
        assert!(
            scan.left_out[0].contains("eth1") && scan.left_out[0].contains("eth0"),
            "{:?}",
            scan.left_out
        );
    }

    #[test]
    fn routes_are_as_they_were_made_and_the_kernels_own_are_not_told() {
        let mut dump = with_eth0();
        let mut full = route(vec![
            RouteAttribute::Oif(ETH0),
            RouteAttribute::Destination(v4([10, 2, 0, 0])),
            RouteAttribute::Gateway(v4([10, 3, 0, 1])),
            RouteAttribute::PrefSource(v4([10, 1, 0, 2])),
            RouteAttribute::Priority(50),
            RouteAttribute::Metrics(vec![RouteMetric::Advmss(1), RouteMetric::Mtu(1300)]),
        ]);
        full.header.flags = RouteFlags::Onlink | RouteFlags::Linkdown;
        full.header.scope = RouteScope::Site;
        let default = route(vec![RouteAttribute::Oif(ETH0), RouteAttribute::Gateway(v4([10, 1, 0, 1]))]);
        let mut kernels = route(vec![RouteAttribute::Oif(ETH0)]);
        kernels.header.protocol = RouteProtocol::Kernel;
        let elsewhere = route(vec![RouteAttribute::Oif(1)]);
        let other_table = route(vec![RouteAttribute::Oif(ETH0), RouteAttribute::Table(100)]);
        dump.routes = vec![full, default, kernels, elsewhere, other_table];
        let bare = Route {
            link: ETH0,
            v6: false,
            to: None,
            gateway: Some([10, 1, 0, 1].into()),
            source: None,
            scope: 0,
            flags: 0,
            mtu: 0,
            metric: 0,
        };
        let full = Route {
            to: Some(Prefix { address: [10, 2, 0, 0].into(), length: 16 }),
            gateway: Some([10, 3, 0, 1].into()),
            source: Some(Source::Preferred([10, 1, 0, 2].into())),
            scope: 200,
            flags: 4,
            mtu: 1300,
            metric: 50,
            ..bare.clone()
        };
        assert_eq!(scan_of(dump).routes, [full, bare]);
    }

    #[test]
    fn the_way_to_an_addresss_other_end_is_a_route() {
        let mut dump = with_eth0();
        dump.addresses = vec![address(ETH0, [10, 1, 0, 2], [10, 7, 0, 9], 24)];
        let scan = scan_of(dump);
        assert_eq!(scan.endpoints[0].addresses, [Prefix { address: [10, 1, 0, 2].into(), length: 24 }]);
        assert_eq!(scan.routes[0].to, Some(Prefix { address: [10, 7, 0, 0].into(), length: 24 }));
        assert_eq!((scan.routes[0].scope, scan.routes.len()), (253, 1));
    }

    #[test]
    fn what_the_guest_cannot_have_is_named() {
        let mut multipath = route(vec![
            RouteAttribute::Destination(v4([10, 5, 0, 0])),
            RouteAttribute::MultiPath(vec![RouteNextHop::default()]),
        ]);
        let dump = Dump { routes: vec![multipath.clone()], ..with_eth0() };
        let error = convert(dump, |_| false).unwrap_err().to_string();
        assert!(error.contains("10.5.0.0/16") && error.contains("multipath"), "{error}");

        multipath.attributes.pop();
        multipath.header.kind = RouteType::BlackHole;
        let (mut own, mut theirs) = (RuleMessage::default(), RuleMessage::default());
        own.attributes.push(RuleAttribute::Priority(32766));
        theirs.attributes.push(RuleAttribute::Priority(100));
        let dump = Dump { routes: vec![multipath], rules: vec![own, theirs], ..with_eth0() };
        let left_out = scan_of(dump).left_out;
        assert!(left_out[0].contains("10.5.0.0/16") && left_out[1].starts_with("1 policy"), "{left_out:?}");
    }

    #[test]
    fn only_permanent_neighbours_with_an_address_are_told() {
        let neighbour = |state, mac: &[u8], link| {
            let mut message = NeighbourMessage::default();
            (message.header.state, message.header.ifindex) = (state, link);
            message.attributes =
                vec![NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 1, 0, 1].into()))];
            message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.into()));
            message
        };
        let mac = [2, 0, 0, 0, 1, 1];
        let neighbours = vec![
            neighbour(NeighbourState::Permanent, &mac, ETH0),
            neighbour(NeighbourState::Reachable, &mac, ETH0),
            neighbour(NeighbourState::Permanent, &[], ETH0),
            neighbour(NeighbourState::Permanent, &mac, 1),
        ];
        let scan = scan_of(Dump { neighbours, ..with_eth0() });
        let told = Neighbour { link: ETH0, address: [10, 1, 0, 1].into(), mac: mac.into(), flags: 0 };
        assert_eq!(scan.neighbours, [told]);
    }
}

//! A link of the sandbox's network namespace, and all that the guest must be given of it. Pure.

use std::{fmt, net::IpAddr};

use rtnetlink::packet_route::link::{InfoData, InfoIpVlan, InfoKind, IpVlanMode, LinkInfo};

/// A hardware address.
pub(super) type Mac = [u8; 6];

/// What a namespace holds for the guest.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    pub endpoints: Vec<Endpoint>,
    pub routes: Vec<Route>,
    pub neighbours: Vec<Neighbour>,
    /// What is there and cannot be had in the guest, for people.
    pub left_out: Vec<String>,
}

/// One link and what stands on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub index: u32,
    pub name: String,
    pub kind: Kind,
    pub mac: Mac,
    pub mtu: u32,
    pub no_arp: bool,
    pub addresses: Vec<Prefix>,
}

/// An address, or a network, with the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefix {
    pub address: IpAddr,
    pub length: u8,
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    /// The index of its link.
    pub link: u32,
    pub v6: bool,
    /// None for a default route.
    pub to: Option<Prefix>,
    pub gateway: Option<IpAddr>,
    pub source: Option<Source>,
    pub scope: u8,
    /// Of `RTNH_F_*`, those that are set and not found out.
    pub flags: u32,
    /// 0 for the path's own.
    pub mtu: u32,
    pub metric: u32,
}

/// What a route says of a packet's source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// What a packet gets that has none.
    Preferred(IpAddr),
    /// Whose packets go this way.
    From(Prefix),
}

/// A neighbour that needs not be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub link: u32,
    pub address: IpAddr,
    pub mac: Vec<u8>,
    pub flags: u8,
}

/// How a link can be joined to the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// What comes in at it is sent to a tap, and back. The name is the kernel's.
    Joined(String),
    /// Not at all, for a reason.
    Unsupported(String),
}

/// By a link's kind; none is a device of the machine's own.
pub(super) fn kind_of(infos: &[LinkInfo]) -> Kind {
    let kind = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    let Some(kind) = kind else {
        return Kind::Unsupported("a physical device needs passthrough, which is not served".into());
    };
    // It gives packets to the namespace's own stack behind the place where filters are asked.
    let l3s = InfoIpVlan::Mode(IpVlanMode::L3S);
    if infos.iter().any(|info| matches!(info, LinkInfo::Data(InfoData::IpVlan(data)) if data.contains(&l3s)))
    {
        return Kind::Unsupported("an ipvlan of mode l3s takes packets past the guest: use l2 or l3".into());
    }
    match kind {
        InfoKind::Veth
        | InfoKind::Vlan
        | InfoKind::MacVlan
        | InfoKind::IpVlan
        | InfoKind::Dummy
        | InfoKind::Netkit
        | InfoKind::Tun => Kind::Joined(kind.to_string()),
        other => Kind::Unsupported(format!("a device of kind {other} cannot be joined to a guest")),
    }
}

/// Whether a link is one that the kernel puts into every namespace once a tunnel's module is loaded.
pub(super) fn is_fallback(name: &str) -> bool {
    const FALLBACKS: [&str; 10] =
        ["tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0", "teql0"];
    FALLBACKS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipvlan_is_joined_in_the_modes_whose_packets_filters_see() {
        for (mode, joined) in [(IpVlanMode::L2, true), (IpVlanMode::L3, true), (IpVlanMode::L3S, false)] {
            let data = LinkInfo::Data(InfoData::IpVlan(vec![InfoIpVlan::Mode(mode)]));
            let kind = kind_of(&[LinkInfo::Kind(InfoKind::IpVlan), data]);
            assert_eq!(matches!(kind, Kind::Joined(_)), joined, "{mode:?}");
        }
    }
}

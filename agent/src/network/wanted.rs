//! What the host wants of the network: the wire's texts -> checked values. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::link::LinkFlags;
use protocols::types as wire;

use crate::error::{Error, Result};

/// Bytes of a name, without the zero at the end.
const NAME_LIMIT: usize = 15;
/// More of one kind in a call is a mistake or worse.
const COUNT_LIMIT: usize = 4096;
const PERMANENT: u16 = 0x80;

/// The hardware address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

/// An address with the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    pub address: IpAddr,
    pub prefix: u8,
}

#[derive(Debug, PartialEq)]
pub struct Interface {
    pub address: Mac,
    pub name: String,
    pub addresses: Vec<Cidr>,
    pub mtu: Option<u32>,
    pub is_without_arp: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    pub is_v6: bool,
    /// `None` is the default route.
    pub destination: Option<Cidr>,
    pub gateway: Option<IpAddr>,
    pub device: String,
    pub preferred_source: Option<IpAddr>,
    /// Only of packets from there; IPv6 has such routes.
    pub source: Option<Cidr>,
    pub scope: u8,
    pub flags: u32,
    pub mtu: u32,
    /// 0 leaves the kernel's.
    pub metric: u32,
}

#[derive(Debug, PartialEq)]
pub struct Neighbour {
    pub address: IpAddr,
    pub device: String,
    pub link_address: Option<Mac>,
    pub state: u16,
    pub flags: u8,
}

impl Interface {
    pub fn parse(interface: &wire::Interface) -> Result<Self> {
        let name = name("name", &interface.name)?;
        if name == "lo" {
            return Err(Error::invalid("name: \"lo\" is the guest's own"));
        }
        check_count("IPAddresses", interface.IPAddresses.len())?;
        let addresses = interface.IPAddresses.iter().map(Cidr::of_interface).collect::<Result<_>>()?;
        let mtu = u32::try_from(interface.mtu)
            .map_err(|_| Error::invalid(format!("mtu: {} is no MTU", interface.mtu)))?;
        Ok(Self {
            address: Mac::parse("hwAddr", &interface.hwAddr)?,
            name,
            addresses,
            mtu: (mtu > 0).then_some(mtu),
            is_without_arp: interface.raw_flags & LinkFlags::Noarp.bits() != 0,
        })
    }
}

impl Cidr {
    fn of_interface(address: &wire::IPAddress) -> Result<Self> {
        let parsed = ip("IPAddresses.address", &address.address)?;
        if parsed.is_unspecified() || parsed.is_multicast() {
            return Err(Error::invalid(format!("IPAddresses.address: {parsed} is no address of a host")));
        }
        if !parsed.is_ipv6() && address.family.enum_value() == Ok(wire::IPFamily::v6) {
            return Err(Error::invalid(format!("IPAddresses.family: {parsed} is not of IPv6")));
        }
        let prefix = address.mask.parse().ok().filter(|prefix| *prefix <= bits(parsed)).ok_or_else(|| {
            Error::invalid(format!(
                "IPAddresses.mask: {:?} is no length of a prefix of {parsed}",
                address.mask
            ))
        })?;
        Ok(Self { address: parsed, prefix })
    }

    /// `address/prefix`, or an address alone.
    fn parse(field: &str, text: &str) -> Result<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (ip(field, address)?, Some(prefix)),
            None => (ip(field, text)?, None),
        };
        let whole = bits(address);
        let prefix = match prefix {
            None => Some(whole),
            Some(prefix) => prefix.parse().ok().filter(|prefix| *prefix <= whole),
        };
        let prefix = prefix
            .ok_or_else(|| Error::invalid(format!("{field}: {text:?} has no valid length of a prefix")))?;
        Ok(Self { address, prefix })
    }

    fn has_more_than_its_prefix(self) -> bool {
        let (value, unused) = match self.address {
            IpAddr::V4(address) => (u128::from(address.to_bits()), 32 - self.prefix),
            IpAddr::V6(address) => (address.to_bits(), 128 - self.prefix),
        };
        value & 1u128.checked_shl(unused.into()).map_or(u128::MAX, |bit| bit - 1) != 0
    }

    /// Whether the address is of its link alone, and an IPv6 address.
    pub fn is_v6_of_link(self) -> bool {
        matches!(self.address, IpAddr::V6(address) if address.is_unicast_link_local())
    }

    /// The address of all hosts in it, where there can be one.
    pub fn broadcast(self) -> Option<Ipv4Addr> {
        let IpAddr::V4(address) = self.address else { return None };
        (self.prefix <= 30).then(|| Ipv4Addr::from_bits(address.to_bits() | (u32::MAX >> self.prefix)))
    }
}

impl Route {
    /// Each of `routes`, in their order.
    pub fn parse_all(routes: &[wire::Route]) -> Result<Vec<Self>> {
        check_count("Routes", routes.len())?;
        routes.iter().map(Self::parse).collect()
    }

    pub fn parse(route: &wire::Route) -> Result<Self> {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let destination = given(&route.dest).map(|text| Cidr::parse("dest", &text)).transpose()?;
        let gateway = given(&route.gateway).map(|text| ip("gateway", &text)).transpose()?;
        let source = given(&route.source).map(|text| Cidr::parse("source", &text)).transpose()?;
        // The wire's default is IPv4, so only addresses can tell that it was meant.
        let is_v6 = match destination.map(|network| network.address).or(gateway) {
            Some(address) => address.is_ipv6(),
            None => route.family.enum_value() == Ok(wire::IPFamily::v6),
        };
        if !is_v6 && route.family.enum_value() == Ok(wire::IPFamily::v6) {
            return Err(Error::invalid(format!("family: the route {:?} is not of IPv6", route.dest)));
        }
        if gateway.is_some_and(|gateway| is_v6 && !gateway.is_ipv6())
            || source.is_some_and(|source| source.address.is_ipv6() != is_v6)
        {
            return Err(Error::invalid(format!(
                "gateway, source: not of the family of route {:?}",
                route.dest
            )));
        }
        if destination.is_some_and(Cidr::has_more_than_its_prefix) {
            return Err(Error::invalid(format!("dest: {:?} has bits beyond its prefix", route.dest)));
        }
        // A prefix is of IPv6 alone. Upstream's hosts send the address alone where they mean the source to use.
        let is_preferred = !route.source.contains('/')
            || source.is_some_and(|source| source.prefix == 0 || !is_v6 && source.prefix == 32);
        if !is_v6 && !is_preferred {
            return Err(Error::invalid(format!("source: {:?}: IPv4 has no routes by source", route.source)));
        }
        Ok(Self {
            is_v6,
            destination: destination.filter(|network| network.prefix > 0),
            gateway: gateway.filter(|gateway| !gateway.is_unspecified()),
            device: name("device", &route.device)?,
            preferred_source: source.filter(|_| is_preferred).map(|source| source.address),
            source: source.filter(|_| !is_preferred),
            scope: u8::try_from(route.scope)
                .map_err(|_| Error::invalid(format!("scope: {} is over 255", route.scope)))?,
            flags: route.flags,
            mtu: route.mtu,
            metric: route.metric,
        })
    }
}

impl Neighbour {
    /// Each of `neighbours`, in their order.
    pub fn parse_all(neighbours: &[wire::ARPNeighbor]) -> Result<Vec<Self>> {
        check_count("ARPNeighbors", neighbours.len())?;
        neighbours.iter().map(Self::parse).collect()
    }

    fn parse(neighbour: &wire::ARPNeighbor) -> Result<Self> {
        let address = neighbour.toIPAddress.as_ref().map_or("", |address| address.address.as_str());
        let link_address = match neighbour.lladdr.as_str() {
            "" => None,
            text => Some(Mac::parse("lladdr", text)?),
        };
        let state = u16::try_from(neighbour.state)
            .map_err(|_| Error::invalid(format!("state: {} is no state", neighbour.state)))?;
        Ok(Self {
            address: ip("toIPAddress.address", address)?,
            device: name("device", &neighbour.device)?,
            link_address,
            state: if state == 0 { PERMANENT } else { state },
            flags: u8::try_from(neighbour.flags)
                .map_err(|_| Error::invalid(format!("flags: {} are over 255", neighbour.flags)))?,
        })
    }
}

impl Mac {
    pub fn parse(field: &str, text: &str) -> Result<Self> {
        let mut bytes = [0; 6];
        let mut words = text.split(':');
        let whole = bytes.iter_mut().all(|byte| {
            let word = words.next().filter(|word| word.len() == 2 && !word.starts_with('+'));
            word.and_then(|word| u8::from_str_radix(word, 16).ok()).map(|value| *byte = value).is_some()
        });
        // The zero address is the loopback's, and those with this bit are of groups.
        if !whole || words.next().is_some() || bytes == [0; 6] || bytes[0] & 1 != 0 {
            return Err(Error::invalid(format!("{field}: {text:?} is no hardware address of a link")));
        }
        Ok(Self(bytes))
    }
}

/// A hardware address as upstream's agent writes it.
pub fn hardware_address(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

fn name(field: &str, text: &str) -> Result<String> {
    // What the kernel refuses, and %, from which it would make another name.
    let is_valid = (1..=NAME_LIMIT).contains(&text.len())
        && !matches!(text, "." | "..")
        && !text.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%'));
    match is_valid {
        true => Ok(text.to_owned()),
        false => Err(Error::invalid(format!("{field}: {text:?} is no name of an interface"))),
    }
}

fn ip(field: &str, text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| Error::invalid(format!("{field}: {text:?} is no IP address")))
}

fn bits(address: IpAddr) -> u8 {
    (if address.is_ipv6() { Ipv6Addr::BITS } else { Ipv4Addr::BITS }) as u8
}

fn check_count(field: &str, count: usize) -> Result<()> {
    match count <= COUNT_LIMIT {
        true => Ok(()),
        false => Err(Error::invalid(format!("{field}: {count} are more than {COUNT_LIMIT}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(dest: &str, source: &str, family: wire::IPFamily) -> Result<Route> {
        Route::parse(&wire::Route {
            dest: dest.into(),
            source: source.into(),
            family: family.into(),
            device: "eth0".into(),
            ..Default::default()
        })
    }

    #[test]
    fn prefixes_are_told_from_what_is_beyond_them() {
        for (text, more, broadcast) in [
            ("10.1.2.3/24", true, Some("10.1.2.255")),
            ("10.1.2.0/24", false, Some("10.1.2.255")),
            ("10.1.2.3/32", false, None),
            ("10.1.2.2/31", false, None),
            ("0.0.0.0/0", false, Some("255.255.255.255")),
            ("10.0.0.0/0", true, Some("255.255.255.255")),
            ("fd00::/64", false, None),
            ("fd00::1/64", true, None),
            ("::/0", false, None),
            ("::1/0", true, None),
            ("fd00::1", false, None),
        ] {
            let cidr = Cidr::parse("dest", text).unwrap();
            assert_eq!(cidr.has_more_than_its_prefix(), more, "{text}");
            assert_eq!(cidr.broadcast().map(|address| address.to_string()).as_deref(), broadcast, "{text}");
        }
    }

    #[test]
    fn a_source_is_to_be_used_unless_it_is_a_prefix() {
        use wire::IPFamily::{v4, v6};
        for (source, family, preferred, prefix) in [
            ("", v4, false, None),
            ("10.0.0.1", v4, true, None),
            ("10.0.0.1/32", v4, true, None),
            ("10.0.0.1/0", v4, true, None),
            ("fd00::1", v6, true, None),
            ("fd00::1/0", v6, true, None),
            ("fd00::/64", v6, false, Some(64)),
        ] {
            let route = route("", source, family).unwrap();
            assert_eq!(route.preferred_source.is_some(), preferred, "{source}");
            assert_eq!(route.source.map(|cidr| cidr.prefix), prefix, "{source}");
        }
        assert!(route("", "10.0.0.0/8", v4).is_err() && route("", "fd00::1", v4).is_err());
    }

    #[test]
    fn every_form_of_a_default_route_is_one() {
        use wire::IPFamily::{v4, v6};
        for (dest, family, is_v6) in
            [("", v4, false), ("", v6, true), ("0.0.0.0/0", v4, false), ("::/0", v4, true)]
        {
            let route = route(dest, "", family).unwrap();
            assert_eq!((route.destination, route.is_v6), (None, is_v6), "{dest}");
        }
        assert!(route("10.0.0.0/8", "", v6).is_err());
    }

    #[test]
    fn counts_are_bounded() {
        let interface = wire::Interface {
            name: "eth0".into(),
            hwAddr: "02:00:00:00:00:01".into(),
            IPAddresses: vec![wire::IPAddress::default(); COUNT_LIMIT + 1],
            ..Default::default()
        };
        assert!(Interface::parse(&interface).unwrap_err().to_string().starts_with("IPAddresses: 4097"));
        assert!(Route::parse_all(&vec![wire::Route::default(); COUNT_LIMIT + 1]).is_err());
        assert!(Neighbour::parse_all(&vec![wire::ARPNeighbor::default(); COUNT_LIMIT + 1]).is_err());
    }
}

//! The guest's links as they are.

use netlink_packet_core::NlasIterator;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkHeader, LinkMessage, LinkMessageBuffer},
};
use nix::libc;

use super::{
    socket::{Socket, malformed},
    wanted::Mac,
};
use crate::error::Result;

const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;

/// A link, as far as it is of interest here.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub address: Vec<u8>,
    pub mtu: u32,
    /// The least and the most that the device takes, where it says so.
    pub mtu_limits: (u32, Option<u32>),
    pub is_up: bool,
    pub is_loopback: bool,
    pub is_without_arp: bool,
    /// How many queues it could use to send.
    pub queues: u32,
    /// How it makes its own address; `None` if it does not speak IPv6.
    pub address_generation: Option<u8>,
}

impl Link {
    fn read(payload: &[u8]) -> Result<Option<Self>> {
        let message = LinkMessageBuffer::new_checked(payload).map_err(malformed)?;
        let flags = LinkFlags::from_bits_retain(message.flags());
        let mut link = Self {
            index: message.link_index(),
            is_up: flags.contains(LinkFlags::Up),
            is_loopback: flags.contains(LinkFlags::Loopback),
            is_without_arp: flags.contains(LinkFlags::Noarp),
            ..Self::default()
        };
        // Read by hand: a link tells a hundred things, newer kernels more, and all but these would be read for nothing.
        for attribute in message.attributes() {
            let attribute = attribute.map_err(malformed)?;
            let value = attribute.value();
            match attribute.kind() {
                libc::IFLA_ADDRESS => link.address = value.to_owned(),
                libc::IFLA_IFNAME => {
                    link.name = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
                }
                libc::IFLA_MTU => link.mtu = number(value),
                libc::IFLA_NUM_TX_QUEUES => link.queues = number(value),
                libc::IFLA_MIN_MTU => link.mtu_limits.0 = number(value),
                libc::IFLA_MAX_MTU => link.mtu_limits.1 = Some(number(value)).filter(|most| *most > 0),
                libc::IFLA_AF_SPEC => {
                    let inet6 = nested(value, libc::AF_INET6 as u16);
                    let generation = inet6.and_then(|inet6| nested(inet6, IFLA_INET6_ADDR_GEN_MODE));
                    link.address_generation = generation.and_then(|mode| mode.first().copied());
                }
                _ => {}
            }
        }
        Ok(Some(link))
    }
}

/// All links.
pub fn list(socket: &mut Socket) -> Result<Vec<Link>> {
    let mut message = LinkMessage::default();
    // Figures are the greater part of the answer.
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    socket.dump(&RouteNetlinkMessage::GetLink(message), Link::read)
}

/// The link that an interface is: the one with that address. Where several have it, the one of that name comes first, then
/// one that nobody has raised yet.
pub fn of_address<'a>(links: &'a [Link], address: Mac, name: &str) -> Option<&'a Link> {
    let have = || links.iter().filter(|link| !link.is_loopback && link.address == address.0);
    have()
        .find(|link| link.name == name)
        .or_else(|| have().find(|link| !link.is_up))
        .or_else(|| have().next())
}

/// The start of a message about a link.
pub fn about(index: u32, flags: LinkFlags, change_mask: LinkFlags) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header = LinkHeader { index, flags, change_mask, ..LinkHeader::default() };
    message
}

fn number(value: &[u8]) -> u32 {
    value.try_into().map(u32::from_ne_bytes).unwrap_or_default()
}

fn nested(mut value: &[u8], kind: u16) -> Option<&[u8]> {
    while let Some(Ok(attribute)) = NlasIterator::new(value).next() {
        let length = attribute.length() as usize;
        if attribute.kind() == kind {
            return value.get(4..length);
        }
        value = value.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, address: u8, is_up: bool) -> Link {
        Link { name: name.into(), address: vec![2, 0, 0, 0, 0, address], is_up, ..Link::default() }
    }

    #[test]
    fn of_links_with_one_address_the_named_comes_first_and_then_one_that_is_down() {
        let links =
            [link("eth0", 1, true), link("eth1", 1, false), link("eth2", 1, true), link("eth3", 2, true)];
        let name_of = |address, name| {
            of_address(&links, Mac([2, 0, 0, 0, 0, address]), name).map(|link| link.name.as_str())
        };
        assert_eq!(name_of(1, "eth2"), Some("eth2"));
        assert_eq!(name_of(1, "net0"), Some("eth1"));
        assert_eq!(name_of(2, "eth0"), Some("eth3"));
        assert_eq!(name_of(3, "eth0"), None);
        let lo = [Link { is_loopback: true, ..link("lo", 1, false) }];
        assert_eq!(of_address(&lo, Mac([2, 0, 0, 0, 0, 1]), "lo"), None);
    }
}

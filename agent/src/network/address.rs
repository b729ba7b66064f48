//! The addresses of a link.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, Parseable};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeader, AddressMessage, AddressMessageBuffer},
};

use super::{
    socket::{Change, Socket, malformed},
    wanted::Cidr,
};
use crate::error::Result;

/// An address that a link has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Present {
    pub index: u32,
    pub cidr: Cidr,
    /// Not one that the kernel made from what a router told it.
    is_permanent: bool,
}

impl Present {
    fn read(payload: &[u8]) -> Result<Option<Self>> {
        let buffer = AddressMessageBuffer::new_checked(&payload).map_err(malformed)?;
        let message = AddressMessage::parse(&buffer).map_err(malformed)?;
        let (mut address, mut local) = (None, None);
        let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
        for attribute in message.attributes {
            match attribute {
                AddressAttribute::Address(found) => address = Some(found),
                AddressAttribute::Local(found) => local = Some(found),
                AddressAttribute::Flags(found) => flags = found,
                _ => {}
            }
        }
        // On a point-to-point link, the other is the peer's.
        Ok(local.or(address).map(|address| Self {
            index: message.header.index,
            cidr: Cidr { address, prefix: message.header.prefix_len },
            is_permanent: flags.contains(AddressFlags::Permanent),
        }))
    }
}

/// The addresses of all links.
pub fn all(socket: &mut Socket) -> Result<Vec<Present>> {
    socket.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()), Present::read)
}

/// Those of one link.
pub fn of_link(socket: &mut Socket, index: u32) -> Result<Vec<Present>> {
    let mut present = all(socket)?;
    present.retain(|address| address.index == index);
    Ok(present)
}

/// Those of `present` that go. An IPv6 address of the link alone stays if the kernel is the one to make it.
pub fn stale(present: &[Present], wanted: &[Cidr], kernel_makes: bool) -> Vec<Cidr> {
    present
        .iter()
        .filter(|address| address.is_permanent && !wanted.contains(&address.cidr))
        .map(|address| address.cidr)
        .filter(|cidr| !(kernel_makes && cidr.is_v6_of_link()))
        .collect()
}

pub fn removal(cidr: Cidr, index: u32) -> Change {
    let message = RouteNetlinkMessage::DelAddress(about(cidr, index));
    Change { message, flags: 0, what: format!("remove address {}/{}", cidr.address, cidr.prefix) }
}

/// Adds it, or changes it to be as if it had been added.
pub fn addition(cidr: Cidr, index: u32) -> Change {
    let mut message = about(cidr, index);
    match cidr.address {
        IpAddr::V4(_) => message.attributes.extend(cidr.broadcast().map(AddressAttribute::Broadcast)),
        // The host has seen to it that nobody else has the address; until the kernel had, it could not be used.
        IpAddr::V6(_) => message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
    }
    Change {
        message: RouteNetlinkMessage::NewAddress(message),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        what: format!("add address {}/{}", cidr.address, cidr.prefix),
    }
}

fn about(cidr: Cidr, index: u32) -> AddressMessage {
    let family = if cidr.address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let mut message = AddressMessage::default();
    message.header = AddressHeader { family, prefix_len: cidr.prefix, index, ..AddressHeader::default() };
    message.attributes = vec![AddressAttribute::Local(cidr.address), AddressAttribute::Address(cidr.address)];
    message
}

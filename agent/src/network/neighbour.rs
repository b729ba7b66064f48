//! Entries of the neighbour tables.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourHeader, NeighbourMessage},
    route::RouteType,
};

use super::{
    link::Link,
    socket::{Change, Socket},
    wanted::Neighbour,
};
use crate::error::{Error, Result};

/// Sets each, in place of what is there.
pub fn add(socket: &mut Socket, links: &[Link], neighbours: &[Neighbour]) -> Result<()> {
    let changes = neighbours.iter().map(|neighbour| {
        let link = links.iter().find(|link| link.name == neighbour.device).ok_or_else(|| {
            let Neighbour { device, address, .. } = neighbour;
            Error::invalid(format!("Link not found: device {device:?} of neighbour {address}"))
        })?;
        Ok(change(neighbour, link.index))
    });
    socket.all(changes.collect::<Result<_>>()?)
}

fn change(neighbour: &Neighbour, ifindex: u32) -> Change {
    let mut message = NeighbourMessage::default();
    message.header = NeighbourHeader {
        family: if neighbour.address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet },
        ifindex,
        state: neighbour.state.into(),
        flags: NeighbourFlags::from_bits_retain(neighbour.flags),
        kind: RouteType::Unicast,
    };
    message.attributes.push(NeighbourAttribute::Destination(neighbour.address.into()));
    let link_address =
        neighbour.link_address.map(|address| NeighbourAttribute::LinkLayerAddress(address.0.to_vec()));
    message.attributes.extend(link_address);
    Change {
        message: RouteNetlinkMessage::NewNeighbour(message),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        what: format!("neighbour {} dev {}", neighbour.address, neighbour.device),
    }
}

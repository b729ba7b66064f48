//! A link becomes the interface that the host wants: name, MTU, flags, and exactly its addresses.

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags},
};
use nix::errno::Errno;

use super::{
    address,
    link::{self, Link},
    socket::{Change, Socket},
    wanted::Interface,
};
use crate::error::{Context, Error, Result};

/// Makes `link`, one of `links`, what is wanted. Names are swapped if need be: another link that has the name takes this
/// one's.
pub fn apply(socket: &mut Socket, links: &[Link], link: &Link, wanted: &Interface) -> Result<()> {
    check_mtu(link, wanted)?;
    if link.name != wanted.name {
        rename(socket, links, link, &wanted.name)?;
    }
    let present = address::of_link(socket, link.index)?;
    let stale = address::stale(&present, &wanted.addresses, kernel_makes_address(wanted));
    let generation = address_generation(link, wanted);
    let changes =
        [settings(link, wanted)].into_iter().chain(generation).chain([up(link.index, &wanted.name)]);
    for (what, outcome) in socket.try_all(changes.collect())? {
        match outcome {
            // No IPv6 on this link, be it for its MTU.
            Err(Errno::EAFNOSUPPORT) => {}
            outcome => outcome.context(what).map_err(of(wanted))?,
        }
    }
    // New ones first: with its last address, a link loses its routes.
    add_addresses(socket, link, wanted)?;
    if !stale.is_empty() {
        let removals = stale.into_iter().map(|stale| address::removal(stale, link.index)).collect();
        for (what, outcome) in socket.try_all(removals)? {
            match outcome {
                // Gone with the one that it was secondary to.
                Err(Errno::EADDRNOTAVAIL) => {}
                outcome => outcome.context(what).map_err(of(wanted))?,
            }
        }
        // And so may be those that are wanted.
        add_addresses(socket, link, wanted)?;
    }
    Ok(())
}

fn add_addresses(socket: &mut Socket, link: &Link, wanted: &Interface) -> Result<()> {
    let additions = wanted.addresses.iter().map(|cidr| address::addition(*cidr, link.index)).collect();
    for (cidr, (what, outcome)) in wanted.addresses.iter().zip(socket.try_all(additions)?) {
        match outcome {
            Err(Errno::EACCES | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP) if cidr.address.is_ipv6() => {
                tracing::warn!(what, "left out: IPv6 is off in the guest");
            }
            outcome => outcome.context(what).map_err(of(wanted))?,
        }
    }
    Ok(())
}

fn of(wanted: &Interface) -> impl Fn(Error) -> Error {
    let name = wanted.name.clone();
    move |error| error.context(format!("interface {name}"))
}

fn check_mtu(link: &Link, wanted: &Interface) -> Result<()> {
    let Some(mtu) = wanted.mtu else { return Ok(()) };
    let (least, most) = (link.mtu_limits.0, link.mtu_limits.1.unwrap_or(u32::MAX));
    if !(least..=most).contains(&mtu) {
        return Err(Error::invalid(format!(
            "mtu: {mtu} is not in {least}..={most}, which {} takes",
            wanted.name
        )));
    }
    Ok(())
}

fn rename(socket: &mut Socket, links: &[Link], link: &Link, name: &str) -> Result<()> {
    let mut outcome = swap_names(socket, links, link, name)?;
    if outcome == Err(Errno::EEXIST) {
        // A link that came meanwhile has got the name from the kernel.
        let links = link::list(socket)?;
        outcome = swap_names(socket, &links, link, name)?;
    }
    outcome.context(format!("rename {} to {name}", link.name))
}

fn swap_names(socket: &mut Socket, links: &[Link], link: &Link, name: &str) -> Result<Result<(), Errno>> {
    let Some(displaced) = links.iter().find(|other| other.name == name) else {
        return set_name(socket, link, name);
    };
    for (link, name) in
        [(displaced, format!("displaced{}", displaced.index).as_str()), (link, name), (displaced, &link.name)]
    {
        let outcome = set_name(socket, link, name)?;
        if outcome.is_err() {
            return Ok(outcome);
        }
    }
    Ok(Ok(()))
}

fn set_name(socket: &mut Socket, link: &Link, name: &str) -> Result<Result<(), Errno>> {
    let mut message = link::about(link.index, LinkFlags::empty(), LinkFlags::empty());
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    let change = Change {
        message: RouteNetlinkMessage::SetLink(message),
        flags: 0,
        what: format!("rename {} to {name}", link.name),
    };
    let outcome = first_fault(socket.try_all(vec![change.clone()])?);
    if outcome != Err(Errno::EBUSY) || !link.is_up {
        return Ok(outcome);
    }
    // Before 6.2, a link that is up keeps its name.
    Ok(first_fault(socket.try_all(vec![down(link), change, up(link.index, name)])?))
}

fn first_fault(outcomes: Vec<(String, Result<(), Errno>)>) -> Result<(), Errno> {
    outcomes.into_iter().try_for_each(|(_, outcome)| outcome)
}

fn settings(link: &Link, wanted: &Interface) -> Change {
    let arp = if wanted.is_without_arp { LinkFlags::Noarp } else { LinkFlags::empty() };
    let mut message = link::about(link.index, arp, LinkFlags::Noarp);
    if let Some(mtu) = wanted.mtu.filter(|mtu| *mtu != link.mtu) {
        message.attributes.push(LinkAttribute::Mtu(mtu));
    }
    let what = format!("mtu {}, arp {}", wanted.mtu.unwrap_or(link.mtu), !wanted.is_without_arp);
    Change { message: RouteNetlinkMessage::SetLink(message), flags: 0, what }
}

/// Whether the kernel makes the link an address. To be said before the link is raised, which is when it does, and after
/// its MTU is set, which may be too small for IPv6.
fn address_generation(link: &Link, wanted: &Interface) -> Option<Change> {
    let generation = if kernel_makes_address(wanted) { In6AddrGenMode::Eui64 } else { In6AddrGenMode::None };
    if link.address_generation == Some(u8::from(&generation)) {
        return None;
    }
    let inet6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(generation)]);
    let mut message = link::about(link.index, LinkFlags::empty(), LinkFlags::empty());
    message.attributes.push(LinkAttribute::AfSpecUnspec(vec![inet6]));
    let what = format!("address generation {generation}");
    Some(Change { message: RouteNetlinkMessage::SetLink(message), flags: 0, what })
}

/// On the host, a link that speaks IPv6 has an address of its own. If it is not told, only the kernel here can make it; if
/// there is no IPv6 at all, there it is off.
fn kernel_makes_address(wanted: &Interface) -> bool {
    wanted.addresses.iter().any(|network| network.address.is_ipv6())
        && !wanted.addresses.iter().any(|network| network.is_v6_of_link())
}

fn down(link: &Link) -> Change {
    let message = link::about(link.index, LinkFlags::empty(), LinkFlags::Up);
    Change { message: RouteNetlinkMessage::SetLink(message), flags: 0, what: format!("lower {}", link.name) }
}

fn up(index: u32, name: &str) -> Change {
    let message = link::about(index, LinkFlags::Up, LinkFlags::Up);
    Change { message: RouteNetlinkMessage::SetLink(message), flags: 0, what: format!("raise {name}") }
}

//! Asks the kernel what stands in a network namespace.

use std::time::Duration;

use futures::TryStreamExt;
use rtnetlink::{
    Handle, IpVersion,
    packet_route::{AddressFamily, link::LinkFlags, route::RouteMessage},
};
use tokio::time::timeout;

use super::{
    convert::{Dump, convert},
    endpoint::Scan,
};
use crate::error::{Context, Error, Result};

/// For all dumps together, of which each takes less than a millisecond.
const DEADLINE: Duration = Duration::from_secs(10);

/// Scans the namespace behind `handle`, without the links called `ours`.
pub(super) async fn scan(handle: &Handle, ours: impl Fn(&str) -> bool) -> Result<Scan> {
    let dumped = timeout(DEADLINE, dump(handle))
        .await
        .map_err(|_| Error::deadline(format!("the kernel does not answer within {DEADLINE:?}")))?;
    convert(dumped.context("scan the network namespace")?, ours)
}

async fn dump(handle: &Handle) -> Result<Dump> {
    let links: Vec<_> = handle.link().get().execute().try_collect().await?;
    if links.iter().all(|link| link.header.flags.contains(LinkFlags::Loopback)) {
        return Ok(Dump::default());
    }
    let mut dump = Dump { links, ..Dump::default() };
    dump.addresses = handle.address().get().execute().try_collect().await?;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        dump.routes.extend(handle.route().get(message).execute().try_collect::<Vec<_>>().await?);
    }
    dump.neighbours = handle.neighbours().get().execute().try_collect().await?;
    for version in [IpVersion::V4, IpVersion::V6] {
        dump.rules
            .extend(handle.rule().get(version).execute().try_collect::<Vec<_>>().await.unwrap_or_default());
    }
    Ok(dump)
}

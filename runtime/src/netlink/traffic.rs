//! Traffic control: two links joined so that what comes in at one goes out at the other.

use nix::errno::Errno;
use rtnetlink::{Handle, packet_route::tc::TcHandle};

use super::namespace::{NamespaceId, errno};
use crate::error::{Error, Result};

/// Where filters for what comes in are hung, `ffff:`.
const INGRESS: u32 = 0xffff_0000;
/// `ETH_P_ALL`, in the network's order.
const ALL: u16 = 0x0003_u16.to_be();

/// Makes the place for filters at the link with this index.
pub(crate) async fn add_ingress(handle: &Handle, index: u32) -> Result<()> {
    let added = handle.qdisc().add(index as i32).ingress().execute().await;
    added.map_err(|error| match errno(&error) {
        Some(Errno::EEXIST) => Error::precondition(
            "it has an ingress qdisc already, whose filters would be in the way: remove it, or set internetworking_model \
             to \"none\"",
        ),
        Some(Errno::ENOENT | Errno::EOPNOTSUPP) => Error::precondition(
            "the kernel has no ingress qdisc: load the module sch_ingress (CONFIG_NET_SCH_INGRESS)",
        ),
        _ => error.into(),
    })
}

/// Sends all that comes in at link `from` out at link `to`. By u32, which is older than matchall, and present where that
/// is not.
pub(crate) async fn redirect(handle: &Handle, from: u32, to: u32) -> Result<()> {
    let filter = handle.traffic_filter(from as i32).add().parent(INGRESS).protocol(ALL).redirect(to);
    let added = filter?.execute().await;
    added.map_err(|error| match errno(&error) {
        Some(Errno::ENOENT | Errno::EOPNOTSUPP) => Error::precondition(
            "the kernel cannot redirect: load the modules cls_u32 and act_mirred (CONFIG_NET_CLS_U32, \
             CONFIG_NET_ACT_MIRRED)",
        ),
        _ => error.into(),
    })
}

/// Takes the place for filters away, with all filters.
pub(crate) async fn remove_ingress(handle: &Handle, index: u32) -> Result<()> {
    let mut request = handle.qdisc().del(index as i32);
    request.message_mut().header.parent = TcHandle::INGRESS;
    match request.execute().await {
        // No link, no such qdisc.
        Err(error) if !matches!(errno(&error), Some(Errno::ENODEV | Errno::ENOENT | Errno::EINVAL)) => {
            Err(error.into())
        }
        _ => Ok(()),
    }
}

/// The same in a namespace that was remembered. Blocks.
pub(crate) fn undo_ingress(namespace: &NamespaceId, index: u32) -> Result<()> {
    namespace.undo(async |handle| remove_ingress(&handle, index).await)
}

//! Traffic control: two links joined so that what comes in at one goes out at the other.

use std::os::fd::AsRawFd;

use futures::StreamExt;
use nix::errno::Errno;
use rtnetlink::{
    Handle,
    packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        tc::{TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
    },
};

use super::{
    answers,
    namespace::{NamespaceId, errno},
};
use crate::error::{Error, Result};

/// Where filters for what comes in are hung, `ffff:`.
const INGRESS: u32 = 0xffff_0000;
/// `ETH_P_ALL`, in the network's order.
const ALL: u16 = 0x0003_u16.to_be();

/// Makes the place for filters at the link with this index.
pub(crate) async fn add_ingress(handle: &Handle, index: u32) -> Result<()> {
    let added = handle.qdisc().add(index as i32).ingress().execute().await;
    added.map_err(|error| errno(&error).and_then(no_ingress).unwrap_or_else(|| error.into()))
}

/// Why there is no place for filters, where it can be said.
fn no_ingress(errno: Errno) -> Option<Error> {
    let why = match errno {
        Errno::EEXIST => {
            "it has an ingress qdisc already, whose filters would be in the way: remove it, or set internetworking_model \
             to \"none\""
        }
        Errno::ENOENT | Errno::EOPNOTSUPP => {
            "the kernel has no ingress qdisc: load the module sch_ingress (CONFIG_NET_SCH_INGRESS), or set \
             internetworking_model to \"macvtap\""
        }
        _ => return None,
    };
    Some(Error::precondition(why))
}

/// Sends all that comes in at link `from` out at link `to`. By u32, which is older than matchall, and present where that
/// is not.
pub(crate) async fn redirect(handle: &Handle, from: u32, to: u32) -> Result<()> {
    let filter = handle.traffic_filter(from as i32).add().parent(INGRESS).protocol(ALL).redirect(to);
    let added = filter?.execute().await;
    added.map_err(|error| errno(&error).and_then(no_redirect).unwrap_or_else(|| error.into()))
}

/// Lets the namespace's own stack hear answers to its own questions for names at link `from`, although all that comes in there
/// goes out at link `to`.
pub(crate) async fn keep_answers(handle: &Handle, from: u32, to: u32) -> Result<()> {
    let program = answers::load_program(to)?;
    let mut message = TcMessage::with_index(from as i32);
    message.header.parent = INGRESS.into();
    // The first to be asked.
    message.header.info = TcHandle { major: 1, minor: ALL }.into();
    let options = [
        TcFilterBpfOption::ProgFd(program.as_raw_fd() as u32),
        TcFilterBpfOption::ProgName("kata_answers".into()),
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    message.attributes = vec![
        TcAttribute::Kind(TcFilterBpf::KIND.into()),
        TcAttribute::Options(options.map(TcOption::Bpf).into()),
    ];
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewTrafficFilter(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    let mut answers = handle.clone().request(request)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(no_answers(rtnetlink::Error::NetlinkError(error)));
        }
    }
    Ok(())
}

fn no_answers(error: rtnetlink::Error) -> Error {
    match errno(&error) {
        Some(Errno::ENOENT | Errno::EOPNOTSUPP) => Error::precondition(
            "the kernel has no filters of the kind bpf: load the module cls_bpf (CONFIG_NET_CLS_BPF)",
        ),
        _ => error.into(),
    }
}

/// Why a filter cannot be, where it can be said.
fn no_redirect(errno: Errno) -> Option<Error> {
    matches!(errno, Errno::ENOENT | Errno::EOPNOTSUPP).then(|| {
        Error::precondition(
            "the kernel cannot redirect: load the modules cls_u32 and act_mirred (CONFIG_NET_CLS_U32, \
             CONFIG_NET_ACT_MIRRED), or set internetworking_model to \"macvtap\"",
        )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_lacks_is_named_with_what_to_do() {
        for (errno, ingress, redirect) in [
            (Errno::ENOENT, Some("sch_ingress"), Some("act_mirred")),
            (Errno::EOPNOTSUPP, Some("sch_ingress"), Some("act_mirred")),
            (Errno::EEXIST, Some("already"), None),
            (Errno::ENODEV, None, None),
        ] {
            for (said, words) in [(no_ingress(errno), ingress), (no_redirect(errno), redirect)] {
                let said = said.map(|error| error.to_string());
                assert_eq!(said.is_some(), words.is_some(), "{errno}");
                assert!(said.unwrap_or_default().contains(words.unwrap_or_default()), "{errno}");
            }
        }
    }
}

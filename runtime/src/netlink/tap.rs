//! Tap devices: made with a descriptor for each queue, and gone with the last of these.

#![allow(unsafe_code)]

use std::{
    fs::{self, File, OpenOptions},
    os::fd::{AsRawFd, OwnedFd},
};

use futures::TryStreamExt;
use nix::{errno::Errno, libc, net::if_::if_nametoindex};

use super::namespace::{Namespace, NamespaceId, errno};
use crate::error::{Context, Error, Result};

const DEVICE: &str = "/dev/net/tun";
/// More than the kernel gives one device.
pub(super) const MAX_QUEUES: u32 = 256;

mod ioctl {
    //! `TUNSETIFF` of `linux/if_tun.h`.
    nix::ioctl_write_ptr_bad!(
        set_interface,
        nix::request_code_write!(b'T', 202, size_of::<nix::libc::c_int>()),
        nix::libc::ifreq
    );
}

/// A fresh tap device.
#[derive(Debug)]
pub(crate) struct Tap {
    pub index: u32,
    /// One descriptor for each queue, good in every namespace.
    pub queues: Vec<OwnedFd>,
}

/// Makes the tap device `name` in `namespace`. There must be none of that name.
pub(crate) async fn make(namespace: &Namespace, name: &str, queues: u32) -> Result<Tap> {
    let (name, queues) = (name.to_owned(), queues.clamp(1, MAX_QUEUES));
    namespace.run(move || make_here(&name, queues).with_context(|| format!("make tap {name}"))).await
}

fn make_here(name: &str, queues: u32) -> Result<Tap> {
    let several = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | several;
    let mut all = Vec::new();
    for queue in 0..queues {
        let file = OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|error| {
            Error::precondition(format!(
                "{DEVICE}: {error}; load the module tun, or set internetworking_model to \"macvtap\" to do without"
            ))
        })?;
        // Another sandbox's of the same name must not be shared.
        let first = if queue == 0 { libc::IFF_TUN_EXCL } else { 0 };
        set_interface(&file, name, flags | first).map_err(|errno| match errno {
            Errno::EBUSY => taken(),
            errno => errno.into(),
        })?;
        all.push(file.into());
    }
    // The kernel would greet the guest with addresses and neighbours of its own. Absent where there is no IPv6.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
    Ok(Tap { index: if_nametoindex(name).context("its index")?, queues: all })
}

/// There is one of that name.
pub(super) fn taken() -> Error {
    Error::precondition(
        "it is there already: another sandbox uses this network namespace, and two cannot share one",
    )
}

pub(super) fn set_interface(file: &File, name: &str, flags: libc::c_int) -> nix::Result<()> {
    // SAFETY: a C structure of plain numbers, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(Errno::ENAMETOOLONG);
    }
    for (target, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *target = byte as libc::c_char;
    }
    // The flags' upper bit makes the number negative, which is how the kernel's header has it.
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the descriptor is open and the kernel reads and writes one ifreq behind the pointer, which outlives the
    // call.
    unsafe { ioctl::set_interface(file.as_raw_fd(), &request) }.map(drop)
}

/// Takes a tap device away, if somebody still holds it. Blocks.
pub(crate) fn remove(namespace: &NamespaceId, name: &str) -> Result<()> {
    namespace.undo(async |handle| {
        let links = handle.link().get().match_name(name.to_owned()).execute();
        match links.try_collect::<Vec<_>>().await {
            Ok(links) => {
                for link in links {
                    match handle.link().del(link.header.index).execute().await {
                        Err(error) if errno(&error) != Some(Errno::ENODEV) => return Err(error.into()),
                        _ => {}
                    }
                }
                Ok(())
            }
            Err(error) if errno(&error) == Some(Errno::ENODEV) => Ok(()),
            Err(error) => Err(error.into()),
        }
    })
}

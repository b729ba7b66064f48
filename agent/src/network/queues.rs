//! How many of a card's queues are used: its driver uses as many as there were processors when it found the card, and a
//! clone is given both, the card first.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
    unistd::{SysconfVar, sysconf},
};

use crate::error::{Context, Result};

/// `ETHTOOL_GCHANNELS` and `ETHTOOL_SCHANNELS` of `linux/ethtool.h`.
const GET: u32 = 0x3c;
const SET: u32 = 0x3d;

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max: [u32; 3],
    max_combined: u32,
    separate: [u32; 3],
    combined: u32,
}

mod ioctl {
    nix::ioctl_readwrite_bad!(ethtool, nix::libc::SIOCETHTOOL, nix::libc::ifreq);
}

/// Lets the link `name` use a queue for each processor, if it has as many.
pub fn use_all(name: &str) -> Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .context("open a socket")?;
    let mut channels = Channels { command: GET, ..Channels::default() };
    match ask(&socket, name, &mut channels) {
        Err(Errno::EOPNOTSUPP) => return Ok(()), // It has one.
        outcome => outcome.context("ask for its queues")?,
    }
    let processors = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten().unwrap_or(1);
    let wanted = channels.max_combined.min(u32::try_from(processors).unwrap_or(1));
    if wanted <= channels.combined {
        return Ok(());
    }
    (channels.command, channels.combined) = (SET, wanted);
    ask(&socket, name, &mut channels).context(format!("use {wanted} queues"))
}

fn ask(socket: &OwnedFd, name: &str, channels: &mut Channels) -> Result<(), Errno> {
    // SAFETY: a C structure of plain numbers and pointers, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(Errno::ENAMETOOLONG);
    }
    for (target, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *target = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut *channels).cast();
    // SAFETY: the descriptor is open, and the kernel reads one ifreq and reads or writes one ethtool_channels behind it,
    // as both commands have it; both outlive the call.
    unsafe { ioctl::ethtool(socket.as_raw_fd(), &mut request) }.map(drop)
}

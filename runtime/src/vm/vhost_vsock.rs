//! The host kernel's vsock: a free context id, held by an open `/dev/vhost-vsock`.

#![allow(unsafe_code)]

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::fd::{AsRawFd, OwnedFd},
};

use crate::error::{Context, Error, Result};
use nix::errno::Errno;

const DEVICE: &str = "/dev/vhost-vsock";
/// Ids below this one are the hypervisor, the loopback and the host.
const FIRST_CID: u32 = 3;
/// With a million guests on one host, the chance of a taken id is 1 in 4,000 for each attempt.
const ATTEMPTS: usize = 16;

mod ioctl {
    //! `VHOST_SET_OWNER` and `VHOST_VSOCK_SET_GUEST_CID` of `linux/vhost.h`.
    nix::ioctl_none!(set_owner, 0xaf, 0x01);
    nix::ioctl_write_ptr!(set_guest_cid, 0xaf, 0x60, u64);
}

/// A context id that is ours while the descriptor is open.
#[derive(Debug)]
pub struct Cid {
    pub cid: u32,
    pub vhost: OwnedFd,
}

/// Takes a free id.
pub fn claim_cid() -> Result<Cid> {
    let vhost = OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|error| {
        Error::precondition(format!(
            "{DEVICE}: {error}; load the module vhost_vsock or set agent_channel = \"serial\""
        ))
    })?;
    let mut random = File::open("/dev/urandom").context("open /dev/urandom")?;
    let cid = find_free(
        || {
            let mut bytes = [0; 4];
            random.read_exact(&mut bytes)?;
            Ok(u32::from_le_bytes(bytes))
        },
        |cid| set_guest_cid(&vhost, cid),
    )?;
    Ok(Cid { cid, vhost: vhost.into() })
}

/// Whether a VM could use it: a node in `/dev` may have no module, or none that works, behind it.
pub(crate) fn is_usable() -> Result<()> {
    let claimed = claim_cid()?;
    // Starts the kernel's worker, which QEMU will do on its own descriptor; this one is closed right away.
    // SAFETY: the descriptor is open, and the call takes nothing else.
    unsafe { ioctl::set_owner(claimed.vhost.as_raw_fd()) }
        .with_context(|| format!("{DEVICE}: set the owner"))?;
    Ok(())
}

fn find_free(
    mut random: impl FnMut() -> io::Result<u32>,
    mut take: impl FnMut(u32) -> Result<(), Errno>,
) -> Result<u32> {
    for _ in 0..ATTEMPTS {
        let cid = random().context("read /dev/urandom")?;
        if !(FIRST_CID..u32::MAX).contains(&cid) {
            continue;
        }
        match take(cid) {
            Ok(()) => return Ok(cid),
            Err(Errno::EADDRINUSE) => {}
            Err(errno) => return Err(errno).with_context(|| format!("{DEVICE}: set the guest cid {cid}")),
        }
    }
    Err(Error::unavailable(format!("{DEVICE}: no free cid in {ATTEMPTS} attempts")))
}

fn set_guest_cid(vhost: &File, cid: u32) -> Result<(), Errno> {
    let cid = u64::from(cid);
    // SAFETY: the descriptor is open and the kernel reads one u64 behind the pointer, which outlives the call.
    unsafe { ioctl::set_guest_cid(vhost.as_raw_fd(), &cid) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_and_taken_ids_are_passed_over() {
        let mut ids = [0, 2, u32::MAX, 7, 9].into_iter();
        let take = |cid| if cid == 7 { Err(Errno::EADDRINUSE) } else { Ok(()) };
        assert_eq!(find_free(|| Ok(ids.next().unwrap()), take).unwrap(), 9);
        assert!(find_free(|| Ok(5), |_| Err(Errno::EADDRINUSE)).is_err());
        assert!(find_free(|| Ok(5), |_| Err(Errno::EPERM)).unwrap_err().to_string().contains("cid 5"));
    }
}

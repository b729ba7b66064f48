//! Macvtap devices: taps on top of a link, whose packets they take over. Unlike a tap's, their end is not that of the last
//! descriptor.

use std::{
    fs::{self, OpenOptions},
    io,
    os::fd::OwnedFd,
    path::Path,
};

use nix::{
    errno::Errno,
    libc,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::stat::{Mode, SFlag, makedev, mknod},
};
use rtnetlink::{Handle, LinkMacVtap, packet_route::link::MacVtapMode};

use super::{
    namespace::{Namespace, errno},
    tap::{MAX_QUEUES, Tap, set_interface},
};
use crate::error::{Context, Error, Result};

/// Makes the macvtap `name` on top of `link`. In mode passthru: all that comes in at the link is the guest's, under the
/// link's own hardware address, so that nothing need be moved, and nothing put back.
pub(crate) async fn make(
    namespace: &Namespace,
    handle: &Handle,
    name: &str,
    link: u32,
    queues: u32,
) -> Result<Tap> {
    // What it lets through of multicast is what it has joined itself, and it is the guest that joins.
    let message = LinkMacVtap::new(name, link, MacVtapMode::Passthrough).allmulticast(true).build();
    let made = handle.link().add(message).execute().await;
    made.map_err(|error| match errno(&error) {
        Some(Errno::EOPNOTSUPP | Errno::ENODEV) => Error::precondition(
            "the kernel has no macvtap: load the module macvtap (CONFIG_MACVTAP), or set internetworking_model to \
             \"tcfilter\"",
        ),
        Some(Errno::EBUSY | Errno::EINVAL) => Error::precondition(
            "something else has taken over what comes in at the link, such as a bridge or a macvlan: remove it, or set \
             internetworking_model to \"tcfilter\"",
        ),
        Some(Errno::EEXIST) => super::tap::taken(),
        _ => error.into(),
    })
    .with_context(|| format!("make macvtap {name}"))?;
    let (place, name, queues) = (namespace.id().clone(), name.to_owned(), queues.clamp(1, MAX_QUEUES));
    let opened = namespace.run(move || {
        let opened = open_here(&name, queues).with_context(|| format!("open macvtap {name}"));
        if opened.is_err() {
            super::tap::remove(&place, &name)?;
        }
        opened
    });
    opened.await
}

/// Its descriptors. The node in `/dev` is not asked: its name is the device's index, of which every namespace has one.
fn open_here(name: &str, queues: u32) -> Result<Tap> {
    // All of this is gone with the thread.
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
    let nothing = None::<&Path>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).context("make / private")?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::MS_RDONLY, nothing).context("mount sysfs")?;
    let dir = Path::new("/sys/class/net").join(name);
    let index = read(&dir.join("ifindex"))?;
    let index = index.parse().map_err(|_| Error::internal(format!("its index is {index:?}")))?;
    let numbers = read(&dir.join(format!("tap{index}/dev")))?;
    let numbers =
        numbers.split_once(':').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let (major, minor) = numbers.ok_or_else(|| Error::internal("its device has no numbers"))?;
    mount(Some("tmpfs"), "/dev", Some("tmpfs"), MsFlags::empty(), nothing).context("mount a tmpfs")?;
    let node = Path::new("/dev/macvtap");
    mknod(node, SFlag::S_IFCHR, Mode::S_IRUSR | Mode::S_IWUSR, makedev(major, minor))
        .context("make its node")?;
    let several = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | several;
    let open = |_| {
        let file = OpenOptions::new().read(true).write(true).open(node)?;
        set_interface(&file, name, flags)?;
        Ok(file.into())
    };
    let queues = (0..queues).map(open).collect::<io::Result<Vec<OwnedFd>>>().context("open its node")?;
    Ok(Tap { index, queues })
}

fn read(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.trim().to_owned())
}

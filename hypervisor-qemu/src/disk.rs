//! Disks for a running guest.

use std::os::fd::OwnedFd;

use runtime::{
    error::{Context, Error, ErrorKind, Result},
    vm::Disk,
};

use crate::{
    commands::{AddFd, BlockdevAdd, BlockdevDel, DeviceAdd, RemoveFd},
    device::{self, Backend, Described},
    qmp::Qmp,
    unplug::unplug,
};

/// Plugs `disk` into the empty port `port`.
pub(crate) async fn add(qmp: &Qmp, disk: &Disk, port: usize) -> Result<()> {
    let Described { backend, mut device } = device::disk(disk.number, disk.read_only);
    let Some(Backend::Blockdev(node)) = backend else {
        return Err(Error::internal("a disk without a back end"));
    };
    device::plug(&mut device, port);
    let fd: OwnedFd = disk.device.try_clone().context("the device's descriptor")?;
    qmp.execute_with_fds(AddFd { fdset_id: disk.number }, vec![fd]).await?;
    let added = async {
        qmp.execute(BlockdevAdd(node)).await?;
        qmp.execute(DeviceAdd(device)).await.map(drop)
    };
    let added = added.await;
    if added.is_err()
        && let Err(error) = forget(qmp, disk.number).await
    {
        tracing::debug!(%error, "the back end of a disk that could not be plugged stays");
    }
    added
}

/// Takes a disk out, and gives its device up. Fails by a deadline if the guest does not let it go.
pub(crate) async fn remove(qmp: &Qmp, number: usize) -> Result<()> {
    unplug(qmp, &device::disk_name(number)).await?;
    forget(qmp, number).await
}

async fn forget(qmp: &Qmp, number: usize) -> Result<()> {
    match qmp.execute(BlockdevDel { node_name: device::disk_node(number) }).await {
        // A node that is not there has no class of error of its own.
        Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
        Err(error) => tracing::debug!(%error, number, "no node of a disk"),
        Ok(_) => {}
    }
    match qmp.execute(RemoveFd { fdset_id: number }).await {
        // With its last user QEMU has closed it by itself.
        Err(error) if error.kind() == ErrorKind::Unavailable => Err(error),
        _ => Ok(()),
    }
}

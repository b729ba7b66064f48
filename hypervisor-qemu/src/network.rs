//! Network cards for a running guest, and the host's help with them.

use std::{fs::OpenOptions, os::fd::OwnedFd};

use qapi_qmp::getfd;
use runtime::{
    error::{Context, Error, Result},
    vm::Nic,
};

use crate::{
    commands::{DeviceAdd, NetdevAdd, NetdevDel, SetLink},
    device::{self, Backend, Described},
    qmp::Qmp,
};

/// Whether the host's kernel can carry packets past QEMU.
pub(crate) fn vhost_works() -> bool {
    OpenOptions::new().read(true).write(true).open("/dev/vhost-net").is_ok()
}

/// Plugs `nic` into the empty port `port`.
pub(crate) async fn add(qmp: &Qmp, nic: Nic, port: usize, vhost: bool) -> Result<()> {
    let mut fds = Vec::new();
    for (queue, fd) in nic.queues.iter().enumerate() {
        let fdname = format!("{}-{queue}", device::netdev_name(nic.number));
        let fd: OwnedFd = fd.try_clone().context("a tap's descriptor")?;
        qmp.execute_with_fds(getfd { fdname: fdname.clone() }, vec![fd]).await?;
        fds.push(fdname);
    }
    let Described { backend, mut device } = device::nic(nic.number, nic.mac, fds, vhost);
    let Some(Backend::Netdev { id, fds, vhost }) = backend else {
        return Err(Error::internal("a network card without a back end"));
    };
    qmp.execute(NetdevAdd { r#type: "tap", id: id.clone(), fds: fds.join(":"), vhost }).await?;
    device["bus"] = device::port_name(port).into();
    let added = qmp.execute(DeviceAdd(device)).await;
    if added.is_err()
        && let Err(error) = qmp.execute(NetdevDel { id }).await
    {
        tracing::debug!(%error, "the back end of a card that could not be plugged stays");
    }
    added.map(drop)
}

/// Puts the cable of a card in, or takes it out.
pub(crate) async fn connect(qmp: &Qmp, number: usize, connected: bool) -> Result<()> {
    qmp.execute(SetLink { name: device::nic_name(number), up: connected }).await.map(drop)
}

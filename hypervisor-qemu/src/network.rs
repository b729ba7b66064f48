//! Network cards for a running guest, and the host's help with them.

use std::{fs::OpenOptions, os::fd::OwnedFd};

use qapi_qmp::getfd;
use runtime::{
    error::{Context, Error, ErrorKind, Result},
    vm::Nic,
};

use crate::{
    commands::{DeviceAdd, NetdevAdd, NetdevDel, SetLink},
    device::{self, Backend, Described},
    qmp::Qmp,
    unplug::unplug,
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
    device::plug(&mut device, port);
    let added = qmp.execute(DeviceAdd(device)).await;
    if added.is_err()
        && let Err(error) = qmp.execute(NetdevDel { id }).await
    {
        tracing::debug!(%error, "the back end of a card that could not be plugged stays");
    }
    added.map(drop)
}

/// Takes a card out, and gives its taps up. Fails by a deadline if the guest does not let it go.
pub(crate) async fn remove(qmp: &Qmp, number: usize) -> Result<()> {
    unplug(qmp, &device::nic_name(number)).await?;
    match qmp.execute(NetdevDel { id: device::netdev_name(number) }).await {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Puts the cable of a card in, or takes it out.
pub(crate) async fn connect(qmp: &Qmp, number: usize, connected: bool) -> Result<()> {
    qmp.execute(SetLink { name: device::nic_name(number), up: connected }).await.map(drop)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::{
        io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
        net::UnixStream,
    };

    use super::*;

    /// A QEMU that answers each command with the next lines of a script, among which `ID` is the command's id. What it was
    /// told is returned when it is left.
    async fn qemu(stream: UnixStream, script: &[&[&str]]) -> Vec<String> {
        let (reader, mut writer) = stream.into_split();
        let mut lines = BufReader::new(reader).lines();
        let greeting = json!({ "QMP": { "version": { "qemu": {} }, "capabilities": [] } });
        writer.write_all(format!("{greeting}\n").as_bytes()).await.unwrap();
        let mut told = Vec::new();
        let mut answers =
            [["{\"return\": {}, \"id\": ID}"].as_slice()].into_iter().chain(script.iter().copied());
        while let Ok(Some(line)) = lines.next_line().await {
            let command: Value = serde_json::from_str(&line).unwrap();
            told.push(format!("{} {}", command["execute"].as_str().unwrap(), command["arguments"]));
            for answer in answers.next().unwrap() {
                let answer = answer.replace("ID", &command["id"].to_string());
                writer.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
            }
        }
        told
    }

    async fn removed(script: &[&[&str]]) -> (Result<()>, Vec<String>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let remove = async {
            let (qmp, _events) = Qmp::connect(ours).await.unwrap();
            remove(&qmp, 3).await
        };
        let (removed, told) = tokio::join!(remove, qemu(theirs, script));
        (removed, told[1..].to_vec())
    }

    const DONE: &str = "{\"return\": {}, \"id\": ID}";

    #[tokio::test]
    async fn a_card_is_gone_when_qemu_says_so_and_then_its_taps_are() {
        let other = "{\"event\": \"DEVICE_DELETED\", \"data\": {\"path\": \"/x\"}}";
        let gone = "{\"event\": \"DEVICE_DELETED\", \"data\": {\"device\": \"nic3\", \"path\": \"/y\"}}";
        let (outcome, told) = removed(&[&[DONE, other, gone], &[DONE]]).await;
        outcome.unwrap();
        assert_eq!(told, ["device_del {\"id\":\"nic3\"}", "netdev_del {\"id\":\"net3\"}"]);
    }

    #[tokio::test]
    async fn a_card_that_the_guest_has_thrown_out_is_gone() {
        let none = "{\"error\": {\"class\": \"DeviceNotFound\", \"desc\": \"not found\"}, \"id\": ID}";
        let (outcome, told) = removed(&[&[none], &[DONE]]).await;
        outcome.unwrap();
        assert_eq!(told.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_does_not_let_go_is_waited_for_no_longer_than_the_deadline() {
        let (outcome, told) = removed(&[&[DONE]]).await;
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
        assert_eq!(told, ["device_del {\"id\":\"nic3\"}"], "the taps are the card's as long as it is there");
    }
}

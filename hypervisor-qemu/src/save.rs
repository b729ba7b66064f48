//! Saving a VM as a template, and restoring clones of it, by QEMU's migration to and from a file. Memory is not part of
//! it: it is in a file of its own, which `x-ignore-shared` makes QEMU leave where it is.

use std::{fs::File, os::fd::OwnedFd, time::Duration};

use runtime::error::{Context, Error, Result};
use serde_json::Value;
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::timeout,
};

use crate::{
    commands::{
        DeviceAdd, Migrate, MigrateIncoming, Migration, MigrationCapability, SetMigrationCapabilities,
    },
    qmp::{Event, Qmp},
};

/// For the state of the devices, less than 1 MiB: 20 ms on a quiet machine.
const DEADLINE: Duration = Duration::from_secs(20);
/// What the passed file is called in QEMU.
const STATE: &str = "state";

/// Stops the guest and writes the state of its devices to `state`.
pub(crate) async fn save(qmp: &Qmp, state: File) -> Result<()> {
    qmp.execute(qapi_qmp::stop {}).await?;
    ready(qmp, state).await?;
    let events = qmp.events();
    qmp.execute(Migrate { uri: format!("fd:{STATE}") }).await?;
    completed(events).await.context("save the vm")
}

/// Loads the state of the devices from `state`, adds `devices`, and lets the guest go on.
pub(crate) async fn restore(qmp: &Qmp, state: File, devices: Vec<Value>) -> Result<()> {
    ready(qmp, state).await?;
    let events = qmp.events();
    qmp.execute(MigrateIncoming { uri: format!("fd:{STATE}") }).await?;
    completed(events).await.context("restore the vm")?;
    for device in devices {
        qmp.execute(DeviceAdd(device)).await?;
    }
    qmp.execute(qapi_qmp::cont {}).await.map(drop)
}

/// Hands over the file and settles how it is used.
async fn ready(qmp: &Qmp, state: File) -> Result<()> {
    let on = |capability| MigrationCapability { capability, state: true };
    let capabilities = vec![on("x-ignore-shared"), on("events")];
    qmp.execute(SetMigrationCapabilities { capabilities }).await?;
    let getfd = qapi_qmp::getfd { fdname: STATE.into() };
    qmp.execute_with_fds(getfd, vec![OwnedFd::from(state)]).await.map(drop)
}

/// Waits for the migration's end.
async fn completed(mut events: broadcast::Receiver<Event>) -> Result<()> {
    let end = async {
        loop {
            match events.recv().await {
                Ok(event) if event.name == "MIGRATION" => {
                    match event.data::<Migration>().map(|data| data.status).as_deref() {
                        Some("completed") => return Ok(()),
                        Some("failed") => return Err(Error::internal("qemu's migration has failed")),
                        _ => {}
                    }
                }
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Err(Error::unavailable("qemu ended meanwhile")),
            }
        }
    };
    timeout(DEADLINE, end).await.map_err(|_| Error::deadline(format!("not done within {DEADLINE:?}")))?
}

//! More memory for a running guest.

use std::time::Duration;

use runtime::{
    error::{Error, Result},
    vm::MiB,
};
use serde_json::json;
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::timeout,
};

use crate::{
    commands::{DeviceAdd, ObjectAdd, Ost},
    qmp::{Event, Qmp},
};

/// The guest takes 0.1 s on a quiet machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// Plugs the `number`-th memory module, and waits until the guest says that it uses it.
pub(crate) async fn add_memory(qmp: &Qmp, number: usize, memory: MiB, shared: bool) -> Result<()> {
    let (module, backend) = (format!("dimm{number}"), format!("dimm-memory{number}"));
    let events = qmp.events();
    let kind = if shared { "memory-backend-memfd" } else { "memory-backend-ram" };
    let object = json!({ "qom-type": kind, "id": backend, "size": memory.bytes(), "share": shared });
    qmp.execute(ObjectAdd(object)).await?;
    let plug = DeviceAdd(json!({ "driver": "pc-dimm", "id": module, "memdev": backend }));
    if let Err(error) = qmp.execute(plug).await {
        if let Err(error) = qmp.execute(qapi_qmp::object_del { id: backend }).await {
            tracing::debug!(%error, "memory that is not plugged stays reserved");
        }
        return Err(error);
    }
    timeout(DEADLINE, taken(events, &module))
        .await
        .map_err(|_| Error::deadline(format!("the guest does not take it within {DEADLINE:?}")))?
}

/// Waits for the guest's word on a module: ACPI's _OST, by which it reports what became of a notification.
async fn taken(mut events: broadcast::Receiver<Event>, module: &str) -> Result<()> {
    loop {
        match events.recv().await {
            Ok(event) if event.name == "ACPI_DEVICE_OST" => {
                let ost = event.data::<Ost>().map(|data| data.info);
                if let Some(info) = ost
                    && info.device.as_deref() == Some(module)
                {
                    return match info.status {
                        0 => Ok(()),
                        status => Err(Error::internal(format!("the guest refuses it: _OST status {status}"))),
                    };
                }
            }
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return Err(Error::unavailable("qemu ended meanwhile")),
        }
    }
}

//! Taking a device out of a running guest.

use std::time::Duration;

use runtime::error::{Error, ErrorKind, Result};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::timeout,
};

use crate::{
    commands::{Deleted, DeviceDel},
    qmp::{Event, Qmp},
};

/// For the guest to let a device go: at once where its ports are quiet, else some 10 ms.
const DEADLINE: Duration = Duration::from_secs(5);

/// Takes the device `id` out; its back end stays. Fails by a deadline if the guest does not let it go.
pub(crate) async fn unplug(qmp: &Qmp, id: &str) -> Result<()> {
    let events = qmp.events();
    match qmp.execute(DeviceDel { id: id.to_owned() }).await {
        Ok(_) => timeout(DEADLINE, gone(events, id))
            .await
            .map_err(|_| Error::deadline(format!("the guest does not let it go within {DEADLINE:?}")))?,
        // The guest has thrown it out by itself.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

async fn gone(mut events: broadcast::Receiver<Event>, id: &str) -> Result<()> {
    loop {
        match events.recv().await {
            Ok(event) if event.name == "DEVICE_DELETED" => {
                if event.data::<Deleted>().and_then(|data| data.device).as_deref() == Some(id) {
                    return Ok(());
                }
            }
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return Err(Error::unavailable("qemu ended meanwhile")),
        }
    }
}

//! A container, and beside it the network that it is to find.

use std::{sync::Arc, time::Instant};

use super::{Running, Sandbox, phase};
use crate::{
    bundle::Bundle,
    container::Container,
    error::{Context, Result},
    ids::ContainerId,
    state::Record,
    stdio::Stdio,
    storage::RootfsMount,
};

impl Sandbox {
    /// The guest is told of its network while the container is made.
    pub(super) async fn make_networked_container(
        &self,
        id: &ContainerId,
        bundle: &Bundle,
        rootfs: &[RootfsMount],
        stdio: &Stdio,
        running: &Running,
    ) -> Result<Arc<Container>> {
        let began = Instant::now();
        let ready = async {
            let ready = running.network.ready().await.context("network");
            phase("network-settle", began);
            ready
        };
        let make = self.make_container(id, bundle, rootfs, stdio, running);
        let (ready, made) = tokio::join!(ready, make);
        if let (Err(_), Ok(container)) = (&ready, &made) {
            if let Err(error) = container.delete().await {
                tracing::warn!(%error, "a container without a network stays for the sandbox's end");
            }
            let configs =
                |record: &mut Record| record.config.container_configs.retain(|c| c.id != id.as_str());
            self.store.update(configs)?;
        }
        ready.and(made)
    }
}

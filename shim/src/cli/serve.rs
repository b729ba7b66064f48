//! `kata-runtime serve`: the process that owns a sandbox, as containerd's shim does, for the other commands.
//!
//! It is started by `create` with two listening sockets: its standard input for the Task service, and one for the
//! stand-ins. It ends with the last container of its sandbox, so that one that has ended and is kept holds no VM. `delete`
//! finds the rest in the records.

use std::{
    fs::File,
    os::{fd::RawFd, unix::net::UnixListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use nix::unistd::setsid;
use runtime::{
    error::{Context, Error, Result},
    paths::Paths,
};
use tokio::sync::mpsc;

use super::{attend::attend, descriptors};
use crate::{
    keeper::{Keeper, KeeperSetup},
    logging, server,
};

/// Without a sandbox and without a call for so long, the process ends.
const IDLE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub struct Serve {
    /// Where its log goes
    #[arg(long)]
    log: PathBuf,
    /// The listening socket for stand-ins
    #[arg(long)]
    stand_ins: RawFd,
    /// The sandbox, for those who look at the list of processes
    sandbox: String,
}

impl Serve {
    pub fn run(self, debug: bool) -> Result<()> {
        let stand_ins = UnixListener::from(descriptors::inherited(self.stand_ins)?);
        let listener = server::take_listener()?;
        let _ = setsid(); // Fails if this process leads a session already, which is what is wanted.
        let open = || format!("open {}", self.log.display());
        let log = File::options().append(true).create(true).open(&self.log).with_context(open)?;
        let log_level = logging::to(log, debug);
        tracing::info!(sandbox = self.sandbox, "serves");
        let keeper = Arc::new(Keeper::new(KeeperSetup {
            hypervisor_for: Box::new(|config| server::hypervisor(config, &Paths::default())),
            paths: Paths::default(),
            events: mpsc::unbounded_channel().0, // Those who want to know of an end have a stand-in.
            log_level,
            reserve: None,
        }));
        server::run_to_end(async {
            let over = async {
                attend(stand_ins, keeper.clone()).await?;
                tracing::info!("the last container has ended, and so does the sandbox");
                let keeper = keeper.clone();
                // Goes on if a call says meanwhile that it is over; the server waits for it.
                let end = tokio::spawn(async move { keeper.end().await });
                end.await.map_err(|error| Error::internal(error.to_string()))?
            };
            // Its home may be another's of the same name by its end, so what is there is not touched.
            server::serve_until(listener, None, keeper.clone(), IDLE, over).await
        })
    }
}

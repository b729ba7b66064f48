//! The helper behind `agent_channel = "vhost-user-vsock"`: one `vhost-device-vsock` per VM.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use runtime::{
    child::{Child, Launch},
    error::{Context, Error, Result},
    ledger::Ledger,
};
use tokio::{
    net::UnixStream,
    time::{sleep, timeout},
};

use crate::{arrivals::Arrivals, unix_socket};

/// The helper listens after 10-30 ms on a quiet machine.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// The socket's file appears at bind, a moment before listen; nothing tells of the latter.
const LISTEN_PAUSE: Duration = Duration::from_millis(1);
/// Each VM has a helper of its own, so the id need not be unique.
const GUEST_CID: u32 = 3;

/// A running helper.
#[derive(Debug)]
pub(crate) struct VhostUserVsock {
    pub helper: Child,
    /// The vhost-user connection, for QEMU.
    pub vhost: OwnedFd,
    /// Where the host reaches the guest's ports.
    pub socket: PathBuf,
}

/// Starts the helper with its sockets in `dir` and waits until QEMU can use it.
pub(crate) async fn start(daemon: &Path, dir: &Path, ledger: &Ledger) -> Result<VhostUserVsock> {
    let vhost = unix_socket::path(dir, "vsock.vhost")?;
    let socket = unix_socket::path(dir, "vsock.sock")?;
    let arrivals = Arrivals::watch(dir).with_context(|| format!("watch {}", dir.display()))?;
    let mut launch = Launch::new(daemon);
    launch.args(["--guest-cid", &GUEST_CID.to_string()]);
    launch.arg("--socket").arg(&vhost);
    launch.arg("--uds-path").arg(&socket).in_group();
    let helper = Child::spawn("vhost-device-vsock", launch, ledger).await?;
    let mut exited = helper.exited();
    let connected = tokio::select! {
        connected = timeout(START_DEADLINE, connect(&vhost, &arrivals)) => connected
            .map_err(|_| Error::deadline(format!("vhost-device-vsock does not listen within {START_DEADLINE:?}")))
            .flatten(),
        _ = exited.wait_for(Option::is_some) => Err(Error::unavailable(helper.epitaph())),
    };
    match connected {
        Ok(vhost) => Ok(VhostUserVsock { helper, vhost, socket }),
        Err(error) => {
            if let Err(error) = helper.end(Duration::ZERO).await {
                tracing::warn!(%error, "a helper that does not listen lives on"); // Its claim stays, too.
            }
            Err(error)
        }
    }
}

/// Connects as soon as the helper listens. QEMU is given the connection instead of the path, so it cannot be early.
async fn connect(path: &Path, arrivals: &Arrivals) -> Result<OwnedFd> {
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => {
                let stream = stream.into_std().context("hand over the connection")?;
                return Ok(stream.into());
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => sleep(LISTEN_PAUSE).await,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                arrivals.next().await.context("wait for a socket")?
            }
            Err(error) => return Err(error).with_context(|| format!("connect to {}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn the_socket_is_found_whenever_it_appears() {
        for early in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("s");
            let arrivals = Arrivals::watch(dir.path()).unwrap();
            if early {
                let _listener = UnixListener::bind(&path).unwrap();
                connect(&path, &arrivals).await.unwrap();
                continue;
            }
            let connecting = connect(&path, &arrivals);
            tokio::pin!(connecting);
            assert!(timeout(Duration::from_millis(20), &mut connecting).await.is_err());
            std::fs::write(dir.path().join("another"), "").unwrap();
            assert!(timeout(Duration::from_millis(20), &mut connecting).await.is_err());
            let _listener = UnixListener::bind(&path).unwrap();
            timeout(Duration::from_secs(10), connecting).await.unwrap().unwrap();
        }
    }
}

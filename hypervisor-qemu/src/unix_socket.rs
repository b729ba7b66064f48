//! Unix sockets of the VM: pairs that QEMU inherits, and listeners at a path.

use std::{
    os::{fd::OwnedFd, unix::net as std_net},
    path::{Path, PathBuf},
};

use runtime::error::{Context, Error, Result};
use tokio::net::UnixStream;

/// `sun_path` holds 108 bytes with the final zero.
const PATH_LIMIT: usize = 107;

/// A connected pair: our end, and the one to be passed to QEMU. It needs no file and nobody else can reach it.
pub(crate) fn pair() -> Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = std_net::UnixStream::pair().context("make a socket pair")?;
    ours.set_nonblocking(true).context("make a socket pair")?;
    Ok((UnixStream::from_std(ours).context("watch a socket pair")?, theirs.into()))
}

/// The path of a socket in `dir`, refused if a socket address cannot hold it.
pub(crate) fn path(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    let length = path.as_os_str().len();
    if length > PATH_LIMIT {
        return Err(Error::invalid(format!(
            "{} has {length} bytes, a socket path holds {PATH_LIMIT}: use a sandbox id that is {} shorter",
            path.display(),
            length - PATH_LIMIT,
        )));
    }
    Ok(path)
}

/// Listens at `path`. QEMU inherits the listener, so that whoever connects is never too early.
pub(crate) fn listen(path: &Path) -> Result<OwnedFd> {
    let listener =
        std_net::UnixListener::bind(path).with_context(|| format!("listen at {}", path.display()))?;
    Ok(listener.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerd_s_longest_id_fits_and_a_longer_path_says_by_how_much() {
        let dir = |length: usize| PathBuf::from("/run/vc/vm").join("x".repeat(length));
        for name in ["agent.sock", "vsock.vhost", "vsock.sock_1024", "virtiofsd.sock"] {
            path(&dir(76), name).unwrap();
        }
        let error = path(&dir(100), "agent.sock").unwrap_err().to_string();
        assert!(error.contains("122 bytes") && error.contains("15 shorter"), "{error}");
    }

    #[test]
    fn a_client_of_an_inherited_listener_is_never_too_early() {
        let root = tempfile::tempdir().unwrap();
        let path = path(root.path(), "s").unwrap();
        let listener = listen(&path).unwrap();
        std_net::UnixStream::connect(&path).unwrap();
        drop(listener);
        assert!(listen(&path).unwrap_err().to_string().contains("listen at"), "the path is taken");
    }
}

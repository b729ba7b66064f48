//! VMs that are kept ready.
//!
//! Each is owned by a standby: the process that becomes the server of a sandbox once somebody wants one. So the owner of
//! a VM never changes. A standby listens for one request on a socket of its own; `start` asks one after the other:
//!
//! `start` → [`Wanted`] → the standby binds the server's address → [`Offer`] → `start` does what it does for a server that
//! it spawned itself → [`TAKEN`] → the standby is that server → a byte, once containerd knows of it. Whoever hangs up before is
//! taken to be dead.

mod ask;
mod serve;
mod standby;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use ask::{Taken, take};
pub use serve::serve;
pub use standby::run as stand_by;

/// What `start` wants; one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Wanted {
    namespace: String,
    /// The sandbox's id.
    id: String,
    bundle: PathBuf,
    /// Where the server is to listen.
    address: String,
    ttrpc_address: Option<String>,
    debug: bool,
    /// The configuration file, links resolved.
    config: PathBuf,
}

/// What a standby offers; one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Offer {
    /// The server.
    pid: u32,
    /// The server and all that belongs to it.
    processes: Vec<u32>,
}

/// The line by which an offer is taken.
const TAKEN: &str = "taken\n";
/// What a standby says to `factory serve`.
const READY: &str = "ready";
/// A standby's sandbox has this and the process id as its id, until it is somebody's.
const STANDBY_PREFIX: &str = "standby-";

/// A standby's socket.
fn socket(endpoint: &Path, pid: u32) -> PathBuf {
    let mut path = endpoint.as_os_str().to_owned();
    path.push(format!(".{pid}"));
    path.into()
}

/// The sockets of all standbys, dead ones too.
fn sockets(endpoint: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (endpoint.parent(), endpoint.file_name().and_then(|name| name.to_str()))
    else {
        return Vec::new();
    };
    let is_ours = |path: &PathBuf| {
        let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
        let pid = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('.'));
        pid.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()))
    };
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).filter(is_ours).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_by_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = dir.path().join("cache.sock");
        for name in ["cache.sock", "cache.sock.", "cache.sock.12", "cache.sock.x1", "other.sock.12"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(sockets(&endpoint), [socket(&endpoint, 12)]);
    }
}

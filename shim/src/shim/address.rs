//! Where a sandbox's server listens: a name that `start` and `delete` can both work out.

use std::{
    fmt::{self, Write as _},
    fs::{self, DirBuilder, Permissions},
    io::ErrorKind,
    os::{
        fd::AsRawFd,
        unix::{
            fs::{DirBuilderExt, PermissionsExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket},
};
use runtime::error::{Context, Error, Result};
use sha2::{Digest, Sha256};

/// containerd's directory of shim sockets, unless it names another.
pub const SOCKET_DIR: &str = "/run/containerd/s";
/// The file in a bundle that holds the server's pid.
pub const PID_FILE: &str = "shim.pid";
/// The file in a bundle that holds the server's address.
pub const ADDRESS_FILE: &str = "address";
const SCHEME: &str = "unix://";

/// The address of a sandbox's server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    path: PathBuf,
}

impl Address {
    /// The address for `sandbox` of `namespace` under the containerd at `containerd`; the same rule as containerd's own
    /// shim library.
    pub fn of(dir: &Path, containerd: &str, namespace: &str, sandbox: &str) -> Self {
        let mut name = String::with_capacity(64);
        for byte in Sha256::digest(format!("{containerd}/{namespace}/{sandbox}")) {
            let _ = write!(name, "{byte:02x}"); // Writing to a string does not fail.
        }
        Self { path: dir.join(name) }
    }

    /// Reads what [`fmt::Display`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let path = text.trim().strip_prefix(SCHEME)?;
        path.starts_with('/').then(|| Self { path: path.into() })
    }

    /// Binds the socket. A dead server's socket is replaced; a living one is AlreadyExists.
    pub fn listen(&self) -> Result<UnixListener> {
        if let Some(dir) = self.path.parent() {
            let made = DirBuilder::new().recursive(true).mode(0o711).create(dir);
            made.with_context(|| format!("create {}", dir.display()))?;
        }
        let listener = match UnixListener::bind(&self.path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                if self.is_served() {
                    return Err(Error::already_exists(format!("a shim is serving {self} already")));
                }
                self.remove()?;
                UnixListener::bind(&self.path)
            }
            other => other,
        };
        let listener = listener.with_context(|| format!("bind {self}"))?;
        // Until then the umask keeps others from writing, which connecting takes.
        let restricted = fs::set_permissions(&self.path, Permissions::from_mode(0o600));
        if let Err(error) = restricted {
            self.remove()?;
            return Err(error).with_context(|| format!("chmod {self}"));
        }
        Ok(listener)
    }

    /// Whether someone listens here. Does not wait: a listener with a full queue is one all the same.
    pub fn is_served(&self) -> bool {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let connected = UnixAddr::new(&self.path).and_then(|address| {
            let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
            connect(socket.as_raw_fd(), &address)
        });
        matches!(connected, Ok(()) | Err(Errno::EAGAIN))
    }

    /// Removes the socket's file; gone already is as good.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {self}"))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_hash_that_containerd_expects() {
        let address =
            Address::of(Path::new(SOCKET_DIR), "/run/containerd/containerd.sock", "default", "hello");
        // printf %s /run/containerd/containerd.sock/default/hello | sha256sum
        let hash = "f89a747f6a50d5c2ffc699d28a658410899f12d03fa638893cc55d2da1cf53f6";
        assert_eq!(address.to_string(), format!("unix:///run/containerd/s/{hash}"));
        assert_eq!(Address::parse(&format!("{address}\n")), Some(address));
        assert_eq!(Address::parse("unix://relative"), None);
        assert_eq!(Address::parse("tcp:///x"), None);
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let address = Address::of(&dir.path().join("s"), "/c.sock", "ns", "c1");
        drop(address.listen().unwrap());
        assert!(!address.is_served(), "nobody listens, the file is left");

        let living = address.listen().unwrap();
        let error = address.listen().unwrap_err();
        assert_eq!(error.kind(), runtime::error::ErrorKind::AlreadyExists);
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        drop(living);
        address.remove().unwrap();
        address.remove().unwrap();
    }
}

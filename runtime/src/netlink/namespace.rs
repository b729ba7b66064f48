//! A network namespace: known by path and inode, entered by threads that end there, spoken to by netlink.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::channel::mpsc::UnboundedReceiver;
use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
};
use rtnetlink::{
    Handle, MulticastGroup, new_multicast_connection, packet_core::NetlinkMessage,
    packet_route::RouteNetlinkMessage, sys::SocketAddr,
};
use serde::{Deserialize, Serialize};
use tokio::{runtime, sync::oneshot, task::JoinHandle, time::timeout};

use crate::error::{Context, Error, ErrorKind, Result};

/// Our own.
const OWN: &str = "/proc/thread-self/ns/net";
/// For what is undone in a namespace: some milliseconds, most of them the kernel's grace periods.
const UNDO: Duration = Duration::from_secs(10);

/// How a namespace is remembered: another one may come to stand at its path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceId {
    pub path: PathBuf,
    pub device: u64,
    pub inode: u64,
}

/// An open network namespace.
#[derive(Debug, Clone)]
pub(crate) struct Namespace {
    id: NamespaceId,
    fd: Arc<OwnedFd>,
}

impl Namespace {
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| {
            let kind = Error::from(io::Error::from(error.kind())).kind();
            Error::new(kind, format!("network namespace {}: {error}", path.display()))
        })?;
        let meta = file.metadata().with_context(|| path.display().to_string())?;
        let id = NamespaceId { path: path.into(), device: meta.dev(), inode: meta.ino() };
        Ok(Self { id, fd: Arc::new(file.into()) })
    }

    /// The one that was remembered; `None` if it is gone.
    fn reopen(id: &NamespaceId) -> Result<Option<Self>> {
        match Self::open(&id.path) {
            Ok(found) if found.id == *id => Ok(Some(found)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn id(&self) -> &NamespaceId {
        &self.id
    }

    /// Whether it is the one that we are in.
    pub fn is_our_own(&self) -> Result<bool> {
        let own = Self::open(Path::new(OWN))?;
        Ok((own.id.device, own.id.inode) == (self.id.device, self.id.inode))
    }

    /// Runs `work` in it, on a thread that ends with it.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, answer) = oneshot::channel();
        let namespace = self.clone();
        std::thread::Builder::new()
            .name("netns".into())
            .spawn(move || sender.send(namespace.enter().and_then(|()| work())))
            .context("start a thread")?;
        answer.await.map_err(|_| Error::internal("a thread in a network namespace ended early"))?
    }

    /// Connects to the kernel's side of it. What happens to `groups` is told.
    pub async fn connect(&self, groups: &'static [MulticastGroup]) -> Result<Connection> {
        let reactor = runtime::Handle::current();
        let connect = move || {
            let _reactor = reactor.enter();
            new_multicast_connection(groups).context("open a netlink socket")
        };
        let (driver, handle, events) = self.run(connect).await?;
        Ok(Connection { handle, events, driver: tokio::spawn(driver) })
    }

    fn enter(&self) -> Result<()> {
        setns(&*self.fd, CloneFlags::CLONE_NEWNET).map_err(|errno| {
            let path = self.id.path.display();
            match errno {
                Errno::EINVAL => Error::invalid(format!("{path} is no network namespace")),
                errno => Error::from(errno).context(format!("enter network namespace {path}")),
            }
        })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl NamespaceId {
    /// Undoes something in the namespace; nothing is left to be undone in one that is gone. Blocks.
    pub(crate) fn undo<W>(&self, work: impl FnOnce(Handle) -> W + Send) -> Result<()>
    where
        W: Future<Output = Result<()>>,
    {
        let Some(namespace) = Namespace::reopen(self)? else { return Ok(()) };
        let undo = || {
            namespace.enter()?;
            let executor =
                runtime::Builder::new_current_thread().enable_all().build().context("start an executor")?;
            executor.block_on(async {
                let (driver, handle, _) = new_multicast_connection(&[]).context("open a netlink socket")?;
                let driver = tokio::spawn(driver);
                let done = timeout(UNDO, work(handle)).await;
                driver.abort();
                done.map_err(|_| Error::deadline(format!("the kernel does not answer within {UNDO:?}")))?
            })
        };
        // A thread of its own, which ends in the namespace.
        let joined = std::thread::scope(|scope| scope.spawn(undo).join());
        joined.map_err(|_| Error::internal("a thread in a network namespace panicked"))?
    }
}

/// A connection to a namespace; ends when dropped.
pub(crate) struct Connection {
    pub handle: Handle,
    pub events: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What the kernel says.
pub(crate) fn errno(error: &rtnetlink::Error) -> Option<Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => {
            Some(Errno::from_raw(message.code.map_or(0, |code| -code.get())))
        }
        _ => None,
    }
}

impl From<rtnetlink::Error> for Error {
    fn from(error: rtnetlink::Error) -> Self {
        match errno(&error) {
            Some(errno) => errno.into(),
            None => Self::internal(error.to_string()),
        }
    }
}

//! The process that owns a sandbox: configuration -> hypervisor -> keeper -> services on a socket.
//!
//! It is started by `start` with the listening socket as its standard input, and ends when containerd shuts it down or
//! when nobody calls. The one place that names a hypervisor.

use std::{
    collections::HashMap,
    fs::File,
    future::pending,
    io::{stdin, stdout},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use containerd_shim_protos::{sandbox_async::create_sandbox, shim_async::create_task};
use hypervisor_qemu::Qemu;
pub(crate) use hypervisor_qemu::kvm;
use nix::{
    sys::socket::{
        getsockopt,
        sockopt::{AcceptConn, SockType},
    },
    unistd::{dup2_stdin, dup2_stdout, setsid},
};
use runtime::{
    config::Config,
    error::{Context, Error, Result},
    events::Event,
    paths::Paths,
    sandbox::Sandbox,
    vm::Hypervisor,
};
use tokio::{
    io::AsyncReadExt,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::timeout,
};
use ttrpc::r#async::{Server, Service, transport::Listener};

use crate::{
    events::{self, Publisher},
    flags::Flags,
    keeper::{Keeper, KeeperSetup},
    life::Life,
    logging::{self, LogLevel},
    sandbox::SandboxService,
    task::TaskService,
};

/// Without a sandbox and without a call for so long, the process ends. containerd creates as soon as it is started.
const IDLE: Duration = Duration::from_secs(30);
/// For the last events and, after that, the last answers.
const FAREWELL: Duration = Duration::from_secs(2);
/// One serves containerd while the other is busy; more would only cost memory.
const WORKERS: usize = 2;
/// Threads for blocking work end soon after it: between start and end of a container there is none.
const THREAD_KEEP_ALIVE: Duration = Duration::from_secs(2);

const TASK_V2: &str = "containerd.task.v2.Task";
const TASK_V3: &str = "containerd.task.v3.Task";

/// A sandbox that was made before anybody wanted it, with both ends of its events.
pub struct Reserve {
    pub sandbox: Arc<Sandbox>,
    pub events: runtime::events::Sender,
    pub receiver: mpsc::UnboundedReceiver<Event>,
}

/// What a server works with.
pub struct Served {
    pub namespace: String,
    /// Where events go.
    pub events: Option<String>,
    pub log_level: LogLevel,
    pub reserve: Option<Reserve>,
    /// Whoever started it, until containerd knows of it.
    pub starter: Option<UnixStream>,
}

/// Serves until the end, on the listening socket that is standard input.
pub fn run(flags: &Flags) -> Result<()> {
    let (listener, starter) = (take_listener()?, take_starter()?);
    let _ = setsid(); // Fails if this process leads a session already, which is what is wanted.
    let bundle = if flags.bundle.is_empty() { "." } else { &flags.bundle };
    let served = Served {
        namespace: flags.namespace.clone(),
        events: std::env::var("TTRPC_ADDRESS").ok(),
        log_level: logging::init(Path::new(bundle), flags.debug),
        reserve: None,
        starter,
    };
    run_to_end(serve_on(listener, served))
}

/// Does what this process is for, with as many open files as it may have.
pub(crate) fn run_to_end<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    runtime::container::raise_open_files();
    let executor = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_keep_alive(THREAD_KEEP_ALIVE)
        .enable_all()
        .build()
        .context("start the executor")?;
    let done = executor.block_on(work);
    // Everything is given back. What still waits, in a thread of its own, has nothing to wait for, and must not keep us.
    executor.shutdown_background();
    done
}

/// Serves until the end, with everything that the process needs for it.
pub(crate) async fn serve_on(listener: UnixListener, served: Served) -> Result<()> {
    let Served { namespace, events, log_level, reserve, starter } = served;
    let (reserve, sender, receiver) = match reserve {
        Some(Reserve { sandbox, events, receiver }) => (Some(sandbox), events, receiver),
        None => {
            let (sender, receiver) = mpsc::unbounded_channel();
            (None, sender, receiver)
        }
    };
    let publisher = Publisher::start(receiver, namespace, events::endpoint(events));
    let keeper = Keeper::new(KeeperSetup {
        hypervisor_for: Box::new(|config| hypervisor(config, &Paths::default())),
        paths: Paths::default(),
        events: sender,
        log_level,
        reserve,
    });
    let socket = pathname(&listener);
    let served = serve_until(listener, socket, Arc::new(keeper), IDLE, abandoned(starter)).await;
    publisher.close(FAREWELL).await;
    tracing::info!("this shim ends");
    served
}

/// The hypervisor that a configuration describes.
pub(crate) fn hypervisor(config: &Config, paths: &Paths) -> Arc<dyn Hypervisor> {
    let sandboxes = paths.sandboxes();
    let state = sandboxes.parent().unwrap_or(&sandboxes);
    Arc::new(Qemu::new(config.hypervisor.clone(), state))
}

/// The Task service under both of its names, for a ttrpc server.
pub fn services(task: &TaskService) -> HashMap<String, Service> {
    let mut services = create_task(Arc::new(task.clone()));
    // The messages of both versions are the same on the wire.
    services.extend(
        create_task(Arc::new(task.clone())).remove(TASK_V3).map(|service| (TASK_V2.to_owned(), service)),
    );
    services
}

/// Serves `keeper`'s sandbox on `listener` until it is over: shut down, or `idle` without a sandbox. Ends the sandbox, and
/// removes the socket.
pub async fn serve(listener: UnixListener, keeper: Arc<Keeper>, idle: Duration) -> Result<()> {
    let socket = pathname(&listener);
    serve_until(listener, socket, keeper, idle, pending()).await
}

/// The same, also until it is `done`, whose failure is told; and no other socket is removed.
pub(crate) async fn serve_until(
    listener: UnixListener,
    socket: Option<PathBuf>,
    keeper: Arc<Keeper>,
    idle: Duration,
    done: impl Future<Output = Result<()>>,
) -> Result<()> {
    let listener = Listener::try_from(listener).context("listen")?;
    let life = Arc::new(Life::default());
    let task = TaskService::new(keeper.clone(), life.clone());
    let sandbox = SandboxService::new(keeper.clone(), life.clone());
    let mut server = Server::new()
        .add_listener(listener)
        .register_service(services(&task))
        .register_service(create_sandbox(Arc::new(sandbox)));
    let signals = Signals::catch()?;
    server.start().await.map_err(|error| Error::internal(format!("serve: {error}")))?;
    let over = life.over(idle, || keeper.sandbox().is_none());
    let over = tokio::select! {
        () = over => Ok(()),
        () = signals.end(&keeper, &life) => Ok(()),
        done = done => done,
    };
    keeper.close();
    server.stop_listen().await;
    if let Some(socket) = socket {
        let _ = std::fs::remove_file(&socket); // `delete` may have been quicker.
    }
    let released = keeper.release().await;
    // Answers on their way; calls that wait for something have nothing to wait for any more.
    let _ = timeout(FAREWELL, server.disconnect()).await;
    over.and(released)
}

/// The file that the socket is known by.
fn pathname(listener: &UnixListener) -> Option<PathBuf> {
    listener.local_addr().ok()?.as_pathname().map(Path::to_path_buf)
}

/// Returns if the starter ends before containerd knows of this server, which nobody will ever call then.
async fn abandoned(starter: Option<UnixStream>) -> Result<()> {
    if let Some(starter) = starter {
        starter.set_nonblocking(true).context("the starter's socket")?;
        let mut starter = tokio::net::UnixStream::from_std(starter).context("the starter's socket")?;
        if starter.read_u8().await.is_err() {
            tracing::info!("`start` has ended without an answer to containerd");
            return Ok(());
        }
    }
    pending().await
}

/// Standard output, if it is the socket of `start`; what runs later finds nothing there.
fn take_starter() -> Result<Option<UnixStream>> {
    let fd = stdout().as_fd().try_clone_to_owned().context("standard output")?;
    if getsockopt(&fd, SockType).is_err() {
        return Ok(None);
    }
    let null = File::options().write(true).open("/dev/null").context("open /dev/null")?;
    dup2_stdout(&null).context("replace standard output")?;
    Ok(Some(UnixStream::from(fd)))
}

/// Standard input, if it is a listening socket; what runs later finds nothing there.
pub(crate) fn take_listener() -> Result<UnixListener> {
    let fd = stdin().as_fd().try_clone_to_owned().context("standard input")?;
    if getsockopt(&fd, AcceptConn) != Ok(true) {
        return Err(Error::invalid(
            "standard input is no listening socket: containerd runs `start`, which runs this",
        ));
    }
    let null = File::open("/dev/null").context("open /dev/null")?;
    dup2_stdin(&null).context("replace standard input")?;
    Ok(UnixListener::from(fd))
}

/// SIGTERM and SIGINT: systemd sends them to every process of a pod's slice, long before containerd is done with it.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn catch() -> Result<Self> {
        let catch = |kind| signal(kind).context("catch signals");
        Ok(Self { terminate: catch(SignalKind::terminate())?, interrupt: catch(SignalKind::interrupt())? })
    }

    /// Returns on a signal that comes while there is nothing to keep.
    async fn end(mut self, keeper: &Keeper, life: &Life) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
            if keeper.sandbox().is_none() && !life.is_busy() {
                return;
            }
            tracing::info!("a signal to end is ignored: there are containers");
        }
    }
}

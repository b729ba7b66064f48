//! A process that keeps one VM ready, and becomes the server of the sandbox that gets it.

use std::{
    env,
    fs::{self, File, Permissions},
    io::{self, Write, stdin},
    os::{
        fd::AsFd,
        unix::{
            fs::PermissionsExt,
            net::{UnixListener as StdListener, UnixStream as StdStream},
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use runtime::{
    bundle::Bundle,
    config::Config,
    error::{Context, Error, Result},
    events,
    ids::SandboxId,
    paths::Paths,
    sandbox::{Sandbox, Setup},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream, unix::pipe},
    sync::mpsc,
    time::timeout,
};

use super::{Offer, READY, STANDBY_PREFIX, TAKEN, Wanted, socket};
use crate::{
    logging,
    server::{self, Reserve},
    shim::Address,
};

/// For one line of a `start` that is there already.
const PATIENCE: Duration = Duration::from_secs(2);
/// No request is longer.
const LINE_LIMIT: u64 = 64 << 10;

/// Makes a VM, offers it, and serves whoever takes it. Ends with the process that holds the other end of standard input,
/// until then. The configuration is that of KATA_CONF_FILE.
pub fn run() -> Result<()> {
    let _ = setsid(); // What is sent to the terminal is not for a server; fails only if it is done.
    server::run_to_end(async {
        let config = Config::find(None)?;
        let (events, receiver) = mpsc::unbounded_channel();
        let sandbox = make(config, events.clone()).await?;
        match offer(&sandbox).await {
            Ok(taken) => become_server(taken, Reserve { sandbox, events, receiver }).await,
            Err(error) => {
                sandbox.stop().await?;
                Err(error)
            }
        }
    })
}

async fn make(config: Config, events: events::Sender) -> Result<Arc<Sandbox>> {
    let paths = Paths::default();
    let setup = Setup {
        id: SandboxId::new(format!("{STANDBY_PREFIX}{}", std::process::id()))?,
        hypervisor: server::hypervisor(&config, &paths),
        config,
        paths,
        events,
    };
    let sandbox = Sandbox::create(setup, &Bundle::of_nobody()).await?;
    sandbox.start().await?;
    match sandbox.rest().await {
        Ok(()) => Ok(sandbox),
        Err(error) => {
            sandbox.stop().await?;
            Err(error)
        }
    }
}

/// An offer that was taken.
struct Taken {
    wanted: Wanted,
    /// At the address that is wanted.
    listener: StdListener,
    /// Whoever took it, until containerd knows.
    starter: StdStream,
}

/// Waits until the offer is taken. An error if it is no longer wanted, or the VM ended.
async fn offer(sandbox: &Sandbox) -> Result<Taken> {
    let path = socket(&sandbox.config().factory.vm_cache_endpoint, std::process::id());
    let listener = listen(&path)?;
    let taken = async {
        loop {
            let (stream, _) = listener.accept().await.context("wait for a start")?;
            // Only one can get this VM; the others ask elsewhere.
            match negotiate(stream, sandbox).await {
                Ok(taken) => return Ok(taken),
                Err(error) => eprintln!("{}: a start was not served: {error}", crate::shim::program()),
            }
        }
    };
    let mut output = io::stdout();
    let said = writeln!(output, "{READY}").and_then(|()| output.flush()).context("say that it is ready");
    let taken = match said {
        Err(error) => Err(error),
        Ok(()) => tokio::select! {
            taken = taken => taken,
            () = hang_up() => Err(Error::unavailable("no longer wanted")),
            () = sandbox.ended() => Err(Error::unavailable("its VM ended")),
        },
    };
    let _ = fs::remove_file(&path); // Whoever asks here finds out, too.
    taken
}

fn listen(path: &Path) -> Result<UnixListener> {
    let failed = || format!("listen at {}", path.display());
    let _ = fs::remove_file(path); // Of a dead process that had this pid.
    let listener = UnixListener::bind(path).with_context(failed)?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(failed)?;
    Ok(listener)
}

async fn negotiate(mut stream: UnixStream, sandbox: &Sandbox) -> Result<Taken> {
    let mut line = String::new();
    let mut request = BufReader::new((&mut stream).take(LINE_LIMIT));
    heard(request.read_line(&mut line)).await?;
    let wanted: Wanted = serde_json::from_str(&line).context("understand a start")?;
    if Config::load(&wanted.config)? != *sandbox.config() {
        return Err(Error::precondition("it wants another configuration"));
    }
    let address = Address::parse(&wanted.address)
        .ok_or_else(|| Error::invalid(format!("{:?} is no address", wanted.address)))?;
    let listener = address.listen()?;
    let offer = Offer { pid: std::process::id(), processes: sandbox.processes() };
    let mut answer = serde_json::to_vec(&offer).context("answer a start")?;
    answer.push(b'\n');
    let taken = async {
        stream.write_all(&answer).await.context("answer a start")?;
        // Not a byte more than this, for the next one is not for here.
        let mut decision = [0; TAKEN.len()];
        heard(stream.read_exact(&mut decision)).await?;
        if decision != *TAKEN.as_bytes() {
            return Err(Error::unavailable("it changed its mind"));
        }
        stream.into_std().context("keep a start's socket")
    };
    match taken.await {
        Ok(starter) => Ok(Taken { wanted, listener, starter }),
        Err(error) => {
            address.remove()?;
            Err(error)
        }
    }
}

async fn heard<T>(reading: impl Future<Output = io::Result<T>>) -> Result<T> {
    let read = timeout(PATIENCE, reading).await;
    read.map_err(|_| Error::deadline("it says nothing"))?.context("hear a start")
}

/// Returns when nobody holds the other end of standard input any more.
async fn hang_up() {
    let Ok(input) = stdin().as_fd().try_clone_to_owned().and_then(pipe::Receiver::from_owned_fd) else {
        return;
    };
    let mut input = input;
    while let Ok(1..) = input.read(&mut [0; 64]).await {}
}

async fn become_server(taken: Taken, reserve: Reserve) -> Result<()> {
    let Taken { wanted, listener, starter } = taken;
    leave_the_pool(&wanted.bundle)?;
    let log_level = logging::init(&wanted.bundle, wanted.debug);
    let served = server::Served {
        namespace: wanted.namespace,
        events: wanted.ttrpc_address,
        log_level,
        reserve: Some(reserve),
        starter: Some(starter),
    };
    tracing::debug!(sandbox = wanted.id, "a standby becomes the server");
    server::serve_on(listener, served).await
}

/// Lets go of everything that is the pool's.
fn leave_the_pool(bundle: &PathBuf) -> Result<()> {
    env::set_current_dir(bundle).with_context(|| format!("change to {}", bundle.display()))?;
    let null = File::options().read(true).write(true).open("/dev/null").context("open /dev/null")?;
    dup2_stdin(&null).context("replace standard input")?;
    dup2_stdout(&null).context("replace standard output")?;
    match logging::open_fifo(bundle) {
        Some(fifo) => dup2_stderr(&fifo),
        None => dup2_stderr(&null),
    }
    .context("replace standard error")
}

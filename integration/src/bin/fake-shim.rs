//! A shim whose VM is a fake one, as a process that can be killed: `fake-shim serve ROOT ID` serves the Task API on the
//! listening socket that is its standard input; `fake-shim delete ROOT ID` cleans up after it, as containerd asks a shim to.
//! With any other command line it is containerd's, and works below the product's paths.

use std::{
    fs::File,
    io::{Write, stdin, stdout},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use integration::fake_vm::FakeHypervisor;
use runtime::{
    cleanup::cleanup,
    error::{Context, Error, Result},
    ids::SandboxId,
    paths::Paths,
};
use shim::{
    events::{self, Publisher},
    flags::{Action, Flags},
    keeper::{Keeper, KeeperSetup},
    logging::{self, LogLevel},
    server,
};
use tokio::{runtime::Runtime, sync::mpsc};

/// Long enough for a test, short enough not to be left behind by one that failed.
const IDLE: Duration = Duration::from_secs(60);
/// The same for containerd's, which creates as soon as it has started one.
const CONTAINERDS_IDLE: Duration = Duration::from_secs(20);
/// For the last events.
const FAREWELL: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", root, _] => run(serve(Path::new(root))),
        ["delete", root, id] => run(delete(Path::new(root), id)),
        _ => Flags::parse(words).and_then(|flags| for_containerd(&flags)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fake-shim: {error}");
            ExitCode::FAILURE
        }
    }
}

/// As the product's: what the dead guest still waits for is not waited for.
fn run(work: impl Future<Output = Result<()>>) -> Result<()> {
    let executor = Runtime::new().context("start an executor")?;
    let done = executor.block_on(work);
    executor.shutdown_background();
    done
}

fn for_containerd(flags: &Flags) -> Result<()> {
    let reply = match flags.action {
        Action::Start => shim::shim::start(flags)?.bytes,
        Action::Delete => shim::shim::delete(flags)?,
        Action::Info => shim::shim::info()?,
        Action::Serve => return run(serve_containerd(flags)),
        Action::Version | Action::StandBy => return Err(Error::invalid("a fake shim does not do that")),
    };
    Ok(stdout().write_all(&reply)?)
}

async fn serve_containerd(flags: &Flags) -> Result<()> {
    let listener = take_listener()?;
    let (sender, receiver) = mpsc::unbounded_channel();
    let endpoint = events::endpoint(std::env::var("TTRPC_ADDRESS").ok());
    let publisher = Publisher::start(receiver, flags.namespace.clone(), endpoint);
    let keeper = Keeper::new(KeeperSetup {
        hypervisor_for: Box::new(|_| FakeHypervisor::with_processes()),
        paths: Paths::default(),
        events: sender,
        log_level: logging::init(Path::new(&flags.bundle), flags.debug),
        reserve: None,
    });
    let served = server::serve(listener, Arc::new(keeper), CONTAINERDS_IDLE).await;
    publisher.close(FAREWELL).await;
    served
}

/// Standard input, where what runs later finds nothing.
fn take_listener() -> Result<UnixListener> {
    let listener: OwnedFd = stdin().as_fd().try_clone_to_owned().context("standard input")?;
    let null = File::open("/dev/null").context("open /dev/null")?;
    nix::unistd::dup2_stdin(&null).context("replace standard input")?;
    Ok(listener.into())
}

async fn serve(root: &Path) -> Result<()> {
    let listener = stdin().as_fd().try_clone_to_owned().context("standard input")?;
    let (events, mut told) = mpsc::unbounded_channel();
    tokio::spawn(async move { while told.recv().await.is_some() {} });
    let keeper = Keeper::new(KeeperSetup {
        hypervisor_for: Box::new(|_| FakeHypervisor::with_processes()),
        paths: Paths::under(root),
        events,
        log_level: LogLevel::default(),
        reserve: None,
    });
    server::serve(UnixListener::from(listener), Arc::new(keeper), IDLE).await
}

async fn delete(root: &Path, id: &str) -> Result<()> {
    cleanup(&Paths::under(root), &SandboxId::new(id)?).await.map(drop)
}

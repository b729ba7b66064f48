//! Options -> boot duties if pid 1 -> the launcher -> threads -> serve.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    process::ExitCode,
    sync::Arc,
};

use agent::{
    Guest, GuestConfig, Isolation, boot,
    channel::Source,
    container::{launch::Launcher, launcher},
    error::{Context, Error, Result},
    modules,
    options::Options,
    ports,
    reaper::Reaper,
    serve, template,
};
use protocols::guest::BUNDLE_DIR;
use tokio::sync::watch;

fn main() -> ExitCode {
    if let Some(loaded) = modules::as_modprobe(std::env::args()) {
        return loaded
            .inspect_err(|error| eprintln!("{error}"))
            .map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    // Also as the first process of a container, which the warming up of a guest makes it.
    if std::env::args().any(|arg| matches!(arg.as_str(), "-v" | "--version")) {
        println!("kata-agent {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let is_init = std::process::id() == 1;
    if is_init {
        boot::early();
    }
    let (options, faults) = Options::parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default());
    log_to_console(options.log_level);
    for fault in faults {
        tracing::warn!(fault, "kernel command line");
    }
    let ended =
        launcher::fork_launcher().context("fork the launcher").and_then(|socket| run(&options, socket));
    if let Err(error) = &ended {
        tracing::error!(%error, "the agent ends");
    }
    if is_init {
        let error = boot::power_off();
        tracing::error!(%error, "power off");
    }
    if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Logs to the console, over a descriptor of its own: a container on its way to its program has its own standard error
/// already while libcontainer still logs.
fn log_to_console(level: tracing::Level) {
    let log = tracing_subscriber::fmt().with_max_level(level).with_ansi(false);
    match std::io::stderr().as_fd().try_clone_to_owned() {
        Ok(console) => log.with_writer(Arc::new(fs::File::from(console))).init(),
        Err(_) => log.with_max_level(tracing_subscriber::filter::LevelFilter::OFF).init(),
    }
}

/// What ended a time of serving.
enum Over {
    /// The sandbox was destroyed, and the guest ends.
    Destroyed,
    /// The host wants a template, and this line given back when it is one.
    Template(String),
}

fn run(options: &Options, launcher: OwnedFd) -> Result<()> {
    let first = Source::open(&options.address)?;
    let mut moved = None;
    loop {
        let launcher = launcher.try_clone().context("the launcher's socket")?;
        let source = moved.as_ref().unwrap_or(&first);
        // In a thread of its own: what a thread takes from the kernel's randomness, such as the seeds of its hash
        // tables, must not be a template's.
        let over = std::thread::scope(|scope| scope.spawn(|| serve_guest(options, source, launcher)).join())
            .map_err(|_| Error::internal("the serving thread panicked"))??;
        let (Over::Template(line), Source::Serial { port }) = (over, &first) else {
            return Ok(());
        };
        let address = template::wait(port, &line)?;
        moved = match address == options.address {
            true => None,
            false => Some(Source::open(&address)?),
        };
    }
}

fn serve_guest(options: &Options, source: &Source, launcher: OwnedFd) -> Result<Over> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // One beside this one: a guest's processes need its CPUs more than the agent does.
        .worker_threads(1)
        .enable_all()
        .build()
        .context("start the async runtime")?;
    runtime.block_on(async {
        let reaper = Reaper::start()?;
        let isolation = Isolation::Full(Launcher::new(launcher, reaper)?);
        let config = GuestConfig {
            isolation,
            bundles: BUNDLE_DIR.into(),
            pipe_size: options.pipe_size,
            hotplug_timeout: options.hotplug_timeout,
        };
        let (parking, mut parked) = watch::channel(None);
        let guest = Arc::new(Guest::new(config));
        let connections = source.listen(ports::beside(options), parking)?;
        let connections = ports::serve_beside(connections, guest.clone(), options);
        tracing::debug!("ready");
        tokio::select! {
            served = serve(connections, guest) => {
                served.map_err(|error| Error::internal(error.to_string()))?;
                Ok(Over::Destroyed)
            }
            Ok(line) = parked.wait_for(Option::is_some) => Ok(Over::Template(line.clone().unwrap_or_default())),
        }
    })
}

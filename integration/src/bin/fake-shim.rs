//! A shim whose VM is a fake one, as a process that can be killed: `fake-shim serve ROOT ID` serves the Task API on the
//! listening socket that is its standard input; `fake-shim delete ROOT ID` cleans up after it, as containerd asks a shim to.

use std::{
    io::stdin,
    os::{fd::AsFd, unix::net::UnixListener},
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
    keeper::{Keeper, KeeperSetup},
    logging::LogLevel,
    server,
};
use tokio::sync::mpsc;

/// Long enough for a test, short enough not to be left behind by one that failed.
const IDLE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let executor = tokio::runtime::Runtime::new().expect("start an executor");
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = executor.block_on(async {
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["serve", root, _] => serve(Path::new(root)).await,
            ["delete", root, id] => delete(Path::new(root), id).await,
            _ => Err(Error::invalid("usage: fake-shim serve|delete ROOT ID")),
        }
    });
    // As the product's: what the dead guest still waits for is not waited for.
    executor.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fake-shim: {error}");
            ExitCode::FAILURE
        }
    }
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
    server::serve(UnixListener::from(listener), Arc::new(keeper), IDLE, std::future::pending()).await
}

async fn delete(root: &Path, id: &str) -> Result<()> {
    cleanup(&Paths::under(root), &SandboxId::new(id)?).await.map(drop)
}

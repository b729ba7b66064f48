//! `kata-runtime factory serve`: keeps as many standbys as the configuration says. It owns none of their VMs: when it
//! dies, those that nobody has taken end by themselves, and the others are not concerned.

use std::{env, fs, path::PathBuf, process::Stdio, time::Duration};

use runtime::{
    cleanup::cleanup,
    config::Config,
    error::{Context, Error, Result},
    ids::SandboxId,
    paths::Paths,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{READY, STANDBY_PREFIX};

/// From its start until a standby is ready: a first one boots a VM and makes a template.
const READY_DEADLINE: Duration = Duration::from_secs(180);
/// For a standby to take its VM down.
const DRAIN: Duration = Duration::from_secs(20);
/// After a standby that did not get ready; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Serves until a signal asks for the end, and then takes down what nobody has taken.
pub async fn serve(config: &Config) -> Result<()> {
    let number = config.factory.vm_cache_number as usize;
    if number == 0 {
        return Err(Error::invalid("factory.vm_cache_number is 0: there is nothing to keep ready"));
    }
    if let Some(why) = config.template_obstacle() {
        return Err(Error::invalid(format!("factory.vm_cache_number: {why}")));
    }
    let mut terminate = signal(SignalKind::terminate()).context("catch signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("catch signals")?;
    clean_up().await;
    let (closing, closed) = watch::channel(false);
    let mut standbys = JoinSet::new();
    let kept = async {
        let mut pause = FIRST_PAUSE;
        loop {
            while standbys.len() >= number {
                standbys.join_next().await;
            }
            // One at a time: the pool is filled beside the work of others.
            match Standby::ready(config).await {
                Ok(standby) => {
                    println!("a vm is ready: standby {}", standby.process.id().unwrap_or_default());
                    pause = FIRST_PAUSE;
                    standbys.spawn(standby.until_taken(closed.clone()));
                }
                Err(error) => {
                    eprintln!("kata-runtime: no standby: {error}; next try in {pause:?}");
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    };
    tokio::select! {
        () = kept => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    closing.send_replace(true);
    while standbys.join_next().await.is_some() {}
    Ok(())
}

/// A process whose VM is ready.
struct Standby {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Standby {
    async fn ready(config: &Config) -> Result<Self> {
        let program = program()?;
        // For its socket. One that comes too late makes no folder anew.
        if let Some(dir) = config.factory.vm_cache_endpoint.parent() {
            fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        let mut process = Command::new(&program)
            .arg("-standby")
            .env("KATA_CONF_FILE", &config.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let output = process.stdout.take().ok_or_else(|| Error::internal("a standby without output"))?;
        let mut standby = Self { process, output: BufReader::new(output) };
        let mut line = String::new();
        match timeout(READY_DEADLINE, standby.output.read_line(&mut line)).await {
            Ok(Ok(_)) if line.trim_end() == READY => Ok(standby),
            Ok(_) => {
                let status = timeout(DRAIN, standby.process.wait()).await;
                let status =
                    status.map_or_else(|_| "it says nonsense".into(), |status| format!("{status:?}"));
                Err(Error::unavailable(format!("it is not ready: {status}")))
            }
            Err(_) => {
                standby.drain().await;
                Err(Error::deadline(format!("it is not ready after {READY_DEADLINE:?}")))
            }
        }
    }

    /// Waits until somebody has taken it, or it has ended: both close its output. Takes it down when `closing` says so.
    async fn until_taken(mut self, mut closing: watch::Receiver<bool>) {
        let mut line = String::new();
        let output = &mut self.output;
        let closed = async { while let Ok(1..) = output.read_line(&mut line).await {} };
        let drain = tokio::select! {
            () = closed => false,
            asked = closing.wait_for(|closing| *closing) => asked.is_ok(),
        };
        if drain {
            self.drain().await;
        }
    }

    async fn drain(&mut self) {
        // The end of its input is its end.
        drop(self.process.stdin.take());
        if timeout(DRAIN, self.process.wait()).await.is_err() {
            eprintln!("kata-runtime: standby {} does not end", self.process.id().unwrap_or_default());
        }
    }
}

/// Takes away what standbys left that were killed.
async fn clean_up() {
    let paths = Paths::default();
    for entry in fs::read_dir(paths.sandboxes()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(STANDBY_PREFIX) {
            continue;
        }
        let Ok(id) = SandboxId::new(name) else { continue };
        // Of one that lives this is an error, and nothing is done.
        if let Ok(true) = cleanup(&paths, &id).await {
            println!("what standby {id} left was taken away");
        }
    }
}

/// The shim, which is installed beside this program.
fn program() -> Result<PathBuf> {
    let own = env::current_exe().context("find this program")?;
    let shim = own.with_file_name("containerd-shim-kata-v2");
    match shim.is_file() {
        true => Ok(shim),
        false => {
            Err(Error::not_found(format!("{} is missing: it belongs beside this program", shim.display())))
        }
    }
}

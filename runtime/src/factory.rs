//! Templates by hand: made before the first start needs one, looked at, taken away.

use std::{fs, io, path::PathBuf, time::Duration};

use tokio::task::spawn_blocking;

use crate::{
    bundle::Bundle,
    config::Config,
    error::{Context, Error, Result},
    sandbox::{Sandbox, Setup},
    template,
};

/// What there is of the template of a configuration.
#[derive(Debug)]
pub struct Status {
    pub dir: PathBuf,
    pub template: State,
}

#[derive(Debug)]
pub enum State {
    /// The next start makes it.
    Absent,
    /// Starts are clones of it.
    Ready { age: Duration, memory: u64 },
    /// It is there, and the next start makes a new one.
    Unusable(Error),
}

/// Makes the template of `setup`'s configuration unless there is a good one. False if somebody else is at it.
pub async fn init(setup: Setup) -> Result<bool> {
    with_sandbox(setup, async |sandbox| sandbox.make_template().await).await.context("make the template")
}

/// What there is of the template of `setup`'s configuration.
pub async fn status(setup: Setup) -> Result<Status> {
    let templates = with_sandbox(setup, async |sandbox| sandbox.templates().await).await?;
    let look = move || Status {
        dir: templates.dir(),
        template: match templates.find() {
            Ok(None) => State::Absent,
            Ok(Some(template)) => State::Ready { age: template.age(), memory: template.used_memory() },
            Err(error) => State::Unusable(error),
        },
    };
    spawn_blocking(look).await.map_err(|error| Error::internal(error.to_string()))
}

/// Takes away every template in the configured folder; running VMs are not concerned. Returns how many there were.
/// Blocks.
pub fn destroy(config: &Config) -> Result<usize> {
    let root = &config.factory.template_path;
    let failed = || format!("empty {}", root.display());
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries.with_context(failed)?,
    };
    let mut templates = 0;
    for entry in entries {
        let path = entry.with_context(failed)?.path();
        if template::is_template(&path) {
            fs::remove_dir_all(&path).with_context(failed)?;
            templates += 1;
        }
    }
    // Kept while a template is being made in it, or if others put something there.
    let _ = fs::remove_dir(root);
    Ok(templates)
}

async fn with_sandbox<T>(setup: Setup, work: impl AsyncFnOnce(&Sandbox) -> Result<T>) -> Result<T> {
    let sandbox = Sandbox::create(setup, &Bundle::of_nobody()).await?;
    let done = work(&sandbox).await;
    let stopped = sandbox.stop().await;
    done.and_then(|done| stopped.map(|()| done))
}

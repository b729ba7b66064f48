//! `run`: create and start; then, unless detached, wait for the end and delete.

use std::process::ExitCode;

use clap::Args;
use runtime::error::{Context, Result};

use super::{
    create::{Create, Created, Mode},
    end::take_down,
    foreground,
    global::Global,
};

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    create: Create,
    /// Leave the container running and return
    #[arg(short, long)]
    detach: bool,
    /// Keep the container when it has ended
    #[arg(long)]
    keep: bool,
    /// Of no effect: what is started is adopted by nobody here
    #[arg(long)]
    no_subreaper: bool,
}

impl Run {
    /// The code of the container's process, if it was waited for.
    pub fn run(self, global: &Global) -> Result<ExitCode> {
        let mode = if self.detach { Mode::Detached } else { Mode::Foreground };
        let failed = "kata-runtime run failed";
        let created = self.create.create(global, mode).context(failed)?;
        let Created { home, record, client, stand_in, terminal } = created;
        // What it says first may bring a signal before its start is answered.
        let signals = (mode == Mode::Foreground).then(foreground::catch_signals).transpose()?;
        if let Err(error) = client.start("") {
            drop(terminal);
            take_down(&home, &record).context("take away what could not be started")?;
            return Err(error.context(failed));
        }
        drop(client);
        let Some(signals) = signals else { return Ok(ExitCode::SUCCESS) };
        let code = foreground::wait(stand_in, signals);
        drop(terminal);
        if !self.keep {
            take_down(&home, &record)?;
        }
        code
    }
}

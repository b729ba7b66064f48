//! One start as a waterfall: what the shim, QEMU, the guest's kernel and the agent did, on one time scale.

mod chrome;
mod collect;
mod kernel;
mod spans;
mod waterfall;

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use toml_edit::Value;

use super::{
    engine::{Engine, Role, Runtime},
    lineup::{self, Lineup},
    options::{Options, Way},
};

const ID: &str = "traced";

/// Traces one start and prints it; `--json` gets it in Chrome's format.
pub fn trace(engine: &Engine, lineup: &Lineup, options: &Options) -> Result<()> {
    let contender = lineup.usual();
    let runtime = talkative(&contender.runtime, contender.way, options)?;
    contender.ready(0)?;
    // Fills caches, and makes the template of this configuration.
    engine.run(&runtime, "untraced", Role::Alone)?;
    engine.settle(0)?;
    contender.ready(0)?;
    let before = engine.log.length()?;
    let began = now()?;
    let ms = engine.run(&runtime, ID, Role::Alone)?;
    engine.settle(0)?;
    let trace = collect::trace(&engine.log.since(before)?, ID, began, ms);
    println!("one start, {}: `ctr run --rm IMAGE true` took {ms:.0} ms\n", contender.way.label());
    print!("{}", waterfall::text(&trace));
    println!(
        "\nThe guest's kernel prints to its console for this, which takes it time that it does not take otherwise."
    );
    if let Some(path) = &options.json {
        let text = format!("{:#}\n", chrome::json(&trace));
        fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
        eprintln!("==> written: {} (open it in chrome://tracing or ui.perfetto.dev)", path.display());
    }
    Ok(())
}

/// The runtime with its guest's console in the log. A VM from a pool was made by the pool's configuration.
fn talkative(runtime: &Runtime, way: Way, options: &Options) -> Result<Runtime> {
    let Some(config) = runtime.config.as_ref().filter(|_| way != Way::Pool) else {
        return Ok(runtime.clone());
    };
    let traced = options.work.join("traced.toml");
    lineup::configure(config, &traced, &[("hypervisor.qemu.enable_debug", Value::from(true))])?;
    Ok(Runtime { config: Some(traced), ..runtime.clone() })
}

/// Nanoseconds since 1970.
fn now() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    u64::try_from(now.as_nanos()).context("the clock is far in the future")
}

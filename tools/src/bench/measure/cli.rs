//! The OCI command line: what a question takes, and a whole container beside the same through containerd's shim.

use std::path::Path;

use anyhow::Result;

use crate::bench::{
    aims,
    engine::{Engine, Role},
    host::bundles::CommandLine,
    lineup::Lineup,
    options::Options,
    report::Table,
};

/// As many containers as `list` is asked for. Ours are in one VM: a list does not depend on where they are.
const LISTED: usize = 100;
const FIRST: &str = "cli-0";

pub fn measure(engine: &Engine, lineup: &Lineup, options: &Options) -> Result<Vec<Table>> {
    let dir = options.work.join("cli");
    let rootfs = dir.join("rootfs");
    engine.mount_image(&rootfs)?;
    let measured = with_image(engine, lineup, options, &dir, &rootfs);
    let unmounted = engine.unmount_image(&rootfs);
    let tables = measured?;
    unmounted.map(|()| tables)
}

fn with_image(
    engine: &Engine,
    lineup: &Lineup,
    options: &Options,
    dir: &Path,
    rootfs: &Path,
) -> Result<Vec<Table>> {
    let usual = lineup.usual();
    let config = usual.runtime.config.as_deref();
    let runc = CommandLine::new("runc".as_ref(), None, dir.join("runc"), rootfs)?;
    let ours = CommandLine::new(&options.kata_runtime, config, dir.join("ours"), rootfs)?;
    let lives = lives(engine, lineup, options, &runc, &ours)?;
    for (number, id) in (0..LISTED).map(|number| format!("cli-{number}")).enumerate() {
        runc.start(&id, None)?;
        if number == 0 {
            usual.ready(0)?;
        }
        ours.start(&id, Some(FIRST))?;
    }
    let state = question(options, [&runc, &ours], &["state", FIRST])?;
    let list = question(options, [&runc, &ours], &["list"])?;
    let mut tables = lives;
    for (id, title, [runc, ours], aim) in [
        ("cli-state", "`state`".to_owned(), state, aims::CLI_STATE),
        ("cli-list", format!("`list` of {LISTED} containers"), list, aims::CLI_LIST),
    ] {
        let mut table = Table::new(id, title, "ms", 1);
        table.reference("runc", &runc);
        table.ours("kata-runtime", &ours, Some(aim));
        tables.push(table);
    }
    Ok(tables)
}

/// Whole containers, by the command line and by containerd, in turn.
fn lives(
    engine: &Engine,
    lineup: &Lineup,
    options: &Options,
    runc: &CommandLine,
    ours: &CommandLine,
) -> Result<Vec<Table>> {
    let usual = lineup.usual();
    let [mut by_runc, mut by_shim, mut by_us, mut added] = [const { Vec::new() }; 4];
    for run in 0..=options.runs {
        let id = format!("cli-run-{run}");
        let alone = runc.run(&id)?;
        usual.ready(0)?;
        let shim = engine.run(&usual.runtime, &id, Role::Alone)?;
        engine.settle(0)?;
        usual.ready(0)?;
        let cli = ours.run(&id)?;
        if run > 0 {
            by_runc.push(alone);
            by_shim.push(shim);
            by_us.push(cli);
            added.push(cli - shim);
        }
    }
    let way = usual.way.label();
    let mut table = Table::new("cli-run", "a whole container by the command line", "ms", 0);
    table.reference("runc run", &by_runc);
    table.ours(&format!("ctr run --rm, the shim ({way})"), &by_shim, None);
    table.ours(&format!("kata-runtime run ({way})"), &by_us, None);
    let mut more = Table::new("cli-adds", "what `kata-runtime run` takes more than `ctr run`", "ms", 0);
    more.ours("run by run", &added, Some(aims::CLI_ADDS));
    Ok(vec![table, more])
}

fn question(options: &Options, asked: [&CommandLine; 2], words: &[&str]) -> Result<[Vec<f64>; 2]> {
    let mut samples = [const { Vec::new() }; 2];
    for run in 0..=options.runs {
        for (line, samples) in asked.iter().zip(&mut samples) {
            let ms = line.ask(words)?.ms;
            samples.extend((run > 0).then_some(ms));
        }
    }
    Ok(samples)
}

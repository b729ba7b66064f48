//! What the standard streams of a process carry, beside runc's and the raw channel that carries ours.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::bench::{
    aims,
    engine::{Engine, Role, Stream},
    lineup::Lineup,
    options::Options,
    report::{Better, Kind, Table},
};

/// How much goes through a stream in one run, and in one that tells what the process itself takes.
const MUCH: u32 = 256;
const LITTLE: u32 = 1;
/// Of each stream: its name, which it is, and where the bench of channels has its like.
const STREAMS: [(&str, Stream, &str); 2] = [
    ("standard output", Stream::Output, "channel-to-host-1"),
    ("standard input", Stream::Input, "channel-to-guest-1"),
];

pub fn measure(engine: &Engine, lineup: &Lineup, options: &Options) -> Result<Vec<Table>> {
    let usual = lineup.usual();
    usual.ready(0)?;
    engine.start(&lineup.runc, "io-runc", Role::Alone)?;
    engine.start(&usual.runtime, "io-ours", Role::Alone)?;
    let mut tables = Vec::new();
    for (name, stream, like) in STREAMS {
        let (mut runc, mut ours) = (Vec::new(), Vec::new());
        for run in 0..=options.runs {
            for (id, samples) in [("io-runc", &mut runc), ("io-ours", &mut ours)] {
                let little = engine.carry(id, &format!("l{run}{like}"), stream, LITTLE)?;
                let much = engine.carry(id, &format!("m{run}{like}"), stream, MUCH)?;
                let rate = f64::from(MUCH - LITTLE) / ((much - little) / 1e3).max(1e-6);
                samples.extend((run > 0).then_some(rate));
            }
        }
        let mut table = Table::new(format!("io-{like}"), format!("what {name} carries"), "MiB/s", 0);
        table.better = Better::More;
        let raw = options.channel.as_deref().map(|file| raw(file, like)).transpose()?;
        match &raw {
            Some(raw) => table.reference("the raw channel", raw),
            None => table.missing(Kind::Reference, "the raw channel", "not measured"),
        }
        table.ours(&format!("ours ({})", usual.way.label()), &ours, raw.map(|_| aims::STREAM));
        table.floor("runc, without a VM", &runc);
        table.note(format!(
            "{MUCH} MiB by `dd` with blocks of 64 KiB in an added process, less the time of {LITTLE} MiB. The raw channel \
             (serial port, one stream) has no process at its end."
        ));
        tables.push(table);
    }
    engine.remove("io-runc")?;
    engine.remove("io-ours")?;
    engine.settle(0)?;
    Ok(tables)
}

/// The samples of the serial port in what the bench of channels has written.
fn raw(file: &Path, id: &str) -> Result<Vec<f64>> {
    let text = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let figures: Value = serde_json::from_slice(&text).with_context(|| format!("{}", file.display()))?;
    let found = serial(&figures, id).with_context(|| format!("{} has no {id}", file.display()))?;
    Ok(found)
}

fn serial(figures: &Value, id: &str) -> Option<Vec<f64>> {
    let named = |list: &Value, key: &str, name: &str| {
        list.as_array()?.iter().find(|entry| entry[key] == *name).cloned()
    };
    let figure = named(&figures["tables"], "id", id)?;
    let row = named(&figure["rows"], "name", "serial")?;
    Some(["min", "median", "max"].iter().filter_map(|key| row[*key].as_f64()).collect())
}

//! One sandbox after the other until there are many: whether the last starts as fast as the first, and what each takes of
//! the host's memory.

use std::fs;

use anyhow::Result;

use crate::bench::{
    aims,
    engine::{Engine, Role},
    lineup::Lineup,
    options::Options,
    report::{Kind, Table},
    stats::median,
};

/// Starts at each end whose median is compared: a single one says little.
const END: usize = 5;
/// The host is not to be brought to its knees.
const MEMORY_LEFT_KIB: u64 = 1 << 20;

/// Start times in their order, and what was left when it ended early.
#[derive(Default)]
struct Growth {
    times: Vec<f64>,
    /// MiB of the host's memory, at each start.
    available: Vec<f64>,
    stopped: Option<String>,
}

pub fn measure(engine: &Engine, lineup: &Lineup, options: &Options) -> Result<Vec<Table>> {
    let usual = lineup.usual();
    let sandboxes = options.sandboxes as usize;
    let (mut runc, mut ours) = (Growth::default(), Growth::default());
    let mut ids = Vec::new();
    for number in 0..sandboxes {
        if ours.is_full() {
            break;
        }
        let id = format!("growth-runc-{number}");
        runc.times.push(engine.start(&lineup.runc, &id, Role::Alone)?);
        ids.push(id);
        usual.ready(number)?;
        let id = format!("growth-ours-{number}");
        ours.times.push(engine.start(&usual.runtime, &id, Role::Alone)?);
        ids.push(id);
    }
    for id in ids.iter().rev() {
        engine.remove(id)?;
    }
    engine.settle(0)?;
    let by_hand = by_hand(lineup, sandboxes);
    let mut table = Table::new("growth", format!("growth to {sandboxes} sandboxes"), "ms", 0);
    rows(&mut table, Kind::Reference, "runc", &runc);
    let name = format!("ours ({})", usual.way.label());
    rows(&mut table, Kind::Ours, &name, &ours);
    let mut ratios = Table::new("growth-ratio", "the last five starts to the first five", "times", 2);
    ratios.add(Kind::Reference, "runc", &runc.ratio(), None);
    ratios.ours(&name, &ours.ratio(), Some(aims::GROWTH));
    let mut memory = Table::new("growth-memory", "host memory for each sandbox as they grow", "MiB", 1);
    memory.ours(&format!("{name}, beside one of runc's"), &ours.memory_each(), None);
    match by_hand {
        Ok(growth) => {
            rows(&mut table, Kind::Floor, "QEMU by hand, booted", &growth);
            ratios.floor("QEMU by hand, booted", &growth.ratio());
            memory.floor("QEMU by hand, booted", &growth.memory_each());
        }
        Err(error) => table.missing(Kind::Floor, "QEMU by hand, booted", format!("{error:#}")),
    }
    for reason in [runc.stopped, ours.stopped].into_iter().flatten() {
        table.note(reason);
    }
    table.note("`ctr run --detach`, runc and ours in turn, all staying; by hand until the agent answers.");
    memory.note("By how much less the host calls available from the first start to the last.");
    Ok(vec![table, ratios, memory])
}

fn by_hand(lineup: &Lineup, sandboxes: usize) -> Result<Growth> {
    let floor = lineup.floor.as_ref().map_err(|reason| anyhow::anyhow!("{reason}"))?;
    let (mut growth, mut vms) = (Growth::default(), Vec::new());
    while vms.len() < sandboxes && !growth.is_full() {
        let (vm, ms) = floor.boot()?;
        vms.push(vm);
        growth.times.push(ms);
    }
    Ok(growth)
}

fn rows(table: &mut Table, kind: Kind, name: &str, growth: &Growth) {
    let (first, last) = growth.ends();
    let count = growth.times.len();
    let names = [format!("{name}: first {}", first.len()), format!("{name}: last {} of {count}", last.len())];
    for (name, samples) in names.iter().zip([first, last]) {
        table.add(kind, name, samples, None);
    }
}

impl Growth {
    /// Whether the host has too little memory for one more. Notes what it has.
    fn is_full(&mut self) -> bool {
        let available = available_kib();
        self.available.push(available as f64 / 1024.0);
        if available < MEMORY_LEFT_KIB {
            self.stopped = Some(format!(
                "Ended early: {} MiB of memory were left after {} starts.",
                available / 1024,
                self.times.len()
            ));
        }
        self.stopped.is_some()
    }

    fn ends(&self) -> (&[f64], &[f64]) {
        let end = END.min(self.times.len());
        (&self.times[..end], &self.times[self.times.len() - end..])
    }

    /// Nothing if there are too few for two ends.
    fn ratio(&self) -> Vec<f64> {
        if self.times.len() < 2 * END {
            return Vec::new();
        }
        let (first, last) = self.ends();
        vec![median(last) / median(first)]
    }

    fn memory_each(&self) -> Vec<f64> {
        let (Some(first), Some(last)) = (self.available.first(), self.available.last()) else {
            return Vec::new();
        };
        match self.available.len() - 1 {
            0 => Vec::new(),
            steps => vec![((first - last) / steps as f64).max(0.0)],
        }
    }
}

fn available_kib() -> u64 {
    parse_available(&fs::read_to_string("/proc/meminfo").unwrap_or_default()).unwrap_or(u64::MAX)
}

fn parse_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_are_compared_if_there_are_two() {
        let mut growth = Growth { times: (1..=10).map(f64::from).collect(), ..Growth::default() };
        assert_eq!(growth.ratio(), [8.0 / 3.0]);
        growth.times.truncate(9);
        assert_eq!(growth.ratio(), [0.0_f64; 0]);
        growth.available = vec![1000.0, 900.0, 700.0];
        assert_eq!(growth.memory_each(), [150.0]);
    }

    #[test]
    fn available_memory_is_read() {
        assert_eq!(parse_available("MemTotal: 5 kB\nMemAvailable:   123 kB\n"), Some(123));
        assert_eq!(parse_available(""), None);
    }
}

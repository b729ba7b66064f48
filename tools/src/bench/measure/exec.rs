//! One more process in a container that runs.

use std::{thread, time::Instant};

use anyhow::Result;

use crate::bench::{
    aims,
    engine::{Engine, Role},
    lineup::Lineup,
    options::Options,
    report::Table,
};

pub fn measure(engine: &Engine, lineup: &Lineup, options: &Options) -> Result<Vec<Table>> {
    let usual = lineup.usual();
    usual.ready(0)?;
    engine.start(&lineup.runc, "exec-runc", Role::Alone)?;
    engine.start(&usual.runtime, "exec-ours", Role::Alone)?;
    let (mut runc, mut ours) = (Vec::new(), Vec::new());
    for run in 0..=options.runs {
        for (id, samples) in [("exec-runc", &mut runc), ("exec-ours", &mut ours)] {
            let ms = engine.exec(id, &format!("e{run}"))?;
            samples.extend((run > 0).then_some(ms));
        }
    }
    let many = many(engine, options)?;
    engine.remove("exec-runc")?;
    engine.remove("exec-ours")?;
    engine.settle(0)?;
    let mut table = Table::new("exec", "`ctr task exec … true`", "ms", 0);
    table.reference("runc", &runc);
    table.ours(&format!("ours ({})", usual.way.label()), &ours, Some(aims::EXEC));
    table.note("There is no floor: without an agent nothing is executed in a VM.");
    let mut tables = vec![table];
    tables.extend(many);
    Ok(tables)
}

/// How many at a time.
const AT_A_TIME: [usize; 4] = [1, 10, 50, 200];
/// More are not asked of the runc shim: with 200, that of containerd 1.6 stops answering and has to be killed.
const MOST_OF_RUNC: usize = 50;
/// A round with many is many samples already.
const MOST_ROUNDS: u32 = 3;

/// The cost of each of many at a time, to that of one alone, in either container.
fn many(engine: &Engine, options: &Options) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for (name, id, most) in [("runc", "exec-runc", MOST_OF_RUNC), ("ours", "exec-ours", usize::MAX)] {
        let mut table =
            Table::new(format!("execs-{name}"), format!("each of many execs at a time, {name}"), "ms", 0);
        for at_a_time in AT_A_TIME.into_iter().filter(|number| *number <= most) {
            let mut samples = Vec::new();
            for round in 0..=options.runs.min(MOST_ROUNDS) {
                let began = Instant::now();
                thread::scope(|scope| {
                    let exec = |number| engine.exec(id, &format!("m{at_a_time}-{round}-{number}")).map(drop);
                    let execs: Vec<_> =
                        (0..at_a_time).map(|number| scope.spawn(move || exec(number))).collect();
                    execs.into_iter().try_for_each(|exec| match exec.join() {
                        Ok(done) => done,
                        Err(_) => Err(anyhow::anyhow!("an exec panicked")),
                    })
                })?;
                samples.extend((round > 0).then_some(began.elapsed().as_secs_f64() * 1e3 / at_a_time as f64));
            }
            match at_a_time {
                1 => table.reference("one alone", &samples),
                _ => table.ours(
                    &format!("each of {at_a_time}"),
                    &samples,
                    (name == "ours").then_some(aims::EXECS),
                ),
            }
        }
        tables.push(table);
    }
    Ok(tables)
}

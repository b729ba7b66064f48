//! One more process in a container that runs.

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
    engine.remove("exec-runc")?;
    engine.remove("exec-ours")?;
    engine.settle(0)?;
    let mut table = Table::new("exec", "`ctr task exec … true`", "ms", 0);
    table.reference("runc", &runc);
    table.ours(&format!("ours ({})", usual.way.label()), &ours, Some(aims::EXEC));
    table.note("There is no floor: without an agent nothing is executed in a VM.");
    Ok(vec![table])
}

//! A second container in a VM that runs: a pod's, made by the marks that Kubernetes' containers carry. runc's shim takes
//! the same marks for containers that it is to serve together.

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
    let pods = [("pod-runc", &lineup.runc), ("pod-ours", &usual.runtime)];
    for (pod, runtime) in pods {
        engine.start(runtime, pod, Role::First)?;
    }
    let mut samples = [Vec::new(), Vec::new()];
    for run in 0..=options.runs {
        for ((pod, runtime), samples) in pods.iter().zip(&mut samples) {
            let ms = engine.run(runtime, &format!("{pod}-{run}"), Role::Member(pod))?;
            samples.extend((run > 0).then_some(ms));
        }
    }
    for (pod, _) in pods {
        engine.remove(pod)?;
    }
    engine.settle(0)?;
    let [runc, ours] = samples;
    let mut table = Table::new("second", "`ctr run --rm IMAGE true` in a pod that runs", "ms", 0);
    table.reference("runc", &runc);
    table.ours(&format!("ours ({})", usual.way.label()), &ours, Some(aims::SECOND_CONTAINER));
    table.note("There is no floor: without an agent there is no second container in a VM.");
    Ok(vec![table])
}

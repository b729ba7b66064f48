//! A pod as Kubernetes makes it, without its network: its start, its second container and its fiftieth. runc's shim takes
//! the same marks for containers that it is to serve together.

use anyhow::Result;

use crate::bench::{
    aims,
    engine::{Engine, Role, Runtime},
    lineup::Lineup,
    options::Options,
    report::{Kind, Table},
    stats::median,
};

/// Of a pod that is full, its own among them.
const CONTAINERS: usize = 50;

/// A pod and what was measured in it, in milliseconds.
struct Pod<'a> {
    name: &'static str,
    runtime: &'a Runtime,
    start: Vec<f64>,
    second: Vec<f64>,
    fiftieth: Vec<f64>,
}

pub fn measure(engine: &Engine, lineup: &Lineup, options: &Options) -> Result<Vec<Table>> {
    let usual = lineup.usual();
    let pod = |name, runtime| Pod { name, runtime, start: vec![], second: vec![], fiftieth: vec![] };
    let mut pods = [pod("runc", &lineup.runc), pod("ours", &usual.runtime)];
    for run in 0..=options.runs {
        for pod in &mut pods {
            usual.ready(0)?;
            let ms = engine.start_pod(pod.runtime, pod.name)?;
            engine.remove(pod.name)?;
            engine.settle(0)?;
            pod.start.extend((run > 0).then_some(ms));
        }
    }
    usual.ready(0)?;
    for pod in &pods {
        engine.start_pod(pod.runtime, pod.name)?;
    }
    for run in 0..=options.runs {
        for pod in &mut pods {
            let ms = pod.one_more(engine, &format!("second-{run}"))?;
            pod.second.extend((run > 0).then_some(ms));
        }
    }
    for number in 2..CONTAINERS {
        for pod in &pods {
            engine.start(pod.runtime, &pod.member(&number.to_string()), Role::Member(pod.name))?;
        }
    }
    for run in 0..=options.runs {
        for pod in &mut pods {
            let ms = pod.one_more(engine, &format!("last-{run}"))?;
            pod.fiftieth.extend((run > 0).then_some(ms));
        }
    }
    engine.remove_all();
    engine.settle(0)?;
    Ok(tables(&pods, &format!("ours ({})", usual.way.label())))
}

impl Pod<'_> {
    fn member(&self, name: &str) -> String {
        format!("{}-{name}", self.name)
    }

    /// A container from its making to its removal, beside those that are there.
    fn one_more(&self, engine: &Engine, name: &str) -> Result<f64> {
        engine.run(self.runtime, &self.member(name), Role::Member(self.name))
    }
}

fn tables([runc, ours]: &[Pod<'_>; 2], name: &str) -> Vec<Table> {
    let mut start = Table::new("pod-start", "`ctr run --detach` of a pod's own container", "ms", 0);
    start.reference("runc", &runc.start);
    start.ours(name, &ours.start, None);
    start
        .note("There is no network in it. A pod's own container is a process with runc, and a VM with ours.");
    let mut second =
        Table::new("pod-second", "`ctr run --rm IMAGE true` as a pod's second container", "ms", 0);
    second.reference("runc", &runc.second);
    second.ours(name, &ours.second, Some(aims::SECOND_CONTAINER));
    let mut last = Table::new("pod-last", format!("the same as its container {CONTAINERS}"), "ms", 0);
    last.reference("runc", &runc.fiftieth);
    last.ours(name, &ours.fiftieth, Some(aims::SECOND_CONTAINER));
    let growth = |pod: &Pod<'_>| [median(&pod.fiftieth) / median(&pod.second)];
    let title = format!("container {CONTAINERS} of a pod to its second");
    let mut ratio = Table::new("pod-growth", title, "times", 2);
    ratio.add(Kind::Reference, "runc", &growth(runc), None);
    ratio.ours(name, &growth(ours), Some(aims::POD_GROWTH));
    vec![start, second, last, ratio]
}

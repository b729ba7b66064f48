//! Wake-ups of an idle sandbox: how often the kernel switched to any thread of its processes.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::Result;

use crate::bench::{
    aims,
    engine::{Engine, Role, Sandbox},
    host::process,
    lineup::Lineup,
    options::Options,
    report::{Aim, Kind, Table},
};

/// For what a start leaves running.
const SETTLING: Duration = Duration::from_secs(10);

/// A process and what it is.
struct Watched {
    what: String,
    kind: Kind,
    aim: Option<Aim>,
    pids: Vec<u32>,
}

pub fn measure(engine: &Engine, lineup: &Lineup, options: &Options) -> Result<Vec<Table>> {
    let mut watched = Vec::new();
    let mut ids = vec!["idle-runc".to_owned()];
    engine.start(&lineup.runc, &ids[0], Role::Alone)?;
    let sandbox = engine.sandbox(&ids[0])?;
    watched.push(Watched {
        what: "runc: shim".into(),
        kind: Kind::Reference,
        aim: None,
        pids: vec![sandbox.shim],
    });
    for contender in &lineup.ours {
        contender.ready(0)?;
        let id = format!("idle-{}", contender.way.word());
        engine.start(&contender.runtime, &id, Role::Alone)?;
        watched.extend(of_sandbox(contender.way.label(), engine.sandbox(&id)?));
        ids.push(id);
    }
    let vm = lineup.floor.as_ref().map_err(Clone::clone).and_then(|f| f.boot().map_err(|e| format!("{e:#}")));
    if let Ok((vm, _)) = &vm {
        let what = "QEMU by hand, booted".into();
        watched.push(Watched { what, kind: Kind::Floor, aim: None, pids: vec![vm.pid()] });
    }
    thread::sleep(SETTLING);
    let counts = watch(&watched, Duration::from_secs(options.seconds));
    for id in &ids {
        engine.remove(id)?;
    }
    engine.settle(0)?;
    let mut table = Table::new("idle", "wake-ups of an idle sandbox", "1/min", 1);
    for (watched, count) in watched.iter().zip(counts) {
        let per_minute = [count as f64 * 60.0 / options.seconds as f64];
        table.add(watched.kind, &watched.what, &per_minute, watched.aim);
    }
    for (way, reason) in &lineup.missing {
        table.missing(Kind::Ours, way.label(), reason);
    }
    if let Err(reason) = vm {
        table.missing(Kind::Floor, "QEMU by hand, booted", reason);
    }
    table.note(format!(
        "Switches, voluntary or not, to all threads in {} s, all sandboxes at the same time. QEMU wakes up for its guest's \
         timers.",
        options.seconds
    ));
    Ok(vec![table])
}

fn of_sandbox(label: &str, sandbox: Sandbox) -> Vec<Watched> {
    let watched =
        |what: &str, aim, pids| Watched { what: format!("{label}: {what}"), kind: Kind::Ours, aim, pids };
    vec![
        watched("shim", Some(aims::SHIM_WAKE_UPS), vec![sandbox.shim]),
        watched("QEMU", None, sandbox.hypervisor.into_iter().collect()),
        watched("daemons", None, sandbox.others.into_iter().collect()),
    ]
}

/// The switches of each within that time.
fn watch(watched: &[Watched], time: Duration) -> Vec<u64> {
    let now = || -> Vec<BTreeMap<u32, u64>> {
        // Threads of all processes have ids of their own.
        watched
            .iter()
            .map(|watched| watched.pids.iter().flat_map(|pid| process::switches(*pid)).collect())
            .collect()
    };
    let before = now();
    thread::sleep(time);
    before.iter().zip(now()).map(|(before, after)| process::switches_between(before, &after)).collect()
}

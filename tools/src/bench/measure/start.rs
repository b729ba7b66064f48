//! A whole container, from `ctr run` to its end; where the time goes; and how long a VM takes to its first answer.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::bench::{
    aims,
    engine::{Engine, Role},
    floor::{Floor, Vm},
    lineup::{Contender, Lineup},
    log::Phase,
    options::{Options, Way},
    report::{Kind, Table},
    stats,
};

/// The phases that follow each other in a start and its end: (name, meaning). Others lie within or beside these.
const PHASES: [(&str, &str); 10] = [
    ("sandbox-create", "host: record, shared tree, virtiofsd"),
    ("template-find", "host: template found"),
    (VM_START, "QEMU: started, QMP ready"),
    ("vm-restore", "QEMU: template's state restored"),
    (ANSWERS[0], "guest: kernel, agent, first answers"),
    (ANSWERS[1], "guest: clone told what it must know, first answers"),
    ("storage", "host: root file system mounted and shared"),
    ("container-create", "guest: container made"),
    ("task-start", "guest: container started"),
    ("sandbox-stop", "tear-down: VM ended, everything released"),
];
const VM_START: &str = "vm-start";
/// What ends with the agent's first answers, after a boot and in a clone.
const ANSWERS: [&str; 2] = ["guest-boot", "clone-wake"];
/// Phases that have others within them.
const AROUND: [&str; 1] = ["task-create"];

/// What was measured of one way.
#[derive(Default)]
struct Found {
    totals: Vec<f64>,
    phases: BTreeMap<String, Vec<f64>>,
    first_answers: Vec<f64>,
}

type ByHand = fn(&Floor) -> Result<(Vm, f64)>;
const BY_HAND: [(&str, ByHand); 3] = [
    ("QEMU by hand, booted", Floor::boot),
    ("QEMU by hand, cloned", Floor::clone_vm),
    ("QEMU by hand, cloned beforehand", Floor::release_vm),
];

pub fn measure(engine: &Engine, lineup: &Lineup, options: &Options) -> Result<Vec<Table>> {
    let mut runc = Vec::new();
    let mut ours: Vec<Found> = lineup.ours.iter().map(|_| Found::default()).collect();
    let mut by_hand: [Result<Vec<f64>, String>; 3] = [const { Ok(Vec::new()) }; 3];
    for run in 0..=options.runs {
        // The first of each fills caches.
        let counts = run > 0;
        let ms = engine.run(&lineup.runc, &format!("start-runc-{run}"), Role::Alone)?;
        runc.extend(counts.then_some(ms));
        engine.settle(0)?;
        for (contender, found) in lineup.ours.iter().zip(&mut ours) {
            one_run(engine, contender, run, counts.then_some(found))?;
        }
        for ((_, vm), found) in BY_HAND.iter().zip(&mut by_hand) {
            by_hand_run(lineup, *vm, counts, found);
        }
    }
    let mut tables = vec![totals(lineup, &runc, &ours, options)];
    tables.extend(lineup.ours.iter().zip(&ours).map(|(contender, found)| phases(contender.way, found)));
    tables.push(first_answers(lineup, &ours, &by_hand));
    Ok(tables)
}

fn one_run(engine: &Engine, contender: &Contender, run: u32, found: Option<&mut Found>) -> Result<()> {
    contender.ready(0)?;
    let id = format!("start-{}-{run}", contender.way.word());
    let before = engine.log.length()?;
    let ms = engine.run(&contender.runtime, &id, Role::Alone)?;
    engine.settle(0)?;
    let Some(found) = found else { return Ok(()) };
    found.totals.push(ms);
    let phases = engine.log.phases(before, &id)?;
    found.first_answers.extend(first_answer(&phases));
    for phase in phases {
        found.phases.entry(phase.name).or_default().push(phase.ms);
    }
    Ok(())
}

fn by_hand_run(lineup: &Lineup, vm: ByHand, counts: bool, found: &mut Result<Vec<f64>, String>) {
    let Ok(samples) = found else { return };
    let run =
        lineup.floor.as_ref().map_err(Clone::clone).and_then(|floor| vm(floor).map_err(|e| format!("{e:#}")));
    match run {
        Ok((_, ms)) => samples.extend(counts.then_some(ms)),
        Err(reason) => *found = Err(reason),
    }
}

/// From QEMU's start, or the end of one's wait in a pool, to the agent's first answers.
fn first_answer(phases: &[Phase]) -> Option<f64> {
    let answered = phases.iter().find(|phase| ANSWERS.contains(&phase.name.as_str()))?;
    let started = phases.iter().find(|phase| phase.name == VM_START).unwrap_or(answered);
    let between = answered.ended_at.checked_sub(started.ended_at)? as f64 / 1e6;
    Some(between + started.ms)
}

fn totals(lineup: &Lineup, runc: &[f64], ours: &[Found], options: &Options) -> Table {
    let mut table = Table::new("start", "a whole container: `ctr run --rm IMAGE true`", "ms", 0);
    table.reference("runc", runc);
    for (contender, found) in lineup.ours.iter().zip(ours) {
        let way = contender.way;
        table.ours(way.label(), &found.totals, aims::start(way, options.small_kernel));
    }
    for (way, reason) in &lineup.missing {
        table.missing(Kind::Ours, way.label(), reason);
    }
    if !options.small_kernel {
        table.note("The aim of 8 × runc for a cold start is for the small kernel (`tools/dev kernel`), which this is not.");
    }
    table
}

fn phases(way: Way, found: &Found) -> Table {
    let mut table = Table::new(
        format!("phases-{}", way.word()),
        format!("where the time goes: {}", way.label()),
        "ms",
        1,
    );
    let mut known = 0.0;
    for (name, meaning) in PHASES {
        if let Some(samples) = found.phases.get(name) {
            known += stats::median(samples);
            table.ours(&format!("{meaning} (`{name}`)"), samples, None);
        }
    }
    let rest: Vec<f64> = found.totals.iter().map(|total| (total - known).max(0.0)).collect();
    table.ours("the rest: ctr, containerd, shim's start, the process itself", &rest, None);
    for (name, samples) in &found.phases {
        if !AROUND.contains(&name.as_str()) && !PHASES.iter().any(|(known, _)| known == name) {
            table.ours(&format!("within or beside these: `{name}`"), samples, None);
        }
    }
    table
}

fn first_answers(lineup: &Lineup, ours: &[Found], by_hand: &[Result<Vec<f64>, String>]) -> Table {
    let mut table = Table::new("first-answer", "from QEMU's start to the agent's first answers", "ms", 0);
    for (contender, found) in lineup.ours.iter().zip(ours) {
        table.ours(contender.way.label(), &found.first_answers, aims::first_answer(contender.way));
    }
    for (way, reason) in &lineup.missing {
        table.missing(Kind::Ours, way.label(), reason);
    }
    for ((name, _), found) in BY_HAND.iter().zip(by_hand) {
        match found {
            Ok(samples) => table.floor(name, samples),
            Err(reason) => table.missing(Kind::Floor, name, reason),
        }
    }
    table.note(
        "Ours: until the sandbox is made in the guest. By hand: until one line on the serial port is answered; the last from \
         the release of a VM that waits.",
    );
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(name: &str, ms: f64, ended_at_ms: u64) -> Phase {
        Phase { name: name.into(), ms, ended_at: ended_at_ms * 1_000_000 }
    }

    #[test]
    fn the_first_answer_counts_from_qemus_start() {
        let boot = [phase(VM_START, 40.0, 1040), phase("guest-boot", 55.0, 1100)];
        assert_eq!(first_answer(&boot), Some(100.0));
        let clone =
            [phase(VM_START, 40.0, 1040), phase("vm-restore", 10.0, 1050), phase("clone-wake", 30.0, 1080)];
        assert_eq!(first_answer(&clone), Some(80.0));
        assert_eq!(first_answer(&[phase("clone-wake", 30.0, 1080)]), Some(30.0));
        assert_eq!(first_answer(&[phase(VM_START, 40.0, 1040)]), None);
    }

    #[test]
    fn the_rest_is_what_no_phase_explains() {
        let found = Found {
            totals: vec![100.0],
            phases: BTreeMap::from([
                (VM_START.to_owned(), vec![40.0]),
                ("task-create".to_owned(), vec![90.0]),
                ("clone".to_owned(), vec![10.0]),
            ]),
            first_answers: Vec::new(),
        };
        let table = phases(Way::Cold, &found).to_string();
        assert!(table.contains("the process itself | 60.0 |"), "{table}");
        assert!(table.contains("within or beside these: `clone` | 10.0 |"), "{table}");
        assert!(!table.contains("task-create"), "{table}");
    }
}

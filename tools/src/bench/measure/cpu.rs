//! The host's CPU time that a start costs: read from the processes of a container that stays, as soon as `ctr` returns.

use anyhow::Result;

use super::usage::Usage;
use crate::bench::{
    aims,
    engine::{Engine, Role, Runtime},
    host::process,
    lineup::Lineup,
    options::Options,
    report::{Kind, Table},
};

/// What was measured of one runtime.
#[derive(Default)]
struct Found {
    usages: Vec<Usage>,
    /// CPU seconds of programs that containerd ran to their end, such as the shim's `start`.
    short_lived: f64,
}

impl Found {
    fn samples(&self, of: impl Fn(&Usage) -> f64) -> Vec<f64> {
        self.usages.iter().map(of).collect()
    }

    /// Known in steps of 10 ms only, so for all runs together.
    fn short_lived(&self) -> f64 {
        self.short_lived / self.usages.len().max(1) as f64
    }
}

pub fn measure(engine: &Engine, lineup: &Lineup, options: &Options) -> Result<Vec<Table>> {
    let mut runc = Found::default();
    let mut ours: Vec<Found> = lineup.ours.iter().map(|_| Found::default()).collect();
    let mut by_hand = Ok(Vec::new());
    for run in 0..=options.runs {
        let counts = run > 0;
        one_run(engine, &lineup.runc, &format!("cpu-runc-{run}"), counts.then_some(&mut runc))?;
        for (contender, found) in lineup.ours.iter().zip(&mut ours) {
            contender.ready(0)?;
            let id = format!("cpu-{}-{run}", contender.way.word());
            one_run(engine, &contender.runtime, &id, counts.then_some(found))?;
        }
        if let Ok(usages) = &mut by_hand {
            match boot_by_hand(lineup) {
                Ok(usage) => usages.extend(counts.then_some(usage)),
                Err(reason) => by_hand = Err(reason),
            }
        }
    }
    Ok(vec![table(lineup, &runc, &ours, &by_hand)])
}

fn one_run(engine: &Engine, runtime: &Runtime, id: &str, found: Option<&mut Found>) -> Result<()> {
    let before = process::children_cpu_seconds(engine.pid);
    engine.start(runtime, id, Role::Alone)?;
    let short_lived = process::children_cpu_seconds(engine.pid) - before;
    let usage = Usage::of(&engine.sandbox(id)?)?;
    engine.remove(id)?;
    engine.settle(0)?;
    if let Some(found) = found {
        found.usages.push(usage);
        found.short_lived += short_lived;
    }
    Ok(())
}

fn boot_by_hand(lineup: &Lineup) -> Result<Usage, String> {
    let floor = lineup.floor.as_ref().map_err(Clone::clone)?;
    let booted = floor.boot().and_then(|(vm, _)| Usage::of_qemu(vm.pid()));
    booted.map_err(|error| format!("{error:#}"))
}

fn table(lineup: &Lineup, runc: &Found, ours: &[Found], by_hand: &Result<Vec<Usage>, String>) -> Table {
    let mut table = Table::new("cpu", "host CPU time of a start", "s", 3);
    let all =
        |found: &Found| found.samples(|usage| usage.guest + usage.outside_guest() + found.short_lived());
    table.reference("runc, all", &all(runc));
    for (contender, found) in lineup.ours.iter().zip(ours) {
        let label = contender.way.label();
        table.ours(&format!("{label}, all"), &all(found), None);
        let outside = found.samples(|usage| usage.outside_guest() + found.short_lived());
        table.ours(&format!("{label}, outside the guest"), &outside, Some(aims::CPU_OUTSIDE_GUEST));
        table.ours(
            &format!("{label}: QEMU without the guest's CPU"),
            &found.samples(|usage| usage.hypervisor),
            None,
        );
        table.ours(&format!("{label}: shim"), &found.samples(|usage| usage.shim), None);
        table.ours(&format!("{label}: daemons"), &found.samples(|usage| usage.others), None);
    }
    for (way, reason) in &lineup.missing {
        table.missing(Kind::Ours, way.label(), reason);
    }
    match by_hand {
        Ok(usages) => {
            let of = |of: fn(&Usage) -> f64| usages.iter().map(of).collect::<Vec<_>>();
            table.floor("QEMU by hand, booted, all", &of(|usage| usage.guest + usage.hypervisor));
            table.floor("QEMU by hand, booted, outside the guest", &of(|usage| usage.hypervisor));
        }
        Err(reason) => table.missing(Kind::Floor, "QEMU by hand, booted", reason),
    }
    table.note(
        "Until `ctr run --detach` returns. The guest is QEMU's thread that is its CPU; outside it are QEMU's other threads, \
         the shim with its `start`, and daemons. The CPU time of containerd and ctr is not counted.",
    );
    table
}

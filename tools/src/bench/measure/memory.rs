//! Memory of an idle sandbox: PSS of each process, and the guest's pages apart, its own and those that clones share.

use std::{thread, time::Duration};

use anyhow::{Context, Result};

use crate::bench::{
    aims,
    engine::{Engine, Role, Runtime, Sandbox},
    host::smaps::{self, GuestRam, Memory},
    lineup::Lineup,
    options::{Options, Way},
    report::{Kind, Table},
};

/// Sandboxes at a time: what they share among them is shared, as where there are many.
const SANDBOXES: usize = 3;
/// For what a start leaves running: threads that end, pages that are given back.
const SETTLING: Duration = Duration::from_secs(5);
const KIB_PER_MIB: f64 = 1024.0;

/// MiB of one sandbox.
#[derive(Debug, Clone, Copy, Default)]
struct Parts {
    shim: f64,
    /// Without guest RAM.
    hypervisor: f64,
    /// The part of QEMU's that is translated code.
    translated: f64,
    others: f64,
    guest_own: f64,
    guest_shared: f64,
}

impl Parts {
    fn host(&self) -> f64 {
        self.shim + self.hypervisor + self.others
    }
}

pub fn measure(engine: &Engine, lineup: &Lineup, _: &Options) -> Result<Vec<Table>> {
    let mut table = Table::new("memory", "memory of an idle sandbox", "MiB", 1);
    let guest_size = lineup.guest_kib;
    let runc = sandboxes(engine, &lineup.runc, "runc", guest_size, |_| Ok(()))?;
    table.add(Kind::Reference, "runc: shim", &samples(&runc, |parts| parts.shim), None);
    table.add(Kind::Reference, "runc: shim and container", &samples(&runc, Parts::host), None);
    for contender in &lineup.ours {
        let found = sandboxes(engine, &contender.runtime, contender.way.word(), guest_size, |in_use| {
            contender.ready(in_use)
        })?;
        rows(&mut table, contender.way, &found);
    }
    for (way, reason) in &lineup.missing {
        table.missing(Kind::Ours, way.label(), reason);
    }
    match by_hand(lineup) {
        Ok(found) => {
            table.floor("QEMU by hand, booted: without guest RAM", &samples(&found, Parts::host));
            table.floor("QEMU by hand, booted: guest's pages", &samples(&found, |parts| parts.guest_own));
        }
        Err(error) => table.missing(Kind::Floor, "QEMU by hand, booted", format!("{error:#}")),
    }
    table.note(format!(
        "{SANDBOXES} sandboxes at a time, each with one container that sleeps. PSS counts a page that n processes map as \
         1/n in each. An emulating QEMU keeps the code that it translated."
    ));
    Ok(vec![table])
}

fn rows(table: &mut Table, way: Way, found: &[Parts]) {
    let label = way.label();
    let mut add = |what: &str, of: fn(&Parts) -> f64, aim| {
        table.ours(&format!("{label}: {what}"), &samples(found, of), aim)
    };
    add("shim", |parts| parts.shim, Some(aims::SHIM_PSS));
    add("QEMU without guest RAM", |parts| parts.hypervisor, None);
    add("QEMU's translated code, a part of that", |parts| parts.translated, None);
    add("daemons", |parts| parts.others, None);
    add("all on the host without guest RAM", Parts::host, Some(aims::HOST_PSS));
    add("guest's own pages", |parts| parts.guest_own, aims::guest_pages(way));
    add("guest's pages shared with the template", |parts| parts.guest_shared, None);
}

fn sandboxes(
    engine: &Engine,
    runtime: &Runtime,
    name: &str,
    guest_size: u64,
    ready: impl Fn(usize) -> Result<()>,
) -> Result<Vec<Parts>> {
    let ids: Vec<String> = (0..SANDBOXES).map(|number| format!("memory-{name}-{number}")).collect();
    for (in_use, id) in ids.iter().enumerate() {
        ready(in_use)?;
        engine.start(runtime, id, Role::Alone)?;
    }
    thread::sleep(SETTLING);
    let parts = ids.iter().map(|id| parts(&engine.sandbox(id)?, guest_size)).collect::<Result<Vec<_>>>();
    for id in &ids {
        engine.remove(id)?;
    }
    engine.settle(0)?;
    parts
}

fn parts(sandbox: &Sandbox, guest_size: u64) -> Result<Parts> {
    let mut parts = Parts::default();
    let mut guest = None;
    if let Some(qemu) = sandbox.hypervisor {
        let mappings = smaps::of(qemu)?;
        let ram =
            GuestRam::find(&mappings, guest_size).context("the guest's RAM is not among QEMU's mappings")?;
        let memory = Memory::of(&mappings, Some(&ram));
        parts.hypervisor = mebibytes(memory.pss);
        parts.translated = mebibytes(memory.generated);
        parts.add_guest(memory);
        guest = Some(ram);
    }
    parts.shim = mebibytes(Memory::of(&smaps::of(sandbox.shim)?, None).pss);
    for pid in &sandbox.others {
        // A daemon's mapping of the guest's RAM is guest RAM too.
        let memory = Memory::of(&smaps::of(*pid)?, guest.as_ref());
        parts.others += mebibytes(memory.pss);
        parts.add_guest(memory);
    }
    Ok(parts)
}

impl Parts {
    fn add_guest(&mut self, memory: Memory) {
        self.guest_own += mebibytes(memory.guest_own);
        self.guest_shared += mebibytes(memory.guest_shared);
    }
}

fn by_hand(lineup: &Lineup) -> Result<Vec<Parts>> {
    let floor = lineup.floor.as_ref().map_err(|reason| anyhow::anyhow!("{reason}"))?;
    let vms = (0..SANDBOXES).map(|_| floor.boot()).collect::<Result<Vec<_>>>()?;
    thread::sleep(SETTLING);
    let of = |qemu: u32| {
        let mappings = smaps::of(qemu)?;
        let ram = GuestRam::find(&mappings, lineup.guest_kib).context("no guest RAM was found")?;
        let memory = Memory::of(&mappings, Some(&ram));
        let (hypervisor, guest_own) = (mebibytes(memory.pss), mebibytes(memory.guest_own));
        Ok(Parts { hypervisor, guest_own, ..Parts::default() })
    };
    vms.iter().map(|(vm, _)| of(vm.pid())).collect()
}

fn samples(found: &[Parts], of: impl Fn(&Parts) -> f64) -> Vec<f64> {
    found.iter().map(of).collect()
}

fn mebibytes(kib: u64) -> f64 {
    kib as f64 / KIB_PER_MIB
}

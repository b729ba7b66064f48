//! What each option of QEMU and of the kernel is worth: QEMU by hand, booted, with one of them changed.

use anyhow::Result;

use crate::bench::{
    engine::Engine,
    floor::Variation::{self, Instead, KernelWithout, With, Without, WithoutFlag, WithoutOption},
    lineup::Lineup,
    options::Options,
    report::{Kind, Table},
};

/// First what ours has and is left out here, then what ours might have.
const VARIATIONS: [(&str, Variation); 22] = [
    ("kernel without quiet", KernelWithout("quiet")),
    ("kernel without tsc=reliable", KernelWithout("tsc=reliable")),
    ("kernel without no_timer_check", KernelWithout("no_timer_check")),
    ("kernel without rcupdate.rcu_expedited=1", KernelWithout("rcupdate.rcu_expedited")),
    ("kernel without i8042.*", KernelWithout("i8042.")),
    ("kernel without cryptomgr.notests", KernelWithout("cryptomgr.notests")),
    ("kernel without random.trust_cpu=on", KernelWithout("random.trust_cpu")),
    ("kernel without mitigations=off", KernelWithout("mitigations")),
    ("kernel without dummy.numdummies=0", KernelWithout("dummy.numdummies")),
    ("kernel without noreplace-smp", KernelWithout("noreplace-smp")),
    ("QEMU with its default devices", WithoutFlag("-nodefaults")),
    ("QEMU with the machine's vmport", Without("-machine", "vmport=off")),
    ("QEMU with a performance counter", Without("-cpu", "pmu=off")),
    ("QEMU with fast copies byte by byte", Without("-cpu", "erms=off,fsrm=off")),
    ("QEMU with a small CPU model", Instead("-cpu", "qemu64")),
    ("QEMU without random numbers", WithoutOption("-device", "virtio-rng-pci")),
    ("QEMU with two CPUs", Instead("-smp", "2")),
    ("QEMU without hpet", With("-machine", "hpet=off")),
    ("QEMU without sata, smbus and usb", With("-machine", "sata=off,smbus=off,usb=off")),
    ("QEMU without the old timer", With("-machine", "pit=off")),
    ("QEMU without graphics", With("-machine", "graphics=off")),
    ("QEMU with the simple firmware", With("-machine", "firmware=qboot.rom")),
];

pub fn measure(_: &Engine, lineup: &Lineup, options: &Options) -> Result<Vec<Table>> {
    let mut table =
        Table::new("worth", "QEMU by hand, booted until its agent answers, with one option changed", "ms", 0);
    let floor = match &lineup.floor {
        Ok(floor) => floor,
        Err(reason) => {
            table.missing(Kind::Floor, "QEMU by hand, booted", reason);
            return Ok(vec![table]);
        }
    };
    let mut as_ours = Vec::new();
    let mut varied: [Result<Vec<f64>, String>; VARIATIONS.len()] =
        [const { Ok(Vec::new()) }; VARIATIONS.len()];
    for run in 0..=options.runs {
        let counts = run > 0;
        as_ours.extend(counts.then_some(floor.boot()?.1));
        for ((_, variation), found) in VARIATIONS.iter().zip(&mut varied) {
            let Ok(samples) = found else { continue };
            match floor.boot_varied(*variation) {
                Ok(Some((_, ms))) => samples.extend(counts.then_some(ms)),
                Ok(None) => *found = Err("not on the command line here".into()),
                Err(error) => *found = Err(format!("{error:#}")),
            }
        }
    }
    table.reference("as ours", &as_ours);
    for ((name, _), found) in VARIATIONS.iter().zip(&varied) {
        match found {
            Ok(samples) => table.floor(name, samples),
            Err(reason) => table.missing(Kind::Floor, name, reason),
        }
    }
    table.note("Below 1: faster than what ours has.");
    Ok(vec![table])
}

//! Starts per second with all cores busy: twice as many starts at a time as there are CPUs.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use anyhow::Result;

use crate::bench::{
    engine::{Engine, Role, Runtime},
    lineup::Lineup,
    options::Options,
    report::{Better, Kind, Table},
};

/// Starts of each worker in one slice.
const STARTS: usize = 4;
/// A slice holds many starts already.
const MOST_SLICES: u32 = 5;

pub fn measure(engine: &Engine, lineup: &Lineup, options: &Options) -> Result<Vec<Table>> {
    let workers = 2 * thread::available_parallelism().map_or(1, usize::from);
    let mut runc = Vec::new();
    let mut ours: Vec<Vec<f64>> = lineup.ours.iter().map(|_| Vec::new()).collect();
    let mut by_hand = Ok(Vec::new());
    for slice in 0..=options.runs.min(MOST_SLICES) {
        let counts = slice > 0;
        let containers = |runtime: &Runtime, name: &str| {
            let rate = rate(workers, |start| {
                engine.run(runtime, &format!("rate-{name}-{slice}-{start}"), Role::Alone).map(drop)
            })?;
            engine.settle(0)?;
            anyhow::Ok(rate)
        };
        runc.extend(counts.then_some(containers(&lineup.runc, "runc")?));
        for (contender, samples) in lineup.ours.iter().zip(&mut ours) {
            contender.ready(0)?;
            samples.extend(counts.then_some(containers(&contender.runtime, contender.way.word())?));
        }
        if let Ok(samples) = &mut by_hand {
            match boots_by_hand(lineup, workers) {
                Ok(rate) => samples.extend(counts.then_some(rate)),
                Err(reason) => by_hand = Err(reason),
            }
        }
    }
    let mut table = Table::new("rate", "starts with all cores busy", "1/s", 2);
    table.better = Better::More;
    table.reference("runc", &runc);
    for (contender, samples) in lineup.ours.iter().zip(&ours) {
        table.ours(contender.way.label(), samples, None);
    }
    for (way, reason) in &lineup.missing {
        table.missing(Kind::Ours, way.label(), reason);
    }
    match by_hand {
        Ok(samples) => table.floor("QEMU by hand, booted", &samples),
        Err(reason) => table.missing(Kind::Floor, "QEMU by hand, booted", reason),
    }
    table.note(format!(
        "{workers} at a time, each from `ctr run` to its end; runs are slices of {} starts. By hand: until the agent \
         answers. \"To runc\" says how many times as many runc starts.",
        workers * STARTS
    ));
    Ok(vec![table])
}

fn boots_by_hand(lineup: &Lineup, workers: usize) -> Result<f64, String> {
    let floor = lineup.floor.as_ref().map_err(Clone::clone)?;
    rate(workers, |_| floor.boot().map(drop)).map_err(|error| format!("{error:#}"))
}

/// Starts per second of that many workers; `start` gets a number of its own.
fn rate(workers: usize, start: impl Fn(usize) -> Result<()> + Sync) -> Result<f64> {
    let (next, all) = (AtomicUsize::new(0), workers * STARTS);
    let began = Instant::now();
    thread::scope(|scope| {
        let work = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= all {
                    return Ok(());
                }
                // The others are not to go on when one has failed.
                start(number).inspect_err(|_| next.store(all, Ordering::Relaxed))?;
            }
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(worked) => worked,
            Err(_) => Err(anyhow::anyhow!("a worker panicked")),
        })
    })?;
    Ok(all as f64 / began.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn workers_share_the_starts() {
        let count = AtomicUsize::new(0);
        let rate = rate(3, |_| {
            count.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(5));
            Ok(())
        });
        assert_eq!(count.into_inner(), 3 * STARTS);
        // Three at a time cannot be faster than one start in 5 ms each.
        assert!((1.0..=600.0).contains(&rate.unwrap()));
    }

    #[test]
    fn one_failure_ends_all() {
        let count = AtomicUsize::new(0);
        let failed = rate(2, |number| {
            count.fetch_add(1, Ordering::Relaxed);
            anyhow::ensure!(number != 0, "first");
            thread::sleep(Duration::from_millis(20));
            Ok(())
        });
        assert!(failed.is_err() && count.into_inner() < 2 * STARTS);
    }
}

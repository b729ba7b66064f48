//! Random lives: `soak vm|fake CYCLES SEED`. Exits with 1 if something was left, was wrong, or grows.

use std::{process::ExitCode, time::Instant};

use integration::{
    environment::Environment,
    soak::{
        fake::{self, Takes},
        vm,
    },
};

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [kind, cycles, seed] = &words[..] else { return usage() };
    let (Ok(cycles), Ok(seed)) = (cycles.parse(), seed.parse()) else { return usage() };
    println!("{cycles} cycles with seed {seed}");
    match kind.as_str() {
        "vm" => tokio::task::block_in_place(|| in_vms(cycles, seed)),
        "fake" => over_the_fake_vm(cycles, seed).await,
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: soak vm|fake CYCLES SEED");
    ExitCode::FAILURE
}

fn in_vms(cycles: u64, seed: u64) -> ExitCode {
    let Some(env) = Environment::find() else { return ExitCode::FAILURE };
    let mut soak = vm::Soak::start(&env, seed);
    let (began, mut faults) = (Instant::now(), 0);
    for cycle in 1..=cycles {
        let (life, problems) = soak.cycle();
        for problem in &problems {
            println!("{cycle} {life}: {problem}");
        }
        faults += problems.len();
        if cycle % 20 == 0 {
            println!("{cycle} lives in {:.0?}, {faults} faults", began.elapsed());
        }
    }
    verdict(faults == 0)
}

async fn over_the_fake_vm(cycles: u64, seed: u64) -> ExitCode {
    let Some(mut soak) = fake::Soak::start(seed).await else { return ExitCode::FAILURE };
    let began = Instant::now();
    let (tenth, mut settled) = ((cycles / 10).max(1), None);
    for cycle in 1..=cycles {
        soak.cycle().await;
        if cycle % tenth == 0 {
            let takes = Takes::now();
            settled.get_or_insert(takes);
            println!("{cycle} lives in {:.0?}: {takes:?}", began.elapsed());
        }
    }
    let (first, last) = (settled.unwrap_or_else(Takes::now), Takes::now());
    soak.stop().await;
    // A process's memory comes in pieces; a file or a thread is one too many.
    let grows = last.memory_kib > first.memory_kib + first.memory_kib / 10
        || last.files > first.files + 4
        || last.threads > first.threads + 4;
    verdict(!grows)
}

fn verdict(good: bool) -> ExitCode {
    println!("{}", if good { "nothing left, nothing wrong" } else { "there are faults" });
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

//! The matrix of faults as a table: `faults fake|vm [FAULT|POINT]…`, over the fake VM, or over real ones. A word is a fault's
//! name, or the beginning of a point's.

use std::{env, process::ExitCode, sync::Arc};

use integration::{
    environment::Environment,
    faults::{
        Fault, Point,
        fake::Fake,
        matrix::{Ground, Matrix},
        real::Real,
    },
};

#[tokio::main]
async fn main() -> ExitCode {
    let mut words: Vec<String> = env::args().skip(1).collect();
    let Some(env) = Environment::find() else { return ExitCode::FAILURE };
    let program = env::current_exe().expect("this program has a path");
    match words.first().map(String::as_str) {
        Some("vm") => {
            let real = Real::start(env, &program.with_file_name("faulty-shim"));
            show(real, &words.split_off(1)).await
        }
        Some("fake") => {
            let fake = Fake::new(&program.with_file_name("fake-shim"), env.setting("virtio_fs_daemon"));
            show(fake, &words.split_off(1)).await
        }
        _ => {
            eprintln!("usage: faults fake|vm [FAULT|POINT]...");
            ExitCode::FAILURE
        }
    }
}

async fn show(ground: impl Ground, words: &[String]) -> ExitCode {
    let is_fault = |word: &&String| Fault::ALL.iter().any(|fault| fault.to_string() == **word);
    let (faults, points): (Vec<_>, Vec<_>) = words.iter().partition(is_fault);
    let wanted = |point: &Point, fault: Fault| {
        (faults.is_empty() || faults.iter().any(|word| **word == fault.to_string()))
            && (points.is_empty() || points.iter().any(|start| point.to_string().starts_with(*start)))
    };
    let matrix = Matrix::fill(Arc::new(ground), wanted, |point, fault, cell| {
        let mark = if cell.problems.is_empty() { "" } else { "<<<" };
        eprintln!("{point:34} {fault:9} {}{mark} {:.1?}", cell.outcome, cell.took);
    })
    .await;
    println!("{matrix}");
    let problems = matrix.problems();
    for problem in &problems {
        println!("{problem}");
    }
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

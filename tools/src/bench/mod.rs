//! `tools/dev bench`: what a container in a VM costs, beside runc in the same run and QEMU driven by hand.

mod aims;
mod chart;
mod engine;
mod floor;
mod host;
mod json;
mod lineup;
mod log;
mod machine;
mod measure;
mod options;
mod output;
mod pool;
mod report;
mod stats;
mod trace;

use anyhow::{Result, bail};

pub use options::Options;

use engine::Engine;
use lineup::Lineup;
use measure::{cli, cpu, exec, growth, idle, io, memory, net, pod, rate, second, start, worth};
use options::What;
use report::{Report, Table};

type Measure = fn(&Engine, &Lineup, &Options) -> Result<Vec<Table>>;

/// Measures what is asked for, prints each table as soon as it is there, and writes the files.
pub fn run(options: &Options) -> Result<()> {
    let (address, namespace) = (options.address.clone(), options.namespace.clone());
    let (image, log) = (options.image.clone(), options.log.clone());
    let engine = Engine::new(address, namespace, image, log, options.containerd_pid);
    let lineup = Lineup::prepare(options, &engine)?;
    if options.what == What::Trace {
        return trace::trace(&engine, &lineup, options);
    }
    let mut report = Report { machine: machine::facts(options, &lineup), tables: Vec::new() };
    output::print_machine(&report.machine);
    let mut faults = Vec::new();
    for (name, measure) in measures(options.what) {
        eprintln!("==> measure: {name}");
        match measure(&engine, &lineup, options) {
            Ok(tables) => {
                tables.iter().for_each(output::print);
                report.tables.extend(tables);
            }
            Err(error) => {
                // What else is asked for may still be found out.
                eprintln!("==> FAILED: {name}: {error:#}");
                faults.push(name);
                engine.remove_all();
                engine.settle(0)?;
            }
        }
    }
    if let Some(path) = &options.json {
        output::write_json(&report, path)?;
    }
    if let Some(dir) = &options.charts {
        output::write_charts(&report, dir)?;
    }
    if !faults.is_empty() {
        bail!("not measured: {}", faults.join(", "));
    }
    Ok(())
}

fn measures(what: What) -> Vec<(&'static str, Measure)> {
    let all: [(What, &'static str, Measure); 13] = [
        (What::Start, "start", start::measure),
        (What::Start, "CPU time", cpu::measure),
        (What::Second, "second container", second::measure),
        (What::Pod, "pod", pod::measure),
        (What::Exec, "exec", exec::measure),
        (What::Io, "streams", io::measure),
        (What::Net, "network", net::measure),
        (What::Cli, "command line", cli::measure),
        (What::Rate, "rate", rate::measure),
        (What::Memory, "memory", memory::measure),
        (What::Idle, "idle", idle::measure),
        (What::Growth, "growth", growth::measure),
        (What::Worth, "worth of options", worth::measure),
    ];
    let asked = all.into_iter().filter(|(of, ..)| what == What::All || *of == what);
    asked.map(|(_, name, measure)| (name, measure)).collect()
}

//! How long a container takes, from `ctr run` to its end: runc and ours in turn, and where our time goes.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use clap::Args;

/// A private containerd that runs already, and what to run in it.
#[derive(Args)]
pub struct Options {
    #[arg(long)]
    address: PathBuf,
    #[arg(long, default_value = "kata-dev")]
    namespace: String,
    #[arg(long)]
    config: PathBuf,
    #[arg(long)]
    image: String,
    /// containerd's log, which holds the shim's
    #[arg(long)]
    log: PathBuf,
    #[arg(long, default_value_t = 7)]
    runs: usize,
}

/// The phases that the shim reports, in their order, with what they are: (name, meaning).
const PHASES: [(&str, &str); 7] = [
    ("sandbox-create", "host: record, shared tree, virtiofsd"),
    ("vm-start", "QEMU: started, QMP ready"),
    ("guest-boot", "guest: kernel, agent, first answers"),
    ("storage", "host: root file system mounted and shared"),
    ("container-create", "guest: container made"),
    ("task-start", "guest: container started"),
    ("sandbox-stop", "tear-down: VM ended, everything released"),
];

/// Runs the bench and prints its tables in Markdown.
pub fn start(options: &Options) -> Result<()> {
    let (mut runc, mut ours) = (Vec::new(), Vec::new());
    let mut phases: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for run in 0..=options.runs {
        let reference = options.run("io.containerd.runc.v2", run)?;
        let before = options.log_length()?;
        let kata = options.run("io.containerd.kata.v2", run)?;
        // The first of each fills caches.
        if run > 0 {
            runc.push(reference);
            ours.push(kata);
            for (phase, ms) in options.phases_since(before)? {
                phases.entry(phase).or_default().push(ms);
            }
        }
    }
    let ratios: Vec<f64> = ours.iter().zip(&runc).map(|(ours, runc)| ours / runc).collect();
    println!("| `ctr run --rm IMAGE true`, {} runs | median | min | max |", options.runs);
    println!("|---|---|---|---|");
    for (name, mut times) in [("runc, ms", runc), ("ours, ms", ours.clone()), ("ratio", ratios)] {
        let digits = if name == "ratio" { 1 } else { 0 };
        let (min, median, max) = spread(&mut times);
        println!("| {name} | {median:.digits$} | {min:.digits$} | {max:.digits$} |");
    }
    let total = spread(&mut ours.clone()).1;
    println!("\n| where our time goes | median, ms |");
    println!("|---|---|");
    let mut known = 0.0;
    for (phase, meaning) in PHASES {
        let median = phases.get_mut(phase).map_or(0.0, |times| spread(times).1);
        known += median;
        println!("| {meaning} (`{phase}`) | {median:.0} |");
    }
    println!("| the rest: ctr, containerd, shim's start, the process itself | {:.0} |", total - known);
    Ok(())
}

impl Options {
    /// Runs one container; returns milliseconds.
    fn run(&self, runtime: &str, run: usize) -> Result<f64> {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&self.address).args([
            "--namespace",
            &self.namespace,
            "run",
            "--rm",
            "--fifo-dir",
        ]);
        command.arg(self.log.with_file_name("fifo"));
        command.args(["--runtime", runtime]);
        if runtime.contains("kata") {
            command.arg("--runtime-config-path").arg(&self.config);
        }
        command.args([&self.image, &format!("bench-{run}"), "true"]).stdin(Stdio::null());
        let began = Instant::now();
        let output = command.output().context("run ctr")?;
        let took = began.elapsed().as_secs_f64() * 1e3;
        ensure!(output.status.success(), "{runtime}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(took)
    }

    fn log_length(&self) -> Result<usize> {
        Ok(fs::metadata(&self.log).with_context(|| format!("read {}", self.log.display()))?.len() as usize)
    }

    fn phases_since(&self, offset: usize) -> Result<Vec<(String, f64)>> {
        let log = fs::read(&self.log).with_context(|| format!("read {}", self.log.display()))?;
        let text = String::from_utf8_lossy(&log[offset.min(log.len())..]);
        Ok(text.lines().filter_map(phase).collect())
    }
}

/// `… phase=<name> ms=<number> …`
fn phase(line: &str) -> Option<(String, f64)> {
    let field = |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key));
    Some((field("phase=")?.to_owned(), field("ms=")?.parse().ok()?))
}

fn spread(times: &mut [f64]) -> (f64, f64, f64) {
    times.sort_by(f64::total_cmp);
    match times {
        [] => (0.0, 0.0, 0.0),
        _ => (times[0], times[times.len() / 2], times[times.len() - 1]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_read_from_log_lines() {
        let line = r#"time="x" level=debug msg=phase phase=vm-start ms=67.464 call=create sandbox=h4"#;
        assert_eq!(phase(line), Some(("vm-start".into(), 67.464)));
        assert_eq!(phase("level=debug msg=other"), None);
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(spread(&mut [3.0, 1.0, 2.0]), (1.0, 2.0, 3.0));
    }
}

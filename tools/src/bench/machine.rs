//! What a report was measured on. Figures without it say nothing.

use std::{fs, path::Path, process::Command, time::Duration};

use super::{host::command, lineup::Lineup, options::Options};

const DEADLINE: Duration = Duration::from_secs(10);

pub fn facts(options: &Options, lineup: &Lineup) -> Vec<(&'static str, String)> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let machine = option(&lineup.qemu, "-machine");
    let accelerator = machine.split(',').find_map(|word| word.strip_prefix("accel=")).unwrap_or("unknown");
    let kernel = option(&lineup.qemu, "-kernel");
    let size = Path::new(&kernel).metadata().map_or(0, |file| file.len() >> 20);
    let whose = if options.small_kernel { "the small one" } else { "a distribution's" };
    let program = lineup.qemu.first().map_or("qemu", String::as_str);
    vec![
        ("CPUs", format!("{cpus} × {}", cpu_model(&read("/proc/cpuinfo")))),
        ("memory", format!("{} MiB", memory_mib(&read("/proc/meminfo")))),
        ("host kernel", read("/proc/sys/kernel/osrelease")),
        ("accelerator", accelerator.to_owned()),
        ("hypervisor", first_line(program, "--version")),
        ("guest kernel", format!("{whose}, {size} MiB")),
        ("guest memory", format!("{} MiB", lineup.guest_kib >> 10)),
        ("containerd", first_line("containerd", "--version")),
        ("runc", first_line("runc", "--version")),
        ("load before", read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")),
    ]
}

fn option(line: &[String], name: &str) -> String {
    line.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone()).unwrap_or_default()
}

fn first_line(program: &str, option: &str) -> String {
    let mut asked = Command::new(program);
    asked.arg(option);
    let answer = command::run(asked, DEADLINE).map(|done| done.output).unwrap_or_default();
    answer.lines().next().unwrap_or("unknown").to_owned()
}

fn cpu_model(cpuinfo: &str) -> &str {
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or("unknown", |(_, name)| name.trim())
}

fn memory_mib(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) >> 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_describes_itself() {
        assert_eq!(cpu_model("processor : 0\nmodel name\t: Some CPU @ 2 GHz\n"), "Some CPU @ 2 GHz");
        assert_eq!(memory_mib("MemTotal:       24684892 kB\n"), 24106);
        let line = ["q", "-machine", "q35,accel=tcg"].map(str::to_owned);
        assert_eq!(option(&line, "-machine"), "q35,accel=tcg");
        assert_eq!(option(&line, "-kernel"), "");
    }
}

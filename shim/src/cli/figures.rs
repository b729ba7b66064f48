//! `ps`, `update` and `events`: what a container does and uses, and what it may.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use clap::Args;
use runtime::{
    error::{Context, Error, ErrorKind, Result},
    process::Status,
};
use serde_json::{Map, Value, json};

use super::{client::Client, control::not_running, end, global::Global, state::Format, stats, table::Table};

/// A larger file of limits is nobody's.
const LIMITS_SIZE: u64 = 1 << 20;

#[derive(Debug, Args)]
pub struct Ps {
    #[arg(value_name = "container-id")]
    id: String,
    #[arg(short, long, default_value = "table")]
    format: Format,
    /// Of no effect: what ps of the host is told
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    options: Vec<String>,
}

impl Ps {
    pub fn run(self, global: &Global) -> Result<String> {
        let (home, _) = global.find(&self.id)?;
        let list = |client: Client| match client.status()? {
            Status::Stopped => Ok(Vec::new()),
            _ => client.pids(),
        };
        let pids = match Client::connect(&home, &self.id).and_then(list) {
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::NotFound) => Vec::new(),
            pids => pids?,
        };
        Ok(match self.format {
            Format::Json => json!(pids).to_string(),
            Format::Table => {
                let mut table = Table::new(&["PID"]);
                for pid in pids {
                    table.row([pid.to_string()]);
                }
                table.to_string()
            }
        })
    }
}

#[derive(Debug, Args)]
pub struct Update {
    #[arg(value_name = "container-id")]
    id: String,
    /// A file with the OCI's resources in JSON, or - for standard input; then no other flag counts
    #[arg(short, long)]
    resources: Option<PathBuf>,
    #[arg(long)]
    blkio_weight: Option<u64>,
    #[arg(long)]
    cpu_period: Option<u64>,
    #[arg(long, allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    #[arg(long, alias = "cpu-shares")]
    cpu_share: Option<u64>,
    #[arg(long)]
    cpu_rt_period: Option<u64>,
    #[arg(long)]
    cpu_rt_runtime: Option<i64>,
    #[arg(long)]
    cpuset_cpus: Option<String>,
    #[arg(long)]
    cpuset_mems: Option<String>,
    /// In bytes, or with a unit: 64m
    #[arg(long, allow_hyphen_values = true)]
    memory: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    memory_swap: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Of no effect: the kernel counts no memory of its own any more
    #[arg(long, hide = true)]
    kernel_memory: Option<String>,
    /// Refused: a guest has no such control
    #[arg(long)]
    l3_cache_schema: Option<String>,
    /// Refused: a guest has no such control
    #[arg(long)]
    mem_bw_schema: Option<String>,
}

impl Update {
    pub fn run(self, global: &Global) -> Result<()> {
        let (home, record) = global.find(&self.id)?;
        if end::status(&home, &record)? == Status::Stopped {
            return Err(not_running());
        }
        let resources = match &self.resources {
            Some(file) => read(file)?,
            None => self.flags()?.to_string().into_bytes(),
        };
        Client::connect(&home, &self.id)?.update(resources)
    }

    /// What the flags ask for, and no more.
    fn flags(&self) -> Result<Value> {
        if self.l3_cache_schema.is_some() || self.mem_bw_schema.is_some() {
            return Err(Error::unimplemented(
                "caches and memory bandwidth of the host are not a VM's to divide",
            ));
        }
        let (mut cpu, mut memory, mut resources) = (Map::new(), Map::new(), Map::new());
        put(&mut cpu, "shares", self.cpu_share);
        put(&mut cpu, "quota", self.cpu_quota);
        put(&mut cpu, "period", self.cpu_period);
        put(&mut cpu, "realtimePeriod", self.cpu_rt_period);
        put(&mut cpu, "realtimeRuntime", self.cpu_rt_runtime);
        put(&mut cpu, "cpus", self.cpuset_cpus.as_deref());
        put(&mut cpu, "mems", self.cpuset_mems.as_deref());
        for (name, text) in
            [("limit", &self.memory), ("reservation", &self.memory_reservation), ("swap", &self.memory_swap)]
        {
            put(&mut memory, name, text.as_deref().map(bytes).transpose()?);
        }
        for (name, part) in [("cpu", cpu), ("memory", memory)] {
            if !part.is_empty() {
                resources.insert(name.into(), part.into());
            }
        }
        put(&mut resources, "pids", self.pids_limit.map(|limit| json!({"limit": limit})));
        put(&mut resources, "blockIO", self.blkio_weight.map(|weight| json!({"weight": weight})));
        Ok(resources.into())
    }
}

fn put<T: Into<Value>>(map: &mut Map<String, Value>, name: &str, value: Option<T>) {
    map.extend(value.map(|value| (name.to_owned(), value.into())));
}

/// Reads a number of bytes as runc does, -1 for no limit.
fn bytes(text: &str) -> Result<i64> {
    let fault = || Error::invalid(format!("{text:?} is no number of bytes"));
    let plain = text.to_ascii_lowercase();
    let plain = plain.strip_suffix('b').unwrap_or(&plain);
    let (number, shift) = match plain.char_indices().next_back() {
        Some((at, 'k')) => (&plain[..at], 10),
        Some((at, 'm')) => (&plain[..at], 20),
        Some((at, 'g')) => (&plain[..at], 30),
        Some((at, 't')) => (&plain[..at], 40),
        _ => (plain, 0),
    };
    let number: i64 = number.parse().map_err(|_| fault())?;
    number.checked_mul(1 << shift).ok_or_else(fault)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let read = match file.to_str() {
        Some("-") => io::stdin().take(LIMITS_SIZE).read_to_end(&mut text),
        _ => fs::File::open(file).and_then(|file| file.take(LIMITS_SIZE).read_to_end(&mut text)),
    };
    read.with_context(|| format!("--resources {}", file.display()))?;
    Ok(text)
}

#[derive(Debug, Args)]
pub struct Events {
    #[arg(value_name = "container-id")]
    id: String,
    /// From one line of figures to the next, such as 5s or 500ms
    #[arg(long, default_value = "5s")]
    interval: String,
    /// One line of figures, and no more
    #[arg(long)]
    stats: bool,
}

impl Events {
    pub fn run(self, global: &Global) -> Result<()> {
        let (home, record) = global.find(&self.id)?;
        let interval = interval(&self.interval)?;
        if end::status(&home, &record)? == Status::Stopped {
            return Err(Error::precondition(format!("container with id {} is not running", self.id)));
        }
        let client = Client::connect(&home, &self.id)?;
        loop {
            let data = stats::figures(&client.stats()?)?;
            let line = json!({"type": "stats", "id": self.id, "data": data});
            writeln!(io::stdout(), "{line}").context("standard output")?;
            if self.stats {
                return Ok(());
            }
            thread::sleep(interval);
            match client.status() {
                Ok(Status::Stopped) => return Ok(()),
                Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::NotFound) => {
                    return Ok(());
                }
                status => drop(status?),
            }
        }
    }
}

/// Reads a time as Go writes it, with one unit.
fn interval(text: &str) -> Result<Duration> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit);
    let factor = match unit {
        "ms" => Some(0.001),
        "s" => Some(1.0),
        "m" => Some(60.0),
        "h" => Some(3600.0),
        _ => None,
    };
    let seconds = number.parse::<f64>().ok().zip(factor).map(|(number, factor)| number * factor);
    seconds
        .filter(|seconds| *seconds > 0.0)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| Error::invalid(format!("--interval {text}: use something like 5s, 500ms or 1m")))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        update: Update,
    }

    #[test]
    fn only_what_is_asked_for_is_updated() {
        for (line, resources) in [
            ("", json!({})),
            ("--memory 64m --pids-limit -1", json!({"memory": {"limit": 67108864}, "pids": {"limit": -1}})),
            (
                "--memory-swap -1 --cpu-quota 5000 --cpuset-cpus 0-1 --cpu-share 7 --blkio-weight 20",
                json!({"cpu": {"shares": 7, "quota": 5000, "cpus": "0-1"}, "memory": {"swap": -1},
                       "blockIO": {"weight": 20}}),
            ),
        ] {
            let words = ["update", "c1"].into_iter().chain(line.split_whitespace());
            let update = Line::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).update;
            assert_eq!(update.flags().unwrap(), resources, "{line}");
        }
    }

    #[test]
    fn numbers_of_bytes_and_times_have_units() {
        for (text, number) in [("5", 5), ("-1", -1), ("2k", 2048), ("1G", 1 << 30), ("3mb", 3 << 20)] {
            assert_eq!(bytes(text).unwrap(), number, "{text}");
        }
        assert!(bytes("x").is_err() && bytes("9999999999g").is_err() && bytes("").is_err());
        assert_eq!(interval("1.5s").unwrap(), Duration::from_millis(1500));
        assert_eq!(interval("200ms").unwrap(), Duration::from_millis(200));
        assert!(interval("5").is_err() && interval("0s").is_err() && interval("-1s").is_err());
    }
}

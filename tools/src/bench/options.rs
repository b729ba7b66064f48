//! What the bench is asked to do, and where everything is that it needs.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// A whole container, where its time goes, how long a VM takes to answer, and the CPU time it costs
    Start,
    /// A second container in a VM that runs
    Second,
    /// A pod's start, its second container and its fiftieth
    Pod,
    /// One more process in a container that runs
    Exec,
    /// What standard streams carry
    Io,
    /// What the network carries, and what it adds to a start
    Net,
    /// The OCI command line: its questions, and a whole container beside one through the shim
    Cli,
    /// Starts per second with all cores busy
    Rate,
    /// Memory of an idle sandbox
    Memory,
    /// Wake-ups of an idle sandbox
    Idle,
    /// One sandbox after the other, until there are many
    Growth,
    /// What each option of QEMU and the kernel is worth
    Worth,
    /// One start as a waterfall
    Trace,
    /// Everything but the trace
    All,
}

/// How a VM comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// Booted
    Cold,
    /// Cloned, sharing the template's pages until they are written to
    Private,
    /// Cloned, with its own copy of the template's pages
    Copied,
    /// Cloned beforehand, and taken from the pool
    Pool,
}

impl Way {
    pub const ALL: [Self; 4] = [Self::Cold, Self::Private, Self::Copied, Self::Pool];

    pub fn label(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Private => "template, private",
            Self::Copied => "template, copied",
            Self::Pool => "pool",
        }
    }

    /// As it stands in ids and names of files.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Private => "private",
            Self::Copied => "copied",
            Self::Pool => "pool",
        }
    }
}

/// A private containerd that runs already, and what to do with it.
#[derive(Debug, Args)]
pub struct Options {
    #[arg(value_enum, default_value = "start")]
    pub what: What,
    #[arg(long)]
    pub address: PathBuf,
    #[arg(long, default_value = "kata-dev")]
    pub namespace: String,
    #[arg(long)]
    pub image: String,
    /// containerd's log, which holds the shim's
    #[arg(long)]
    pub log: PathBuf,
    #[arg(long)]
    pub containerd_pid: u32,
    /// The configuration that all others are made from
    #[arg(long)]
    pub config: PathBuf,
    /// An empty folder, best in memory, for configurations, templates and sockets
    #[arg(long)]
    pub work: PathBuf,
    /// The program that keeps the pool
    #[arg(long)]
    pub kata_runtime: PathBuf,
    /// The kernel is the project's own small one, which the aim for a cold start is meant for
    #[arg(long)]
    pub small_kernel: bool,
    /// How often each thing is measured, after one run that does not count
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// What the bench of the channels has found, for `io`
    #[arg(long)]
    pub channel: Option<PathBuf>,
    /// Only these ways to a VM
    #[arg(long = "way", value_enum)]
    pub ways: Vec<Way>,
    /// How many sandboxes `growth` grows to
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub sandboxes: u32,
    /// How long `idle` looks on
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// Write everything as JSON; for `trace` in Chrome's trace format
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Write charts and the tables, as Markdown, into this folder
    #[arg(long)]
    pub charts: Option<PathBuf>,
}

impl Options {
    /// The ways that are asked for.
    pub fn ways(&self) -> Vec<Way> {
        if self.ways.is_empty() { Way::ALL.to_vec() } else { self.ways.clone() }
    }
}

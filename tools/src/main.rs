//! `kata-dev`: what `tools/dev` needs that thinks. Guest files, images, configuration, checks of the source, benches.

mod arrows;
mod bench;
mod compressed;
mod config;
mod cpio;
mod image;
mod initrd;
mod on_demand;
mod packages;
mod vmlinux;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "kata-dev", about = "The programs behind tools/dev")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Take the ELF kernel out of a bzImage; it boots several seconds faster under emulation
    Vmlinux { bzimage: PathBuf, out: PathBuf },
    /// Make a guest's initrd: the agent as /init, and the modules that the kernel needs for it
    Initrd {
        #[arg(long)]
        agent: PathBuf,
        /// Folder lib/modules/VERSION of the kernel; none if everything is built in
        #[arg(long)]
        modules: Option<PathBuf>,
        #[arg(short, long)]
        out: PathBuf,
    },
    /// Make an OCI image archive of a static busybox
    BusyboxImage {
        #[arg(long, default_value = "/bin/busybox")]
        busybox: PathBuf,
        out: PathBuf,
    },
    /// Copy a configuration file with keys set, keeping its comments
    Config {
        #[arg(long)]
        template: PathBuf,
        /// table.key=value, for example hypervisor.qemu.kernel=/path
        #[arg(long = "set")]
        set: Vec<String>,
        #[arg(short, long)]
        out: PathBuf,
    },
    /// Check which crate uses which, and that no files import each other in a circle
    Arrows { root: PathBuf },
    /// Check that dependencies are used and their licences allowed
    Packages { root: PathBuf },
    /// Measure what a container costs, with runc, with ours, and with QEMU driven by hand
    Bench(Box<bench::Options>),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kata-dev: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Vmlinux { bzimage, out } => vmlinux::extract(&bzimage, &out),
        Command::Initrd { agent, modules, out } => initrd::make(&agent, modules.as_deref(), &out),
        Command::BusyboxImage { busybox, out } => image::make(&busybox, &out),
        Command::Config { template, set, out } => config::write(&template, &set, &out),
        Command::Arrows { root } => arrows::check(&root),
        Command::Packages { root } => packages::check(&root),
        Command::Bench(options) => bench::run(&options),
    }
}

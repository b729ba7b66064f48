//! `kata-runtime`: the command line for people and for engines that speak no containerd.

mod factory;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use runtime::{config::Config, error::Result};

/// Containers in virtual machines of their own.
#[derive(Debug, Parser)]
#[command(name = "kata-runtime", version, max_term_width = 100)]
pub struct Cli {
    /// The configuration file; else KATA_CONF_FILE, else the first of the places where one is installed
    #[arg(long, alias = "kata-config", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Templates, of which new VMs are clones
    #[command(subcommand)]
    Factory(factory::Command),
}

impl Cli {
    /// Carries out the command; what it prints goes to standard output.
    pub fn run(self) -> Result<()> {
        let config = Config::find(self.config.as_deref())?;
        for warning in &config.warnings {
            eprintln!("warning: {warning}");
        }
        match self.command {
            Command::Factory(command) => command.run(config),
        }
    }
}

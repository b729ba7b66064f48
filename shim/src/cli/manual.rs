//! What is made of the definitions of the commands: completions for shells, pages for `man`.

use std::{fs, io::stdout, path::PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;
use runtime::error::{Context, Result};

#[derive(Debug, Args)]
pub struct Completion {
    /// Whose script
    shell: Shell,
}

impl Completion {
    pub fn run(&self, mut command: Command) {
        let name = command.get_name().to_owned();
        clap_complete::generate(self.shell, &mut command, name, &mut stdout());
    }
}

#[derive(Debug, Args)]
pub struct Man {
    /// The directory for the pages, one for each command; made if there is none
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl Man {
    pub fn run(&self, command: Command) -> Result<()> {
        fs::create_dir_all(&self.dir).with_context(|| format!("create {}", self.dir.display()))?;
        clap_mangen::generate_to(command.disable_help_subcommand(true), &self.dir)
            .with_context(|| format!("write to {}", self.dir.display()))
    }
}

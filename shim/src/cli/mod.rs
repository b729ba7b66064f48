//! `kata-runtime`: the command line for people and for engines that speak no containerd.
//!
//! The commands of the OCI are clients of the Task service of one `serve` for each sandbox, as containerd is of its
//! shims; what stands on the host for a process in the guest is a `proxy`.

mod attend;
mod check;
mod cleanup;
mod client;
mod clock;
mod console;
mod control;
mod create;
mod debug_console;
mod descriptors;
mod end;
mod env;
mod exec;
mod execs;
mod factory;
mod figures;
mod files;
mod foreground;
mod global;
mod host;
mod join;
mod logs;
mod manual;
mod message;
pub mod proxy;
mod record;
mod report;
mod run;
mod sandbox_socket;
mod serve;
mod signals;
mod size;
mod spawn;
mod spec;
mod state;
mod stats;
mod streams;
mod table;
mod victim;

use std::{path::PathBuf, process::ExitCode};

use clap::{ArgAction, CommandFactory, Parser, Subcommand};
use runtime::{
    config::Config,
    error::{Context, Error, Result},
    features, paths,
};

use self::{
    global::Global,
    record::Root,
    report::{LogFormat, Report},
};

/// What runc returns for an exec that could not be.
const EXEC_FAILED: u8 = 255;

/// Containers in virtual machines of their own.
#[derive(Debug, Parser)]
#[command(
    name = "kata-runtime",
    max_term_width = 100,
    arg_required_else_help = true,
    disable_version_flag = true
)]
pub struct Cli {
    /// The configuration file; else KATA_CONF_FILE, else the first of the places where one is installed
    #[arg(long, alias = "kata-config", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where containers are remembered; a user's are by default below XDG_RUNTIME_DIR
    #[arg(long, value_name = "DIR", default_value_os_t = paths::run_dir().join("kata-runtime"))]
    root: PathBuf,
    /// A file for errors, besides standard error
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Let servers log more
    #[arg(long)]
    debug: bool,
    /// Of no effect: a cgroup's name says itself whose it is
    #[arg(long)]
    systemd_cgroup: bool,
    /// Of no effect: true, false or auto
    #[arg(long, value_name = "WHETHER")]
    rootless: Option<String>,
    /// Of no effect: nothing is checkpointed
    #[arg(long, hide = true)]
    criu: Option<String>,
    /// Print the version
    #[arg(short, long, action = ArgAction::SetTrue)]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a container, whose program waits for start
    Create(create::Create),
    /// Run the program of a created container
    Start(control::Named),
    /// Print what there is of a container, and how it does
    State(state::State),
    /// Send a signal to a container's first process
    Kill(control::Kill),
    /// Take a container away
    Delete(control::Delete),
    /// Create and start a container
    Run(run::Run),
    /// Run one more process in a container
    Exec(Box<exec::Exec>),
    /// Print all containers
    List(state::List),
    /// Make a container stand still
    Pause(control::Named),
    /// Let a container go on
    Resume(control::Named),
    /// Print the processes of a container, by the numbers that they are known by on the host
    Ps(figures::Ps),
    /// Change what a container may use
    Update(Box<figures::Update>),
    /// Print what a container uses, again and again
    Events(figures::Events),
    /// Write a config.json to begin with
    Spec(spec::Spec),
    /// Refused: criu saves processes of the host's kernel, and these are in a VM
    Checkpoint(Refused),
    /// Refused: there is nothing that could be restored
    Restore(Refused),
    /// Print what this runtime can do, in the OCI's form
    Features,
    /// Tell whether this host can run containers in VMs, and what to do if not
    #[command(alias = "kata-check")]
    Check(check::Check),
    /// Print all settings and versions
    #[command(alias = "kata-env")]
    Env(env::Env),
    /// List what sandboxes hold whose owners are dead, and take it away
    Cleanup(cleanup::Cleanup),
    /// Print what a sandbox died of and what was said last, or what is heard of one that lives; list what died
    Logs(logs::Logs),
    /// Open a shell in the guest of a sandbox, beside its containers, if debug_console_enabled is set
    Console(debug_console::DebugConsole),
    /// Templates, of which new VMs are clones
    #[command(subcommand)]
    Factory(factory::Command),
    /// Print a script that completes these commands for a shell
    Completion(manual::Completion),
    /// Write pages for man(1)
    Man(manual::Man),
    /// Own a sandbox; started by create
    #[command(hide = true)]
    Serve(serve::Serve),
    /// Take memory until there is none; started by a server
    #[command(hide = true)]
    Victim(victim::Victim),
}

/// A command that is refused whatever its words.
#[derive(Debug, clap::Args)]
struct Refused {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _words: Vec<String>,
}

/// Carries out what the arguments of this process ask for.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            let _ = usage.print(); // Nobody is left to be told.
            if usage.use_stderr() {
                Report::of_words(std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()))
                    .record(&usage.render().to_string());
            }
            // As runc: any misuse is 1.
            return if usage.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let report = Report { log: cli.log.clone(), format: cli.log_format };
    let failure = match cli.command {
        Some(Command::Exec(_)) => ExitCode::from(EXEC_FAILED),
        _ => ExitCode::FAILURE,
    };
    cli.run().unwrap_or_else(|error| {
        report.error(&error.to_string());
        failure
    })
}

impl Cli {
    /// Carries out the command; what it prints goes to standard output.
    fn run(self) -> Result<ExitCode> {
        if self.version {
            print!("{}", version());
            return Ok(ExitCode::SUCCESS);
        }
        // A server is started with sockets that it takes first.
        if !matches!(self.command, Some(Command::Serve(_))) {
            descriptors::keep_to_ourselves()?;
        }
        let config = self
            .config
            .map(|path| path.canonicalize().with_context(|| format!("--config {}", path.display())));
        let global = Global { root: Root::new(self.root), config: config.transpose()?, debug: self.debug };
        let global = &global;
        let command = self.command.ok_or_else(|| Error::invalid("no command; see kata-runtime --help"))?;
        let done = |done: Result<()>| done.map(|()| ExitCode::SUCCESS);
        let printed = |text: Result<String>| done(text.map(|text| print!("{text}")));
        match command {
            Command::Create(create) => done(create.run(global)),
            Command::Start(container) => done(container.start(global)),
            Command::State(state) => printed(state.run(global)),
            Command::Kill(kill) => done(kill.run(global)),
            Command::Delete(delete) => done(delete.run(global)),
            Command::Run(run) => run.run(global),
            Command::Exec(exec) => exec.run(global),
            Command::List(list) => printed(list.run(global)),
            Command::Pause(container) => done(container.pause(global)),
            Command::Resume(container) => done(container.resume(global)),
            Command::Ps(ps) => printed(ps.run(global)),
            Command::Update(update) => done(update.run(global)),
            Command::Events(events) => done(events.run(global)),
            Command::Spec(spec) => done(spec.run()),
            Command::Checkpoint(_) => Err(Error::unimplemented(
                "checkpoint: a container in a VM cannot be checkpointed: criu saves processes of the host's kernel",
            )),
            Command::Restore(_) => {
                Err(Error::unimplemented("restore: a container in a VM cannot be restored from a checkpoint"))
            }
            Command::Features => printed(Ok(format!("{:#}\n", features::features()))),
            Command::Check(check) => done(check.run(global)),
            Command::Env(env) => printed(env.run(global)),
            Command::Cleanup(cleanup) => printed(cleanup.run()),
            Command::Logs(logs) => printed(logs.run()),
            Command::Console(console) => done(console.run()),
            Command::Completion(completion) => {
                completion.run(Cli::command());
                Ok(ExitCode::SUCCESS)
            }
            Command::Man(man) => done(man.run(Cli::command())),
            Command::Serve(serve) => done(serve.run(global.debug)),
            Command::Victim(victim) => done(victim.run()),
            Command::Factory(command) => {
                let config = Config::find(global.config.as_deref())?;
                for warning in &config.warnings {
                    eprintln!("warning: {warning}");
                }
                done(command.run(config))
            }
        }
    }
}

/// In runc's form.
fn version() -> String {
    let (version, commit) = (env!("CARGO_PKG_VERSION"), option_env!("KATA_COMMIT").unwrap_or("unknown"));
    format!("kata-runtime version {version}\ncommit: {commit}\nspec: {}\n", features::SPEC)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use clap_complete::Shell;

    use super::*;

    #[test]
    fn each_command_that_is_shown_has_a_page_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let pages = dir.path().join("man").display().to_string();
        let Some(Command::Man(man)) = Cli::parse_from(["kata-runtime", "man", &pages]).command else {
            unreachable!("it is this command")
        };
        man.run(Cli::command()).unwrap();
        let found = fs::read_dir(&pages).unwrap().flatten();
        let names: BTreeSet<_> = found.map(|page| page.file_name().into_string().unwrap()).collect();
        for name in ["kata-runtime", "kata-runtime-exec", "kata-runtime-factory-init", "kata-runtime-console"]
        {
            assert!(names.contains(&format!("{name}.1")), "{name}: {names:?}");
        }
        assert!(!names.contains("kata-runtime-serve.1"), "{names:?}");
        let page = fs::read_to_string(format!("{pages}/kata-runtime-exec.1")).unwrap();
        assert!(page.contains("kata\\-runtime\\-exec") && page.contains("\\-\\-tty"), "{page}");
    }

    #[test]
    fn a_script_for_each_shell_knows_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "kata-runtime", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("cleanup") && script.contains("preserve-fds"), "{shell}");
        }
    }
}

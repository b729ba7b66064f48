//! `kata-runtime factory`: templates by hand. Every start looks after its template by itself; this is for those who want
//! the first start to be quick, or the memory back.

use clap::Subcommand;
use runtime::{
    config::Config,
    error::{Context, Error, Result},
    factory::{self, State, Status},
    ids::SandboxId,
    paths::Paths,
    sandbox::Setup,
};
use tokio::sync::mpsc;

use crate::{pool, server};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the template of this configuration, unless there is a good one
    Init,
    /// Tell what there is of it
    Status,
    /// Take away all templates; running VMs are not concerned
    Destroy,
    /// Keep factory.vm_cache_number VMs ready, until a signal asks for the end
    Serve,
}

impl Command {
    pub fn run(self, config: Config) -> Result<()> {
        let executor = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("start the executor")?;
        match self {
            Self::Init => match executor.block_on(factory::init(setup(config)?))? {
                true => println!("vm factory initialized"),
                false => {
                    return Err(Error::precondition(
                        "somebody else is making this template right now; try again",
                    ));
                }
            },
            Self::Status => show(&executor.block_on(factory::status(setup(config)?))?),
            Self::Serve => executor.block_on(pool::serve(&config))?,
            Self::Destroy => {
                let templates = factory::destroy(&config)?;
                println!("vm factory destroyed ({templates} templates)");
            }
        }
        Ok(())
    }
}

fn show(Status { dir, template }: &Status) {
    match template {
        State::Ready { age, memory } => {
            println!("vm factory is on: {}", dir.display());
            println!("made {} s ago; a clone takes over {} MiB of memory", age.as_secs(), memory >> 20);
        }
        State::Absent => {
            println!("vm factory is off: no template yet; the next start, or `factory init`, makes it")
        }
        State::Unusable(why) => {
            println!("vm factory is off: {why}; the next start, or `factory init`, makes a new one")
        }
    }
}

/// The surroundings of a sandbox that is never told of to anybody.
fn setup(config: Config) -> Result<Setup> {
    let paths = Paths::default();
    Ok(Setup {
        id: SandboxId::new(format!("factory-{}", std::process::id()))?,
        hypervisor: server::hypervisor(&config, &paths),
        config,
        paths,
        events: mpsc::unbounded_channel().0,
    })
}

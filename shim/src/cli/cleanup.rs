//! `kata-runtime cleanup`: what sandboxes hold whose owners are dead. A containerd, a shim or an engine that comes back cleans
//! up by itself; this is for what nobody comes back to.

use std::fmt::Write as _;

use clap::Args;
use runtime::{
    cleanup::{cleanup, ownerless},
    error::{Error, Result},
    paths::Paths,
};

use crate::executor;

#[derive(Debug, Args)]
pub struct Cleanup {
    /// Take it away; without this it is only listed
    #[arg(short, long)]
    yes: bool,
    /// Only these sandboxes; else all that have no owner
    ids: Vec<String>,
}

impl Cleanup {
    /// Goes on past what cannot be taken away, which the error names.
    pub fn run(&self) -> Result<String> {
        let paths = Paths::default();
        let mut found = ownerless(&paths)?;
        if !self.ids.is_empty() {
            found.retain(|sandbox| self.ids.iter().any(|id| id == sandbox.id.as_str()));
        }
        if found.is_empty() {
            return Ok("every sandbox has its owner: nothing is left to clean up\n".into());
        }
        let executor = executor::small()?;
        let (mut text, mut failures) = (String::new(), Vec::new());
        for sandbox in &found {
            let done = match self.yes {
                true => executor.block_on(cleanup(&paths, &sandbox.id)).map(|_| "cleaned up"),
                false => Ok("has no owner"),
            };
            match done {
                Ok(done) => {
                    let _ = writeln!(text, "{}: {done}", sandbox.id); // A String takes all.
                    for held in &sandbox.holds {
                        let _ = writeln!(text, "  {held}");
                    }
                }
                Err(error) => failures.push(error.to_string()),
            }
        }
        if !self.yes {
            text.push_str("kata-runtime cleanup --yes takes it away\n");
        }
        if failures.is_empty() {
            return Ok(text);
        }
        print!("{text}");
        Err(Error::internal(failures.join("; ")))
    }
}

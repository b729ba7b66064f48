//! What `containerd-shim-kata-v2` does with its command line, under whatever name it was installed.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use runtime::error::Result;

use crate::{
    flags::{Action, Flags},
    pool, server, shim,
};

/// The program's `main`.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // containerd shows this to whoever asked.
            eprintln!("{}: {error}", shim::program());
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let flags = Flags::parse(std::env::args().skip(1))?;
    let reply = match flags.action {
        Action::Serve => return server::run(&flags),
        Action::StandBy => return pool::stand_by(),
        Action::Start => {
            let reply = shim::start(&flags)?;
            print(&reply.bytes)?;
            reply.told();
            return Ok(());
        }
        Action::Delete => shim::delete(&flags)?,
        Action::Info => shim::info()?,
        Action::Version => shim::version().into_bytes(),
    };
    print(&reply)
}

fn print(bytes: &[u8]) -> Result<()> {
    io::stdout().write_all(bytes)?;
    Ok(io::stdout().flush()?)
}

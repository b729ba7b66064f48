//! containerd's runtime shim. Works under any name of the form `containerd-shim-<name>-v2`.

#![forbid(unsafe_code)]

use std::{
    io::{self, Write},
    process::ExitCode,
};

use runtime::error::Result;
use shim::{
    flags::{Action, Flags},
    pool, server, shim as commands,
};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // containerd shows this to whoever asked.
            eprintln!("{}: {error}", commands::program());
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let flags = Flags::parse(std::env::args().skip(1))?;
    let reply = match flags.action {
        Action::Serve => return server::run(&flags),
        Action::StandBy => return pool::stand_by(),
        Action::Start => commands::start(&flags)?,
        Action::Delete => commands::delete(&flags)?,
        Action::Info => commands::info()?,
        Action::Version => commands::version().into_bytes(),
    };
    io::stdout().write_all(&reply)?;
    Ok(io::stdout().flush()?)
}

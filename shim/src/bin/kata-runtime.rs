//! The OCI command line; see `kata-runtime --help`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use shim::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kata-runtime: {error}");
            ExitCode::FAILURE
        }
    }
}

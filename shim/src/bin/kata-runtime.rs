//! The OCI command line; see `kata-runtime --help`.

#![forbid(unsafe_code)]

use std::{env, process::ExitCode};

use shim::cli::{self, proxy};

fn main() -> ExitCode {
    // Where the small program for it is not installed.
    if env::args_os().nth(1).is_some_and(|word| word == "proxy") {
        proxy::main(env::args().skip(2));
    }
    cli::main()
}

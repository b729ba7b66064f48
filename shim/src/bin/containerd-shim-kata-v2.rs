//! containerd's runtime shim. Works under any name of the form `containerd-shim-<name>-v2`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    shim::program::main()
}

//! The product's shim in a build that has fault points, see `runtime::fault`.

use std::process::ExitCode;

fn main() -> ExitCode {
    shim::program::main()
}

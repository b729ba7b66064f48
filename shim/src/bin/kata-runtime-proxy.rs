//! What stands on the host for a process in the guest; started by `kata-runtime`.

#![forbid(unsafe_code)]

fn main() {
    shim::cli::proxy::main(std::env::args().skip(1));
}

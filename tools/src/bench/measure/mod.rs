//! One file for each thing that is measured. Each measures runc, ours and the floor in turn, run by run, so that what
//! disturbs the machine disturbs all of them.

pub mod cli;
pub mod cpu;
pub mod exec;
pub mod growth;
pub mod idle;
pub mod io;
pub mod memory;
pub mod net;
pub mod pod;
pub mod rate;
pub mod second;
pub mod start;
mod usage;
pub mod worth;

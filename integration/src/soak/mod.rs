//! Random lives from a seed, each with a look for what it left.

pub mod fake;
pub mod vm;

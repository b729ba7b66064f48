//! Fakes, and what the tests that cross crates stand on.

pub mod containerd;
pub mod environment;
pub mod fake_vm;
pub mod terminal;
pub mod workshop;

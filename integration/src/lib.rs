//! Fakes, and what the tests that cross crates stand on.

pub mod containerd;
pub mod conversation;
pub mod environment;
pub mod factory;
pub mod fake_vm;
pub mod terminal;
pub mod workshop;

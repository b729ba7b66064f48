//! Fakes, and what the tests that cross crates stand on.

pub mod channel;
pub mod cni;
pub mod compare;
pub mod containerd;
pub mod conversation;
pub mod deploy;
pub mod docker;
pub mod engine;
pub mod environment;
pub mod event_recorder;
pub mod factory;
pub mod fake_vm;
pub mod faults;
pub mod kubelet;
pub mod name_server;
pub mod oci_cli;
pub mod place;
pub mod registry;
pub mod remains;
pub mod soak;
pub mod terminal;
pub mod websocket;
pub mod workshop;
pub mod world;

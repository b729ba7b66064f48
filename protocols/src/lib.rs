//! The wire between host and guest: generated messages and services, their OCI translation, and the words
//! that both halves must agree on. Nothing here does input or output, but for [`carry`] and [`names`], which frame what they
//! are given.

pub mod carry;
pub mod guest;
pub mod names;
pub mod oci;
pub mod sysctl;

/// Generated from `proto/`: one module per file, plus `<file>_ttrpc` with client and server.
#[allow(clippy::all, rust_2018_idioms, unused_imports)]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/wire/mod.rs"));
}

pub use wire::{
    agent, agent_ttrpc, confidential_data_hub, confidential_data_hub_ttrpc, cri, csi, extras, extras_ttrpc,
    health, health_ttrpc, oci as wire_oci, types,
};

//! The front doors. For containerd: its shim commands, its Task service, its events and its log.
//!
//! Decodes, calls the engine, encodes. It decides nothing about lifecycles except that the process holds one sandbox
//! and ends with it.

#![deny(unsafe_code)]

pub mod cli;
pub mod convert;
pub mod events;
mod executor;
pub mod flags;
pub mod keeper;
pub mod life;
pub mod logging;
mod metrics;
pub mod pool;
pub mod program;
pub mod sandbox;
pub mod server;
pub mod shim;
pub mod task;

/// containerd's name of this runtime when it is installed under its usual file name.
pub const RUNTIME: &str = "io.containerd.kata.v2";

//! Reaching the guest's agent and calling it.

mod address;
mod client;
mod link;
mod mux;
mod template;

pub use address::AgentAddr;
pub(crate) use client::{AgentClient, GuestProcess, Output, SignalScope};
pub use link::{AgentLink, GuestStream};
pub use template::{become_template, wake};

//! Reaching the guest's agent and calling it.

mod address;
mod client;
mod link;
mod mux;
mod port;
mod stream;
mod template;

pub use address::AgentAddr;
pub(crate) use client::{AgentClient, GuestExit, GuestProcess, Output, SignalScope};
pub use link::{AgentLink, GuestStream};
pub(crate) use stream::{GuestInput, GuestOutput};
pub use template::{become_template, wake};

#[cfg(test)]
mod tests;

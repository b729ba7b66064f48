//! The engine: sandboxes, containers, processes, and everything on the host that they need.
//!
//! It knows no containerd type, no command line and no hypervisor; those sit in front of it and behind
//! [`vm::Hypervisor`].

pub mod accident;
pub mod agent;
mod bpf;
pub mod bundle;
mod cgroup;
pub mod child;
pub mod cleanup;
pub mod config;
pub mod container;
pub mod error;
pub mod events;
pub mod factory;
pub mod fault;
pub mod features;
pub mod hooks;
mod idmap;
pub mod ids;
pub mod journal;
pub mod ledger;
pub mod mount_tree;
mod netlink;
mod network;
mod oom;
pub mod paths;
pub mod pod;
mod ports;
pub mod process;
pub mod sandbox;
mod share_fs;
pub mod state;
pub mod stdio;
pub mod storage;
pub mod template;
pub mod vm;
mod words;

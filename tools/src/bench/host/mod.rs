//! What this host tells about its processes, and programs run within bounds.

pub mod bundles;
pub mod child;
pub mod command;
pub mod namespace;
pub mod patience;
pub mod process;
pub mod smaps;

//! What is remembered of a sandbox on disk.

pub mod endpoint;
mod pid;
mod record;
mod resource;
mod store;

pub use pid::{ProcessId, boot_id};
pub(crate) use pid::{pidfd_kill, pidfd_signal, watch_pidfd};
pub use record::{ContainerConfig, Record};
pub use resource::Resource;
pub(crate) use resource::mounts_below;
pub use store::StateStore;

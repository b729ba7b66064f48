//! Network namespaces and what is made and undone in them. Knows nothing of sandboxes.

pub(crate) mod macvtap;
mod namespace;
pub(crate) mod tap;
pub(crate) mod traffic;

pub use namespace::NamespaceId;
pub(crate) use namespace::{Connection, Namespace};

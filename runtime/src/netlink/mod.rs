//! Network namespaces and what is made and undone in them. Knows nothing of sandboxes.

mod answers;
pub(crate) mod macvtap;
mod namespace;
pub(crate) mod tap;
pub(crate) mod traffic;

pub use namespace::NamespaceId;
pub(crate) use namespace::{Connection, Namespace};

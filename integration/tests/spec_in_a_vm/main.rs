//! The OCI spec in a real VM: each field of the runtime spec, seen from within the container. docs/oci-spec.md names these
//! tests field by field.

mod bench;
mod confinement;
mod hooks;
mod modules;
mod mounts;
mod nested;
mod process;
mod resources;

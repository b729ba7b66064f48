//! What containerd asks of the program itself: start, delete, info, version.
//!
//! Each command returns the bytes that belong on standard output. `start` prints nothing else anywhere: older
//! containerds take standard error for part of the address.

mod address;
mod bootstrap;
mod cgroup;
mod delete;
mod orphan;
mod start;

use std::{env, path::Path};

use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::{Message, well_known_types::any::Any};
use runtime::{
    error::{Error, Result},
    features,
};

pub use address::Address;
pub(crate) use bootstrap::Request;
pub use delete::delete;
pub(crate) use delete::release;
pub use start::{Reply, start};

use crate::RUNTIME;

/// The program's file name, as called.
pub fn program() -> String {
    let path = env::args_os().next().unwrap_or_default();
    Path::new(&path)
        .file_name()
        .map_or_else(|| "containerd-shim-kata-v2".into(), |name| name.to_string_lossy().into())
}

/// The `RuntimeInfo` message that containerd 2 asks for with `-info`.
pub fn info() -> Result<Vec<u8>> {
    let version = RuntimeVersion {
        version: env!("CARGO_PKG_VERSION").into(),
        revision: revision().into(),
        ..Default::default()
    };
    let features = Any {
        type_url: features::TYPE_URL.into(),
        value: features::features().to_string().into(),
        ..Default::default()
    };
    encode(&RuntimeInfo {
        name: runtime_name(&program()),
        version: Some(version).into(),
        features: Some(features).into(),
        ..Default::default()
    })
}

/// One line for `-v`.
pub fn version() -> String {
    let program = program();
    let id = runtime_name(&program);
    let version = env!("CARGO_PKG_VERSION");
    format!("{program}: containerd shim (Rust), id: {id:?}, version: {version}, commit: {}\n", revision())
}

fn revision() -> &'static str {
    option_env!("KATA_COMMIT").unwrap_or("unknown")
}

/// containerd turns `io.containerd.<name>.<version>` into `containerd-shim-<name>-<version>`; this is the way back.
fn runtime_name(program: &str) -> String {
    program
        .strip_prefix("containerd-shim-")
        .and_then(|rest| rest.rsplit_once('-'))
        .map_or_else(|| RUNTIME.into(), |(name, version)| format!("io.containerd.{name}.{version}"))
}

fn encode(message: &impl Message) -> Result<Vec<u8>> {
    message.write_to_bytes().map_err(|error| Error::internal(format!("encode a reply: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variants_file_name_tells_its_runtime_name() {
        for (program, name) in [
            ("containerd-shim-kata-v2", "io.containerd.kata.v2"),
            ("containerd-shim-kata-qemu-v2", "io.containerd.kata-qemu.v2"),
            ("containerd-shim-x-v1", "io.containerd.x.v1"),
            ("something-else", "io.containerd.kata.v2"),
        ] {
            assert_eq!(runtime_name(program), name);
        }
    }
}

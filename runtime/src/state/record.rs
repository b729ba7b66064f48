//! What is stored of a sandbox, in `/run/vc/sbs/<id>/persist.json`.
//!
//! The outer names are Kata's, since people and tools read them there; our own part is one object with a version of
//! its own. Unknown fields are ignored, missing ones take their defaults.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    endpoint::Endpoint,
    pid::{ProcessId, boot_id},
    resource::Resource,
};

/// Version of the outer part: Kata's Go runtime writes 2.
pub const PERSIST_VERSION: u32 = 2;
/// Version of our own part.
pub const OWN_VERSION: u32 = 1;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Record {
    pub persist_version: u32,
    /// `ready`, `running`, `paused` or `stopped`.
    pub state: String,
    /// The sandbox's id.
    pub sandbox_container: String,
    pub hypervisor_state: HypervisorState,
    pub agent_state: AgentState,
    pub network: Network,
    pub config: RecordConfig,
    #[serde(rename = "kata_rs")]
    pub own: Own,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HypervisorState {
    #[serde(rename = "Type")]
    pub kind: String,
    pub pid: u32,
    pub virtiofs_daemon_pid: u32,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct AgentState {
    #[serde(rename = "URL")]
    pub url: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Network {
    /// Path of the network namespace; empty when the VM has one of its own.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    pub endpoints: Vec<Endpoint>,
    pub network_created: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RecordConfig {
    pub hypervisor_type: String,
    pub container_configs: Vec<ContainerConfig>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ContainerConfig {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(rename = "RootFs")]
    pub rootfs: String,
}

/// Our own part.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Own {
    pub version: u32,
    /// The process that owns the sandbox and is the only writer of this record.
    pub owner: Option<ProcessId>,
    /// The kernel's id of the boot in which it was written: pids mean nothing in another one.
    pub boot: String,
    /// The configuration file in force; empty for built-in defaults.
    pub config_path: PathBuf,
    /// Claimed host resources, oldest first.
    pub ledger: Vec<Resource>,
}

impl Record {
    /// A fresh record of the sandbox `id`, owned by this process.
    pub fn new(id: &str, owner: ProcessId) -> Self {
        Self {
            persist_version: PERSIST_VERSION,
            state: "ready".into(),
            sandbox_container: id.into(),
            own: Own { version: OWN_VERSION, owner: Some(owner), boot: boot_id(), ..Own::default() },
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outsiders_find_katas_names() {
        let mut record = Record::new("s1", ProcessId { pid: 1, start_time: 2 });
        record.hypervisor_state.pid = 42;
        record.agent_state.url = "vsock://3:1024".into();
        record.config.container_configs.push(ContainerConfig { id: "c1".into(), rootfs: "/r".into() });
        let json = serde_json::to_value(&record).unwrap();
        for (pointer, value) in [
            ("/PersistVersion", serde_json::json!(2)),
            ("/SandboxContainer", "s1".into()),
            ("/State", "ready".into()),
            ("/HypervisorState/Pid", 42.into()),
            ("/AgentState/URL", "vsock://3:1024".into()),
            ("/Config/ContainerConfigs/0/ID", "c1".into()),
            ("/kata_rs/owner/pid", 1.into()),
        ] {
            assert_eq!(json.pointer(pointer), Some(&value), "{pointer}");
        }
    }

    #[test]
    fn a_ledger_is_read_out_of_a_record_from_the_future() {
        let text = r#"{"PersistVersion":9,"New":{},"kata_rs":{"version":7,"more":1,
            "ledger":[{"kind":"mount","path":"/m"}]}}"#;
        let record: Record = serde_json::from_str(text).unwrap();
        assert_eq!(record.own.ledger, [Resource::Mount { path: "/m".into() }]);
    }
}

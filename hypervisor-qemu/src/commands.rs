//! QMP commands and event data in loose types of our own, where `qapi-qmp`'s are stricter than some QEMU at hand.

use qapi_spec::Command;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::Value;

/// `query-status`. The run state is a plain word: QEMU adds new ones.
#[derive(Debug, Serialize)]
#[serde(rename = "query-status")]
pub(crate) struct QueryStatus {}

#[derive(Debug, Deserialize)]
pub(crate) struct Status {
    pub status: String,
}

impl Command for QueryStatus {
    type Ok = Status;
    const NAME: &'static str = "query-status";
    const ALLOW_OOB: bool = false;
}

/// `migrate-set-capabilities`.
#[derive(Debug, Serialize)]
pub(crate) struct SetMigrationCapabilities {
    pub capabilities: Vec<MigrationCapability>,
}

#[derive(Debug, Serialize)]
pub(crate) struct MigrationCapability {
    pub capability: &'static str,
    pub state: bool,
}

impl Command for SetMigrationCapabilities {
    type Ok = IgnoredAny;
    const NAME: &'static str = "migrate-set-capabilities";
    const ALLOW_OOB: bool = false;
}

/// `migrate`.
#[derive(Debug, Serialize)]
pub(crate) struct Migrate {
    pub uri: String,
}

impl Command for Migrate {
    type Ok = IgnoredAny;
    const NAME: &'static str = "migrate";
    const ALLOW_OOB: bool = false;
}

/// `migrate-incoming`.
#[derive(Debug, Serialize)]
pub(crate) struct MigrateIncoming {
    pub uri: String,
}

impl Command for MigrateIncoming {
    type Ok = IgnoredAny;
    const NAME: &'static str = "migrate-incoming";
    const ALLOW_OOB: bool = false;
}

/// `device_add`: the object that stands behind `-device`.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct DeviceAdd(pub Value);

impl Command for DeviceAdd {
    type Ok = IgnoredAny;
    const NAME: &'static str = "device_add";
    const ALLOW_OOB: bool = false;
}

/// `add-fd`: a descriptor that a file of this name stands for: `/dev/fdset/<id>`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct AddFd {
    pub fdset_id: usize,
}

impl Command for AddFd {
    type Ok = IgnoredAny;
    const NAME: &'static str = "add-fd";
    const ALLOW_OOB: bool = false;
}

/// `remove-fd`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct RemoveFd {
    pub fdset_id: usize,
}

impl Command for RemoveFd {
    type Ok = IgnoredAny;
    const NAME: &'static str = "remove-fd";
    const ALLOW_OOB: bool = false;
}

/// `blockdev-add`: the object that stands behind `-blockdev`.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct BlockdevAdd(pub Value);

impl Command for BlockdevAdd {
    type Ok = IgnoredAny;
    const NAME: &'static str = "blockdev-add";
    const ALLOW_OOB: bool = false;
}

/// `blockdev-del`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct BlockdevDel {
    pub node_name: String,
}

impl Command for BlockdevDel {
    type Ok = IgnoredAny;
    const NAME: &'static str = "blockdev-del";
    const ALLOW_OOB: bool = false;
}

/// `device_del`.
#[derive(Debug, Serialize)]
pub(crate) struct DeviceDel {
    pub id: String,
}

impl Command for DeviceDel {
    type Ok = IgnoredAny;
    const NAME: &'static str = "device_del";
    const ALLOW_OOB: bool = false;
}

/// Data of the event `DEVICE_DELETED`.
#[derive(Debug, Deserialize)]
pub(crate) struct Deleted {
    pub device: Option<String>,
}

/// `netdev_add`, with a tap for a back end.
#[derive(Debug, Serialize)]
pub(crate) struct NetdevAdd {
    pub r#type: &'static str,
    pub id: String,
    /// The names of the queues' descriptors, with colons between them.
    pub fds: String,
    pub vhost: bool,
}

impl Command for NetdevAdd {
    type Ok = IgnoredAny;
    const NAME: &'static str = "netdev_add";
    const ALLOW_OOB: bool = false;
}

/// `netdev_del`.
#[derive(Debug, Serialize)]
pub(crate) struct NetdevDel {
    pub id: String,
}

impl Command for NetdevDel {
    type Ok = IgnoredAny;
    const NAME: &'static str = "netdev_del";
    const ALLOW_OOB: bool = false;
}

/// `set_link`.
#[derive(Debug, Serialize)]
pub(crate) struct SetLink {
    pub name: String,
    pub up: bool,
}

impl Command for SetLink {
    type Ok = IgnoredAny;
    const NAME: &'static str = "set_link";
    const ALLOW_OOB: bool = false;
}

/// `object-add`: the object that stands behind `-object`.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct ObjectAdd(pub Value);

impl Command for ObjectAdd {
    type Ok = IgnoredAny;
    const NAME: &'static str = "object-add";
    const ALLOW_OOB: bool = false;
}

/// Data of the event `ACPI_DEVICE_OST`.
#[derive(Debug, Deserialize)]
pub(crate) struct Ost {
    pub info: OstInfo,
}

#[derive(Debug, Deserialize)]
pub(crate) struct OstInfo {
    pub device: Option<String>,
    pub status: i64,
}

/// Data of the event `MIGRATION`. The state is a plain word: QEMU adds new ones.
#[derive(Debug, Deserialize)]
pub(crate) struct Migration {
    pub status: String,
}

/// Data of the event `SHUTDOWN`.
#[derive(Debug, Deserialize)]
pub(crate) struct Shutdown {
    #[serde(default)]
    pub reason: String,
}

//! QMP commands and event data in loose types of our own, where `qapi-qmp`'s are stricter than some QEMU at hand.

use qapi_spec::Command;
use serde::{Deserialize, Serialize};

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

/// Data of the event `SHUTDOWN`.
#[derive(Debug, Deserialize)]
pub(crate) struct Shutdown {
    #[serde(default)]
    pub reason: String,
}

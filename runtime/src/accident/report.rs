//! What there is to say of a sandbox, dead or alive: what happened, and what was said last by whom.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::journal::Said;

/// Version of the stored form.
const VERSION: u32 = 1;

/// One sandbox, at one time. Fields are only ever added.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    pub version: u32,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    pub sandbox: String,
    pub containers: Vec<String>,
    /// What happened, in one line; empty if nothing did.
    pub what: String,
    pub said: Vec<Words>,
}

/// The last that somebody said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Words {
    /// `console` for the guest, `agent` for what of it the agent said longer ago; else the name of a helper.
    pub by: String,
    pub lines: Vec<String>,
}

impl Report {
    /// Of now.
    pub fn new(sandbox: &str, what: &str) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            version: VERSION,
            at_ms: since.as_millis() as u64,
            sandbox: sandbox.into(),
            what: what.into(),
            ..Self::default()
        }
    }

    pub fn at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.at_ms)
    }

    /// Whether it is about that sandbox or container.
    pub fn is_about(&self, id: &str) -> bool {
        self.sandbox == id || self.containers.iter().any(|container| container == id)
    }

    /// Everything that was said, a line of the log each.
    pub fn log(&self) {
        for Words { by, lines } in &self.said {
            for line in lines {
                tracing::info!(sandbox = self.sandbox, by, line, "last words");
            }
        }
    }
}

impl From<Said> for Words {
    fn from(Said { by, lines }: Said) -> Self {
        Self { by: by.into(), lines }
    }
}

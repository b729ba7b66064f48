//! `state` and `list`: what there is, from the records, and how it does, from the servers.

use std::{collections::BTreeMap, path::PathBuf};

use clap::{Args, ValueEnum};
use nix::unistd::{Uid, User};
use runtime::{
    error::{Context, ErrorKind, Result},
    process::Status,
};
use serde::Serialize;

use super::{
    client::statuses,
    end,
    global::{Global, word},
    record::Record,
    table::Table,
};

/// A container as runc prints it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    oci_version: String,
    id: String,
    pid: u32,
    status: &'static str,
    bundle: PathBuf,
    rootfs: PathBuf,
    created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    owner: String,
}

impl Shown {
    fn of(record: Record, status: Status) -> Self {
        let (pid, status) = match (record.stand_in, status) {
            (Some(stand_in), Status::Created | Status::Running | Status::Pausing | Status::Paused) => {
                (stand_in.pid, word(status))
            }
            (Some(_), Status::Stopped) => (0, word(status)),
            (None, _) => (0, "creating"),
        };
        Self {
            oci_version: record.oci_version,
            id: record.id,
            pid,
            status,
            bundle: record.bundle,
            rootfs: record.rootfs,
            created: record.created,
            annotations: record.annotations,
            owner: String::new(),
        }
    }
}

#[derive(Debug, Args)]
pub struct State {
    #[arg(value_name = "container-id")]
    id: String,
}

impl State {
    pub fn run(self, global: &Global) -> Result<String> {
        let (home, record) = global.find(&self.id)?;
        let status = end::status(&home, &record)?;
        serde_json::to_string_pretty(&Shown::of(record, status)).context("encode the state")
    }
}

#[derive(Debug, Args)]
pub struct List {
    #[arg(short, long, default_value = "table")]
    format: Format,
    /// The names alone
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

impl List {
    pub fn run(self, global: &Global) -> Result<String> {
        let containers = global.root.all()?;
        if self.quiet {
            return Ok(containers.into_iter().map(|(_, record)| record.id + "\n").collect());
        }
        let statuses = statuses(&containers)?;
        let mut shown = Vec::new();
        for ((_, record), status) in containers.into_iter().zip(statuses) {
            let owner = owner(record.owner);
            let status = match status {
                Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::NotFound) => {
                    Status::Stopped
                }
                status => status?,
            };
            shown.push(Shown { owner, ..Shown::of(record, status) });
        }
        match self.format {
            // As runc writes an empty list.
            Format::Json if shown.is_empty() => Ok("null".into()),
            Format::Json => serde_json::to_string(&shown).context("encode the list"),
            Format::Table => {
                let mut table = Table::new(&["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
                for Shown { id, pid, status, bundle, created, owner, .. } in shown {
                    table.row([
                        id,
                        pid.to_string(),
                        status.into(),
                        bundle.display().to_string(),
                        created,
                        owner,
                    ]);
                }
                Ok(table.to_string())
            }
        }
    }
}

/// The name of a user, or the number of one without a name.
fn owner(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid));
    user.ok().flatten().map_or_else(|| format!("#{uid}"), |user| user.name)
}

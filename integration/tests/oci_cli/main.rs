//! `kata-runtime` as engines use it, beside runc: each test is put to both, and what they say must be the same.

mod ends;
mod execs;
mod groups;
mod life;
mod own;
mod streams;

use std::{fs, os::unix::fs::MetadataExt};

use serde_json::Value;

/// Runs until it is told to end, which it does with 5.
const WAITS: &str = "trap 'exit 5' TERM; echo up; while true; do sleep 0.1; done";

fn nothing(_: &mut Value) {}

fn namespace(pid: &str) -> u64 {
    fs::metadata(format!("/proc/{pid}/ns/net")).expect("the stand-in has a network namespace").ino()
}

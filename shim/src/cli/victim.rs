//! `victim`: a process for the kernel to kill when a container was, where engines look for that.

use std::{fs, io};

use clap::Args;
use nix::unistd::alarm;
use runtime::error::{Context, Error, Result};

/// How long the kernel may take.
const SECONDS: u32 = 2;
const CHUNK: u64 = 1 << 20;

#[derive(Debug, Args)]
pub struct Victim {
    /// How many bytes it takes
    bytes: u64,
}

impl Victim {
    /// Returns if it was spared.
    pub fn run(self) -> Result<()> {
        alarm::set(SECONDS);
        io::copy(&mut io::stdin(), &mut io::sink()).context("wait for the word to begin")?;
        fs::write("/proc/self/oom_score_adj", "1000").context("be the first to be killed")?;
        let taken: Vec<_> = (0..self.bytes / CHUNK).map(|_| vec![1_u8; CHUNK as usize]).collect();
        Err(Error::internal(format!("{} MiB were there", taken.len())))
    }
}

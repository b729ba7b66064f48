//! CPUs and memory that were plugged in: told about, and put to use.

use std::{fs, path::Path, time::Duration};

use tokio::time::sleep;

use crate::error::{Error, Result};

const CPUS: &str = "/sys/devices/system/cpu";
const MEMORY: &str = "/sys/devices/system/memory";
/// Plugged CPUs appear a moment after the call; upstream's agent waits as long.
const TRIES: usize = 100;
const PAUSE: Duration = Duration::from_millis(50);

/// Bytes of a memory block, 0 where the kernel cannot plug memory.
pub fn memory_block_size() -> u64 {
    fs::read_to_string(format!("{MEMORY}/block_size_bytes"))
        .ok()
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .unwrap_or(0)
}

/// Whether memory must be announced by address.
pub fn has_memory_probe() -> bool {
    Path::new(&format!("{MEMORY}/probe")).exists()
}

/// Puts CPUs to use until `total` are, and all memory unless `cpu_only`. A total of 0 leaves the CPUs alone.
pub async fn online(total: usize, cpu_only: bool) -> Result<()> {
    if !cpu_only {
        switch_on(MEMORY, "memory", || true);
    }
    for _ in 0..TRIES {
        // The guest may have more than it is to use.
        switch_on(CPUS, "cpu", || online_cpus() < total);
        if online_cpus() >= total {
            return Ok(());
        }
        // The kernel tells of a new CPU only by its directory.
        sleep(PAUSE).await;
    }
    Err(Error::internal(format!("{} CPUs are in use where {total} should be", online_cpus())))
}

fn online_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Switches on what is off, as long as `wanted`.
fn switch_on(dir: &str, prefix: &str, wanted: impl Fn() -> bool) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if !wanted() {
            return;
        }
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix(prefix))
            .and_then(|rest| rest.parse::<u32>().ok());
        let switch = entry.path().join("online");
        if number.is_some()
            && fs::read_to_string(&switch).is_ok_and(|state| state.trim() == "0")
            && let Err(error) = fs::write(&switch, "1")
        {
            tracing::warn!(%error, switch = %switch.display(), "stays off");
        }
    }
}

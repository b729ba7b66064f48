//! Guest memory in files: only what the guest has ever used is read, written and compared.

use std::{fs::File, io, os::unix::fs::FileExt};

use nix::{
    errno::Errno,
    sys::memfd::{MFdFlags, memfd_create},
    unistd::{Whence, lseek64},
};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};

/// Longest extent: small enough for a processor's cache, so that each byte comes from memory once.
const CHUNK: usize = 256 << 10;
const PAGE: usize = 4096;
/// Copying is bound by one processor; a second one halves it, more do not pay for starting them.
const COPIERS: usize = 2;

/// A run of bytes that are not all zero.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Extent {
    at: u64,
    length: u64,
    crc: u32,
}

impl Extent {
    pub(super) fn length(&self) -> u64 {
        self.length
    }
}

/// An anonymous file for `size` bytes of guest memory.
pub(super) fn anonymous(size: u64) -> Result<File> {
    let file = memfd_create("guest-memory", MFdFlags::MFD_CLOEXEC).context("make a file for guest memory")?;
    let file = File::from(file);
    file.set_len(size).with_context(|| format!("make a file of {size} bytes for guest memory"))?;
    Ok(file)
}

/// Writes what `memory` holds to the empty file `to`, and tells what that is.
pub(super) fn save(memory: &File, size: u64, to: &File) -> Result<Vec<Extent>> {
    to.set_len(size).context("size the template's memory")?;
    let mut extents = Vec::new();
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while let Some((start, end)) = next_data(memory, at)? {
        let mut from = start;
        while from < end {
            let chunk = &mut buffer[..CHUNK.min((end - from) as usize)];
            memory.read_exact_at(chunk, from).context("read guest memory")?;
            for (offset, used) in runs(chunk) {
                let run = Extent {
                    at: from + offset as u64,
                    length: used.len() as u64,
                    crc: crc32fast::hash(used),
                };
                to.write_all_at(used, run.at).context("write the template's memory")?;
                extents.push(run);
            }
            from += chunk.len() as u64;
        }
        at = end;
    }
    Ok(extents)
}

/// Copies `extents` of `memory` to the file `to`.
pub(super) fn copy(memory: &File, size: u64, extents: &[Extent], to: &File) -> Result<()> {
    each(memory, size, extents, |bytes, at| to.write_all_at(bytes, at))
}

/// Reads all `extents` of `memory` and compares; what is between them must be nothing.
pub(super) fn check(memory: &File, size: u64, extents: &[Extent]) -> Result<()> {
    each(memory, size, extents, |_, _| Ok(()))?;
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    for (end, length) in extents.iter().map(|extent| (extent.at, extent.length)).chain([(size, 0)]) {
        while let Some((start, data_end)) = next_data(memory, at)?.filter(|(start, _)| *start < end) {
            let chunk = &mut buffer[..CHUNK.min((data_end.min(end) - start) as usize)];
            memory.read_exact_at(chunk, start).context("read the template's memory")?;
            if chunk.iter().any(|byte| *byte != 0) {
                return Err(Error::internal("memory is damaged: there is more than there should be"));
            }
            at = start + chunk.len() as u64;
        }
        at = end + length;
    }
    Ok(())
}

/// Hands every extent to `take` after a look at its checksum, on several threads.
fn each(
    memory: &File,
    size: u64,
    extents: &[Extent],
    take: impl Fn(&[u8], u64) -> io::Result<()> + Sync,
) -> Result<()> {
    if memory.metadata().context("memory")?.len() != size {
        return Err(Error::internal("memory is damaged: it has another size"));
    }
    let share = extents.len().div_ceil(COPIERS).max(1);
    std::thread::scope(|scope| {
        let copiers: Vec<_> = extents
            .chunks(share)
            .map(|extents| scope.spawn(|| extents.iter().try_for_each(|extent| one(memory, extent, &take))))
            .collect();
        copiers.into_iter().try_for_each(|copier| {
            copier.join().unwrap_or_else(|_| Err(Error::internal("a thread that copies memory panicked")))
        })
    })
}

fn one(memory: &File, extent: &Extent, take: &impl Fn(&[u8], u64) -> io::Result<()>) -> Result<()> {
    let mut buffer = [0; CHUNK];
    let bytes = usize::try_from(extent.length).ok().and_then(|length| buffer.get_mut(..length));
    let bytes = bytes.ok_or_else(|| Error::internal("memory is damaged: an extent is too long"))?;
    memory.read_exact_at(bytes, extent.at).context("read the template's memory")?;
    if crc32fast::hash(bytes) != extent.crc {
        return Err(Error::internal("memory is damaged"));
    }
    take(bytes, extent.at).context("copy the template's memory")
}

/// The next run of bytes that are no hole, from `at` on.
fn next_data(file: &File, at: u64) -> Result<Option<(u64, u64)>> {
    let seek = |at: u64, whence| lseek64(file, at as i64, whence).map(|at| at as u64);
    match seek(at, Whence::SeekData) {
        Ok(start) => {
            let end = seek(start, Whence::SeekHole).context("find holes in guest memory")?;
            Ok(Some((start, end)))
        }
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(Error::from(errno).context("find data in guest memory")),
    }
}

/// The runs of pages of `chunk` that are not all zero, with their offsets.
fn runs(chunk: &[u8]) -> Vec<(usize, &[u8])> {
    let mut runs: Vec<(usize, &[u8])> = Vec::new();
    for (index, page) in chunk.chunks(PAGE).enumerate() {
        if page.iter().all(|byte| *byte == 0) {
            continue;
        }
        let at = index * PAGE;
        match runs.last_mut() {
            Some((start, run)) if *start + run.len() == at => *run = &chunk[*start..at + page.len()],
            _ => runs.push((at, page)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_with_its_holes_and_damage_is_seen() {
        const SIZE: u64 = 8 << 20;
        let memory = anonymous(SIZE).unwrap();
        let pattern: Vec<u8> = (0..600_000u32).map(|n| (n % 251) as u8 + 1).collect();
        memory.write_all_at(&pattern, 4096 * 3).unwrap();
        memory.write_all_at(&[0; 65536], 2 << 20).unwrap();
        memory.write_all_at(b"last", SIZE - 4).unwrap();

        let saved = tempfile::tempfile().unwrap();
        let extents = save(&memory, SIZE, &saved).unwrap();
        let total: u64 = extents.iter().map(|extent| extent.length).sum();
        assert!((600_000..620_000).contains(&total), "zeroes are not saved: {total}");
        let copied = anonymous(SIZE).unwrap();
        copy(&saved, SIZE, &extents, &copied).unwrap();
        let whole = |file: &File| {
            let mut bytes = vec![0; SIZE as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        assert!(whole(&memory) == whole(&copied));
        check(&saved, SIZE, &extents).unwrap();

        saved.write_all_at(b"x", 5 << 20).unwrap();
        assert!(check(&saved, SIZE, &extents).is_err(), "a hole was filled");
        saved.write_all_at(b"\0", 5 << 20).unwrap();
        check(&saved, SIZE, &extents).unwrap();
        saved.write_all_at(b"x", 300_000).unwrap();
        assert!(copy(&saved, SIZE, &extents, &copied).is_err() && check(&saved, SIZE, &extents).is_err());
        saved.set_len(SIZE / 2).unwrap();
        assert!(check(&saved, SIZE, &extents).is_err());
        let endless = Extent { at: 0, length: u64::MAX, crc: 0 };
        saved.set_len(SIZE).unwrap();
        assert!(check(&saved, SIZE, &[endless]).is_err());
    }
}

//! What memory a process has, mapping by mapping, and which of it is a guest's RAM.

use std::fs;

use anyhow::{Context, Result};

/// One mapping; sizes in KiB.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mapping {
    pub size: u64,
    pub rss: u64,
    pub pss: u64,
    /// Of a private mapping of a file: the pages that were written to, and so became the process's own.
    pub anonymous: u64,
    pub shared: bool,
    /// Both writable and executable: code that the process makes itself.
    pub generated: bool,
    /// Device and inode of what is mapped; an inode of 0 is no file.
    pub device: String,
    pub inode: u64,
}

/// Which mappings are the guest's RAM.
#[derive(Debug, Clone, PartialEq)]
pub enum GuestRam {
    /// Every mapping of one file.
    File { device: String, inode: u64 },
    /// QEMU's anonymous mapping of that size.
    Anonymous { size: u64 },
}

/// What one process has, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Memory {
    /// PSS of everything but guest RAM.
    pub pss: u64,
    /// The part of it that is code made at run time: an emulator's translations.
    pub generated: u64,
    /// Guest RAM that is nobody else's; of RAM that several processes of a sandbox map, this one's part.
    pub guest_own: u64,
    /// Guest RAM that clones share.
    pub guest_shared: u64,
}

pub fn of(pid: u32) -> Result<Vec<Mapping>> {
    let path = format!("/proc/{pid}/smaps");
    Ok(parse(&fs::read_to_string(&path).with_context(|| format!("read {path}"))?))
}

fn parse(text: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            [key, value, "kB"] => {
                let (Some(mapping), Ok(value)) = (mappings.last_mut(), value.parse()) else { continue };
                match *key {
                    "Size:" => mapping.size = value,
                    "Rss:" => mapping.rss = value,
                    "Pss:" => mapping.pss = value,
                    "Anonymous:" => mapping.anonymous = value,
                    _ => {}
                }
            }
            [range, permissions, _, device, inode, ..] if range.contains('-') => mappings.push(Mapping {
                shared: permissions.ends_with('s'),
                generated: permissions.contains('w') && permissions.contains('x'),
                device: (*device).to_owned(),
                inode: inode.parse().unwrap_or(0),
                ..Mapping::default()
            }),
            _ => {}
        }
    }
    mappings
}

impl GuestRam {
    /// Finds the RAM of a guest of `size` KiB among QEMU's mappings.
    pub fn find(qemu: &[Mapping], size: u64) -> Option<Self> {
        let fitting = || qemu.iter().filter(|mapping| mapping.size == size);
        // A file is the better sign: QEMU's own memory may have the same size by chance.
        let file = fitting().find(|mapping| mapping.inode != 0);
        let found = file.or_else(|| fitting().max_by_key(|mapping| mapping.rss))?;
        Some(match found.inode {
            0 => Self::Anonymous { size },
            inode => Self::File { device: found.device.clone(), inode },
        })
    }

    fn holds(&self, mapping: &Mapping) -> bool {
        match self {
            Self::File { device, inode } => mapping.inode == *inode && mapping.device == *device,
            Self::Anonymous { size } => mapping.inode == 0 && mapping.size == *size,
        }
    }
}

impl Memory {
    /// Sums up a process's mappings. Without a guest all is its own.
    pub fn of(mappings: &[Mapping], guest: Option<&GuestRam>) -> Self {
        let mut memory = Self::default();
        for mapping in mappings {
            if !guest.is_some_and(|guest| guest.holds(mapping)) {
                memory.pss += mapping.pss;
                memory.generated += if mapping.generated { mapping.pss } else { 0 };
            } else if mapping.inode == 0 {
                memory.guest_own += mapping.rss;
            } else if mapping.shared {
                // Only one sandbox maps it; its processes share it among them.
                memory.guest_own += mapping.pss;
            } else {
                memory.guest_own += mapping.anonymous;
                memory.guest_shared += mapping.rss.saturating_sub(mapping.anonymous);
            }
        }
        memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
55d0c0000000-55d0c0100000 r-xp 00000000 fe:00 1234 /usr/bin/qemu system (x)
Size:               1024 kB
Rss:                 800 kB
Pss:                 400 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
7f0000000000-7f0080000000 rw-s 00000000 00:01 606 /memfd:memory-backend-memfd (deleted)
Size:            2097152 kB
Rss:               80000 kB
Pss:               79000 kB
Anonymous:             0 kB
7f1000000000-7f1000100000 rwxp 00000000 00:00 0
Size:               2048 kB
Rss:                 500 kB
Pss:                 500 kB
Anonymous:           500 kB
";

    #[test]
    fn guest_ram_is_told_from_the_rest() {
        let mappings = parse(TEXT);
        assert_eq!(mappings.len(), 3);
        let ram = GuestRam::find(&mappings, 2_097_152).unwrap();
        assert_eq!(ram, GuestRam::File { device: "00:01".into(), inode: 606 });
        let memory = Memory::of(&mappings, Some(&ram));
        assert_eq!(memory, Memory { pss: 900, generated: 500, guest_own: 79_000, guest_shared: 0 });
        assert_eq!(Memory::of(&mappings, None).pss, 79_900);
        assert_eq!(GuestRam::find(&mappings, 4096), None);
    }

    #[test]
    fn of_a_private_template_the_written_pages_are_own() {
        let mut mappings = parse(TEXT);
        mappings[1].shared = false;
        mappings[1].anonymous = 20_000;
        let ram = GuestRam::find(&mappings, 2_097_152).unwrap();
        let memory = Memory::of(&mappings, Some(&ram));
        assert_eq!((memory.guest_own, memory.guest_shared), (20_000, 60_000));
    }

    #[test]
    fn anonymous_ram_is_found_by_its_size() {
        let mappings = parse(TEXT);
        let ram = GuestRam::find(&mappings, 2048).unwrap();
        assert_eq!(ram, GuestRam::Anonymous { size: 2048 });
        assert_eq!(Memory::of(&mappings, Some(&ram)).guest_own, 500);
    }

    #[test]
    fn this_process_has_memory() {
        let own = of(std::process::id()).unwrap();
        assert!(Memory::of(&own, None).pss > 100);
    }
}

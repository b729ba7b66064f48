//! Where reports of accidents are kept, for `kata-runtime logs`: the newest few, whoever they are about.
//!
//! They are nobody's resource: no clean-up takes them away, and there is a bound to them. Where there is no room, older ones
//! go.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::report::Report;
use crate::error::{Context, Result};

/// How many reports are kept, and how many of their bytes: most are far smaller than a hostile guest can make them.
const KEPT: Room = Room { files: 128, bytes: 4 << 20 };
/// Nothing of ours is larger.
const SIZE_LIMIT: u64 = 1 << 20;
/// Of a sandbox's id in the name of a file.
const NAME_LENGTH: usize = 100;
const SUFFIX: &str = ".json";

#[derive(Debug, Clone, Copy)]
struct Room {
    files: usize,
    bytes: u64,
}

/// A folder of reports.
#[derive(Debug, Clone)]
pub struct Shelf {
    dir: PathBuf,
}

impl Shelf {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Keeps a report; the oldest goes. Blocks.
    pub fn put(&self, report: &Report) -> Result<()> {
        let keep = || format!("keep the report of sandbox {}'s accident", report.sandbox);
        let text = serde_json::to_vec(report).with_context(keep)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).with_context(keep)?;
        let id = &report.sandbox[..report.sandbox.len().min(NAME_LENGTH)];
        let path = self.dir.join(format!("{:015}-{id}{SUFFIX}", report.at_ms));
        let written = match write(&path, &text) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                self.prune(Room { files: KEPT.files / 2, bytes: KEPT.bytes / 2 });
                write(&path, &text)
            }
            written => written,
        };
        self.prune(KEPT);
        written.with_context(keep)
    }

    /// All reports, the newest first. What cannot be read is left out. Blocks.
    pub fn all(&self) -> Vec<Report> {
        let whole = self.files().into_iter().rev().filter(|name| name.ends_with(SUFFIX));
        whole.filter_map(|name| read(&self.dir.join(name))).collect()
    }

    /// Names of files, the oldest first.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Takes away the oldest, until there are no more than there is room for.
    fn prune(&self, mut room: Room) {
        for name in self.files().into_iter().rev() {
            let path = self.dir.join(name);
            let size = path.symlink_metadata().map_or(0, |meta| meta.len());
            if room.files > 0 && room.bytes >= size {
                room = Room { files: room.files - 1, bytes: room.bytes - size };
            } else {
                room.files = 0;
                let _ = fs::remove_file(path); // Another process may have been quicker.
            }
        }
    }
}

/// The whole file or none.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    let written = file.write_all(text).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new); // It goes with the oldest else.
    }
    written
}

fn read(path: &Path) -> Option<Report> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(SIZE_LIMIT).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(number: u64) -> Report {
        Report { at_ms: number, ..Report::new(&format!("s{number}"), "it died") }
    }

    #[test]
    fn the_newest_few_are_kept_and_told_first() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(dir.path().join("a/b"));
        assert!(shelf.all().is_empty());
        let most = KEPT.files as u64;
        for number in 0..2 * most {
            shelf.put(&report(number)).unwrap();
        }
        let kept = shelf.all();
        assert_eq!((kept.len(), &kept[0]), (KEPT.files, &report(2 * most - 1)));
        assert!(kept[0].is_about("s255") && !kept[0].is_about("s25"));
    }

    #[test]
    fn what_is_torn_is_left_out_and_goes_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(dir.path().into());
        for name in ["000000000000000-a.json", "000000000000000-b.new"] {
            fs::write(dir.path().join(name), "{").unwrap();
        }
        for number in 1..=KEPT.files as u64 {
            assert_eq!(shelf.all().len() as u64, number - 1);
            shelf.put(&report(number)).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), KEPT.files);
    }

    #[test]
    fn large_reports_leave_room_for_fewer() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(dir.path().into());
        let large = |number| Report { what: "x".repeat(1 << 19), ..report(number) };
        for number in 0..20 {
            shelf.put(&large(number)).unwrap();
        }
        let kept = Vec::from_iter(shelf.all().iter().map(|report| report.at_ms));
        assert_eq!(kept, Vec::from_iter((13..20).rev()));
    }

    #[test]
    fn a_long_id_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(dir.path().into());
        let report = Report::new(&"x".repeat(255), "it died");
        shelf.put(&report).unwrap();
        assert_eq!(shelf.all(), [report]);
    }
}

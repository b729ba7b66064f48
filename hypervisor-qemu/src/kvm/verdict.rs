//! What a trial found, and remembering it until the host boots again or its KVM is exchanged.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use serde::{Deserialize, Serialize};

/// Whether guests can run on KVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Usable,
    /// It is there but does not run guests at speed.
    Unusable(String),
    /// It cannot be opened.
    Missing(String),
}

/// When and on what a verdict was found; it holds for nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Occasion {
    boot_id: String,
    /// Number and change time of the device node, which is made anew with every load of a KVM module.
    device: (u64, i64, i64),
}

impl Occasion {
    /// `None` where the host does not tell, so that nothing is remembered wrongly.
    pub(super) fn now(device: &Path) -> Option<Self> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        let node = fs::metadata(device).ok()?;
        Some(Self { boot_id, device: (node.rdev(), node.ctime(), node.ctime_nsec()) })
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    occasion: Occasion,
    verdict: Verdict,
}

/// A real file is a tenth of this.
const SIZE_LIMIT: u64 = 4096;

/// What was found on this occasion before; whatever is wrong with the file, it then counts as absent.
pub(super) fn recall(file: &Path, occasion: &Occasion) -> Option<Verdict> {
    let about = fs::symlink_metadata(file).ok()?;
    let ours = about.uid() == nix::unistd::geteuid().as_raw() && about.mode() & 0o022 == 0;
    if !about.is_file() || !ours || about.len() > SIZE_LIMIT {
        return None;
    }
    let stored: Stored = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    (stored.occasion == *occasion).then_some(stored.verdict)
}

/// Writes beside and renames, since other sandboxes read and write the same file.
pub(super) fn remember(file: &Path, occasion: &Occasion, verdict: &Verdict) -> io::Result<()> {
    let stored = Stored { occasion: occasion.clone(), verdict: verdict.clone() };
    let new = file.with_extension(format!("{}.tmp", std::process::id()));
    let written = write(&new, &serde_json::to_vec(&stored)?).and_then(|()| fs::rename(&new, file));
    if written.is_err() {
        let _ = fs::remove_file(&new); // It may not even have been made.
    }
    written
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_a_sound_file_of_the_same_occasion_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("kvm-probe");
        let occasion = Occasion::now(Path::new("/dev/null")).unwrap();
        let verdict = Verdict::Unusable("slow".into());
        assert_eq!(recall(&file, &occasion), None);

        remember(&file, &occasion, &verdict).unwrap();
        assert_eq!(recall(&file, &occasion), Some(verdict.clone()));
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");

        let rebooted = Occasion { boot_id: "other".into(), ..occasion.clone() };
        assert_eq!(recall(&file, &rebooted), None);
        let reloaded = Occasion { device: (occasion.device.0, 0, 0), ..occasion.clone() };
        assert_eq!(recall(&file, &reloaded), None);

        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(recall(&file, &occasion), None, "anybody could have written it");

        for damaged in ["", "{", "{\"verdict\":\"usable\"}", &"x".repeat(5000)] {
            fs::write(&file, damaged).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            assert_eq!(recall(&file, &occasion), None, "{damaged:.20}");
        }
    }
}

//! The guest's own `resolv.conf`. Containers have theirs from the host; this one is for what runs beside them.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::mount::{MsFlags, mount};
use protocols::guest::SANDBOX_DIR;

use crate::error::{Context, Error, Result};

const TARGET: &str = "/etc/resolv.conf";

/// Writes `lines`, and puts the file in the place of the guest's, if it has one. Blocks.
pub fn set(lines: &[String]) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let content = content(lines)?;
    let path = PathBuf::from(SANDBOX_DIR).join("resolv.conf");
    fs::create_dir_all(SANDBOX_DIR).context(SANDBOX_DIR)?;
    // In place: where it is bound already, the new lines are seen as well.
    fs::write(&path, content).context(path.display())?;
    match fs::metadata(TARGET) {
        Err(_) => Ok(()), // A guest in which nobody resolves names.
        Ok(target) if is_same(&path, &target)? => Ok(()),
        Ok(_) => mount(Some(&path), TARGET, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .context(format!("bind {} to {TARGET}", path.display())),
    }
}

fn is_same(path: &Path, target: &fs::Metadata) -> Result<bool> {
    let own = fs::metadata(path).context(path.display())?;
    Ok((own.dev(), own.ino()) == (target.dev(), target.ino()))
}

fn content(lines: &[String]) -> Result<String> {
    if let Some(line) = lines.iter().find(|line| line.contains(['\n', '\0'])) {
        return Err(Error::invalid(format!("dns: {line:?} is more than a line")));
    }
    Ok(lines.iter().map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    use nix::sched::{CloneFlags, unshare};

    #[test]
    fn the_guests_file_has_the_lines_of_the_last_call() {
        if !nix::unistd::geteuid().is_root() || fs::metadata(TARGET).is_err() {
            eprintln!("skipped: needs root, and a file {TARGET}");
            return;
        }
        // In a thread of its own, whose mounts end with it.
        let tried = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
                .unwrap();
            let before = fs::read_to_string(TARGET).unwrap();
            mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
            set(&[]).unwrap();
            assert_eq!(fs::read_to_string(TARGET).unwrap(), before);
            for lines in [["nameserver 10.0.0.1", "search a"], ["nameserver 10.0.0.2", "options ndots:5"]] {
                set(&lines.map(str::to_owned)).unwrap();
                assert_eq!(fs::read_to_string(TARGET).unwrap(), format!("{}\n{}\n", lines[0], lines[1]));
            }
            let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
            assert_eq!(mounts.lines().filter(|line| line.contains(TARGET)).count(), 1, "{mounts}");
        });
        tried.join().unwrap();
    }

    #[test]
    fn lines_are_lines() {
        let lines = ["nameserver 10.0.0.1", "search a b", ""].map(str::to_owned);
        assert_eq!(content(&lines).unwrap(), "nameserver 10.0.0.1\nsearch a b\n\n");
        let error = content(&["nameserver 1.1.1.1\noptions x".to_owned()]).unwrap_err().to_string();
        assert!(error.starts_with("dns: "), "{error}");
    }
}

//! Little room: file systems that are soon full, in mount namespaces of a test's own.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

/// Runs `work` in a thread that has mounts of its own, as has all that it starts.
pub fn with_own_mounts<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let apart = || {
        unshare(CloneFlags::CLONE_NEWNS).expect("make a mount namespace");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("make the mounts private");
        work()
    };
    thread::scope(|scope| scope.spawn(apart).join()).unwrap_or_else(|panic| resume_unwind(panic))
}

/// A small file system; gone when dropped.
pub struct Room {
    path: PathBuf,
}

impl Room {
    /// Mounts one that holds so much, and so many files, at a folder that is made if need be.
    pub fn mount(path: &Path, kibibytes: u32, files: u32) -> Self {
        fs::create_dir_all(path).expect("make a folder to mount on");
        let options = format!("size={kibibytes}k,nr_inodes={files},mode=755");
        mount(Some("room"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .expect("mount a small file system");
        Self { path: path.into() }
    }

    /// Takes what room is left, for contents and for files.
    pub fn fill(&self) {
        let mut number = 0;
        let mut filler = || {
            number += 1;
            let path = self.path.join(format!("filler-{number}"));
            OpenOptions::new().create(true).append(true).open(path)
        };
        until_full(|| {
            let mut file = filler()?;
            until_full(|| file.write(&[0; 4096]).map(drop));
            Ok(())
        });
    }

    /// Gives it back.
    pub fn clear(&self) {
        for entry in fs::read_dir(&self.path).expect("read the small file system").flatten() {
            if entry.file_name().to_string_lossy().starts_with("filler-") {
                fs::remove_file(entry.path()).expect("remove a filler");
            }
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH); // Ends with its namespace at the latest.
    }
}

fn until_full(mut take: impl FnMut() -> io::Result<()>) {
    loop {
        match take() {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::ENOSPC as i32) => return,
            Err(error) => panic!("fill a small file system: {error}"),
        }
    }
}

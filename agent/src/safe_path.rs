//! Paths below a root that is a container's, and may be full of its symbolic links.

use std::{
    ffi::OsStr,
    io,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

use nix::{
    fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::{Mode, mkdirat},
};

/// Creates `path` and what is missing above it, with mode 0755. Links are followed as if `root` were `/`.
pub fn create_dir_all(root: &Path, path: &Path) -> io::Result<()> {
    let root = open(None, root)?;
    let mut below = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => {
                let parent = open(Some(&root), &below)?;
                below.push(name);
                match open(Some(&root), &below) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => make(&parent, name)?,
                    opened => drop(opened?),
                }
            }
            Component::ParentDir => drop(below.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(())
}

/// Opens the directory `path` for looking it up, with links followed as if `root` were `/`.
pub fn open_dir(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    open(Some(&open(None, root)?), path)
}

fn make(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    mkdirat(parent, name, Mode::from_bits_truncate(0o755)).map_err(io::Error::from)
}

fn open(root: Option<&OwnedFd>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags);
    let opened = match root {
        Some(root) => openat2(root, path, how.resolve(ResolveFlag::RESOLVE_IN_ROOT)),
        None => openat2(AT_FDCWD, path, how),
    };
    opened.map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn directories_are_made_below_the_root_whatever_the_links_say() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir_all(root.join("real")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        symlink("/real", root.join("absolute")).unwrap();
        symlink(&outside, root.join("escape")).unwrap();
        symlink("../../../real", root.join("real/up")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        let make = |path: &str| create_dir_all(&root, Path::new(path));

        make("/a/b/c").unwrap();
        make("/a/b/c").unwrap();
        make("/absolute/x").unwrap();
        make("/real/up/y").unwrap();
        make("../../z").unwrap();
        make("/a/../w").unwrap();
        for made in ["a/b/c", "real/x", "real/y", "z", "w"] {
            assert!(root.join(made).is_dir(), "{made}");
        }
        assert!(make("/escape/x").is_err());
        assert!(make("/file/x").is_err());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
}

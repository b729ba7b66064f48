//! A mount that is nowhere yet: taken from one place, and put in another when it is as it is to be.

#![allow(unsafe_code)]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use nix::{fcntl::AT_FDCWD, libc};

/// A copy of a mount, with all that is mounted below.
pub struct MountTree(OwnedFd);

impl MountTree {
    /// Of what is at `path`.
    pub fn copy(path: &Path) -> io::Result<Self> {
        let path = c_path(path)?;
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | (libc::AT_RECURSIVE as libc::c_uint);
        // SAFETY: the path is a string that lives through the call, which keeps nothing of it.
        let fd = unsafe { libc::syscall(libc::SYS_open_tree, AT_FDCWD.as_raw_fd(), path.as_ptr(), flags) };
        match fd {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: the kernel just made this descriptor for us.
            fd => Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) })),
        }
    }

    /// Mounts it on `target`.
    pub fn attach(self, target: &Path) -> io::Result<()> {
        let target = c_path(target)?;
        // SAFETY: both strings live through the call, which keeps nothing of them.
        let done = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                AT_FDCWD.as_raw_fd(),
                target.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH,
            )
        };
        if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for MountTree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

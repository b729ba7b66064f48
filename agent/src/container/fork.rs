//! The two ways in which a process of ours splits in two. Both only ever happen in a single-threaded process.

use std::io;

use nix::{
    libc,
    unistd::{ForkResult, fork},
};

/// Runs `child` in a copy of this process, which must have one thread only. Returns the copy's pid.
pub fn fork_child(child: impl FnOnce() -> i32) -> io::Result<i32> {
    // SAFETY: there is no other thread whose locks or half-made changes the copy could inherit.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child.as_raw()),
        ForkResult::Child => exit_now(child()),
    }
}

/// Runs `sibling` in a copy of this process that is a child of this process's parent. The process must have one thread
/// only. Returns the copy's pid.
pub fn fork_sibling(sibling: impl FnOnce() -> i32) -> io::Result<i32> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: with a null stack the copy continues on a copy of this one, as after fork; there is no other thread.
    // The exit signal is the parent's choice for CLONE_PARENT.
    match unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_PARENT, none, none, none, none) } {
        -1 => Err(io::Error::last_os_error()),
        0 => exit_now(sibling()),
        pid => Ok(pid as i32),
    }
}

/// Ends the copy without what is registered for the original's end.
fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; nothing of it is used afterwards.
    unsafe { libc::_exit(code) }
}

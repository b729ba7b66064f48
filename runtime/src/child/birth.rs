//! Fork and exec, into a cgroup.
//!
//! `std::process` cannot start a process in another cgroup, and to move one afterwards takes the kernel 7 ms and more, in
//! which it runs elsewhere. clone3(2) with `CLONE_INTO_CGROUP` costs nothing.

use std::{
    ffi::{CStr, CString},
    io,
    mem::{size_of, zeroed},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    ptr::{null, null_mut},
};

use nix::{
    errno::Errno,
    libc,
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    unistd::Pid,
};

use crate::state::pidfd_kill;

// Of linux/sched.h, in which they are wider than the C library has them.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What becomes of the child: a program, its arguments and its environment.
#[derive(Debug)]
pub(super) struct Image {
    pub program: CString,
    pub args: Vec<CString>,
    pub env: Vec<CString>,
}

/// A process that runs its program.
#[derive(Debug)]
pub(super) struct Newborn {
    pub pid: u32,
    pub pidfd: OwnedFd,
}

impl Newborn {
    /// Ends one that nobody is to have. Blocks.
    pub fn discard(&self) {
        let _ = pidfd_kill(&self.pidfd); // Gone already is as good.
        let _ = self.wait();
    }

    /// Waits until it has ended. Blocks.
    pub fn wait(&self) -> io::Result<ExitStatus> {
        loop {
            return match waitpid(Pid::from_raw(self.pid as i32), Some(WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Exited(_, code)) => Ok(ExitStatus::from_raw(code << 8)),
                Ok(WaitStatus::Signaled(_, signal, _)) => Ok(ExitStatus::from_raw(signal as i32)),
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(errno) => Err(errno.into()),
            };
        }
    }
}

/// Starts `image` as a child of the calling thread, in the cgroup (version 2) that `group` is the directory of. `prepare`
/// runs in the child.
///
/// # Safety
///
/// `prepare` runs between fork and exec of a process with threads: it may make async-signal-safe calls only, and neither
/// allocate nor free.
pub(super) unsafe fn bear(
    image: &Image,
    group: Option<BorrowedFd<'_>>,
    prepare: &(dyn Fn() -> io::Result<()> + Send),
) -> io::Result<Newborn> {
    let (mut failure, theirs) = io::pipe()?;
    let (args, env) = (pointers(&image.args), pointers(&image.env));
    let mut pidfd: RawFd = -1;
    // SAFETY: all zero is a valid value of a struct of integers, and means nothing special.
    let mut request: libc::clone_args = unsafe { zeroed() };
    request.flags = libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND;
    request.pidfd = &raw mut pidfd as u64;
    request.exit_signal = libc::SIGCHLD as u64;
    if let Some(group) = group {
        request.flags |= CLONE_INTO_CGROUP;
        request.cgroup = group.as_raw_fd() as u64;
    }
    // SAFETY: the kernel reads the struct and writes the pidfd, both of which outlive the call. Without CLONE_VM the child has
    // its own copy of everything, as after fork(2), and makes async-signal-safe calls only until it execs or exits.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut request, size_of::<libc::clone_args>()) };
    match pid {
        0 => {
            let Err(error) = prepare() else {
                // SAFETY: the pointers were made above and end with a null each.
                unsafe { become_program(&image.program, &args, &env, theirs.as_raw_fd()) }
            };
            fail(theirs.as_raw_fd(), error.raw_os_error().unwrap_or(libc::EIO))
        }
        ..0 => return Err(io::Error::last_os_error()),
        _ => {}
    }
    // SAFETY: the kernel has made it for us, and nobody else has it.
    let newborn = Newborn { pid: pid as u32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } };
    drop(theirs);
    let mut errno = [0; 4];
    match io::Read::read_exact(&mut failure, &mut errno) {
        // Closed by the exec.
        Err(_) => Ok(newborn),
        Ok(()) => {
            newborn.wait()?;
            Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno)))
        }
    }
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([null()]).collect()
}

/// # Safety
///
/// For the child alone; the lists end with a null.
unsafe fn become_program(
    program: &CStr,
    args: &[*const libc::c_char],
    env: &[*const libc::c_char],
    report: RawFd,
) -> ! {
    // SAFETY: valid pointers to values of this frame and of the caller's.
    unsafe {
        let mut none: libc::sigset_t = zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, null_mut());
        // Rust's runtime ignores it, and what is ignored stays so.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr());
    }
    fail(report, Errno::last_raw())
}

/// Tells the parent why, and ends the child.
fn fail(report: RawFd, errno: i32) -> ! {
    let bytes = errno.to_ne_bytes();
    // SAFETY: a write of four bytes that live on this stack, and an exit that runs nothing of the parent's.
    unsafe {
        libc::write(report, bytes.as_ptr().cast(), bytes.len());
        libc::_exit(127)
    }
}

#[cfg(test)]
mod tests {
    use std::{os::fd::AsFd, time::Duration};

    use super::*;
    use crate::cgroup;

    fn image(program: &str, args: &[&str]) -> Image {
        let string = |text: &&str| CString::new(*text).unwrap();
        Image {
            program: string(&program),
            args: [&program].into_iter().chain(args).map(string).collect(),
            env: vec![c"A=b".into()],
        }
    }

    fn run(program: &str, args: &[&str], prepare: fn() -> io::Result<()>) -> io::Result<ExitStatus> {
        // SAFETY: what is passed here neither allocates nor frees.
        unsafe { bear(&image(program, args), None, &prepare) }?.wait()
    }

    #[test]
    fn codes_signals_and_the_environment_come_through() {
        let script = "[ \"$A\" = b ] && exit 3";
        assert_eq!(run("/bin/sh", &["-c", script], || Ok(())).unwrap().code(), Some(3));
        assert_eq!(run("/bin/sh", &["-c", "kill -9 $$"], || Ok(())).unwrap().signal(), Some(9));
        // SIGPIPE ends it, as it ends programs everywhere.
        assert_eq!(run("/bin/sh", &["-c", "kill -PIPE $$"], || Ok(())).unwrap().signal(), Some(13));
    }

    #[test]
    fn one_that_is_born_in_a_group_dies_with_it() {
        let name = format!("kata-test-{}", std::process::id());
        let mut path = None;
        let group = cgroup::nest(&name, |made| {
            path = Some(made);
            Ok(())
        });
        let Some(group) = group.unwrap() else { return }; // Nobody but root may.
        let sleep = image("/bin/sh", &["-c", "sleep 60 & wait"]);
        // SAFETY: what is passed here neither allocates nor frees.
        let newborn = unsafe { bear(&sleep, Some(group.as_fd()), &|| Ok(())) }.unwrap();
        let where_it_is = std::fs::read_to_string(format!("/proc/{}/cgroup", newborn.pid)).unwrap();
        assert!(where_it_is.contains(&name), "{where_it_is}");
        let path = path.unwrap();
        cgroup::kill(&path, Duration::from_secs(20)).unwrap();
        assert!(!path.exists());
        assert_eq!(newborn.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn what_fails_before_or_in_the_exec_is_told() {
        let missing = run("/no/such/program", &[], || Ok(())).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let refused = run("/bin/true", &[], || Err(io::Error::from_raw_os_error(libc::EBADF))).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EBADF));
    }
}

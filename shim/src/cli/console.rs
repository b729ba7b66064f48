//! Terminals: the caller's own, and new ones that are handed over through a socket as runc does it.

use std::{
    io::IoSlice,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use nix::{
    pty::{OpenptyResult, openpty},
    sys::{
        socket::{ControlMessage, MsgFlags, sendmsg},
        termios::{OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr},
    },
    unistd::ttyname,
};
use runtime::error::{Context, Error, Result};

use super::size::{self, Size};

/// Makes a terminal, hands its master to whoever listens at `socket`, and returns the slave. It passes on what it is
/// given: the terminal that minds what is typed is the guest's.
pub fn hand_over(socket: &Path, size: Option<Size>) -> Result<OwnedFd> {
    let connect = || format!("--console-socket {}", socket.display());
    let stream = UnixStream::connect(socket).with_context(connect)?;
    let OpenptyResult { master, slave } = openpty(None, None).context("make a terminal")?;
    make_raw(slave.as_fd())?;
    if let Some(size) = size {
        size::set(slave.as_fd(), size)?;
    }
    let name = ttyname(&slave).context("name the terminal")?;
    let text = [IoSlice::new(name.as_os_str().as_encoded_bytes())];
    let fds = [master.as_raw_fd()];
    let sent =
        sendmsg::<()>(stream.as_raw_fd(), &text, &[ControlMessage::ScmRights(&fds)], MsgFlags::empty(), None);
    sent.with_context(connect)?;
    Ok(slave)
}

/// The caller's own terminal, which passes on what is typed until this is dropped.
#[derive(Debug)]
pub struct Raw {
    terminal: OwnedFd,
    before: Termios,
}

impl Raw {
    /// Takes standard input, which must be a terminal.
    pub fn take() -> Result<Self> {
        let terminal = std::io::stdin().as_fd().try_clone_to_owned().context("standard input")?;
        if nix::unistd::isatty(&terminal) != Ok(true) {
            return Err(Error::invalid(
                "process.terminal is set, but standard input is no terminal: unset it, or use --detach and \
                 --console-socket",
            ));
        }
        let before = make_raw(terminal.as_fd())?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, SetArg::TCSADRAIN, &self.before); // It may have been hung up.
    }
}

fn make_raw(terminal: BorrowedFd<'_>) -> Result<Termios> {
    let before = tcgetattr(terminal).context("the terminal's settings")?;
    let mut raw = before.clone();
    cfmakeraw(&mut raw);
    raw.output_flags.remove(OutputFlags::OPOST);
    tcsetattr(terminal, SetArg::TCSANOW, &raw).context("the terminal's settings")?;
    Ok(before)
}

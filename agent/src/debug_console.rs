//! A shell of the guest's own, beside its containers, for people: each connection to
//! `protocols::guest::DEBUG_CONSOLE_PORT` is a terminal with one. Off unless the kernel command line asks for it.

use std::{ffi::CStr, io, os::fd::OwnedFd};

use nix::{
    fcntl::OFlag,
    libc,
    pty::{grantpt, posix_openpt, ptsname_r, unlockpt},
    spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn},
    sys::{signal::SigSet, stat::Mode},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};

use crate::stdio::AgentStreams;

/// The first that there is.
const SHELLS: [&CStr; 2] = [c"/bin/bash", c"/bin/sh"];
const ENVIRONMENT: [&CStr; 3] =
    [c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", c"HOME=/root", c"TERM=xterm"];
const NO_SHELL: &str = "this guest has no shell: neither /bin/bash nor /bin/sh is in its initrd or image\r\n";
/// What a terminal has at once.
const BLOCK: usize = 4096;

/// Runs a shell on a terminal of its own until it ends, or `connection` does.
pub async fn serve(mut connection: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let shell = SHELLS.into_iter().find(|shell| exists(shell));
    let Some(shell) = shell else {
        connection.write_all(NO_SHELL.as_bytes()).await?;
        connection.flush().await?;
        let _ = connection.read(&mut [0; BLOCK]).await; // The host closes when it has read that.
        return Ok(());
    };
    let streams = AgentStreams::terminal(start(shell)?)?;
    let (Some(mut output), Some(mut input)) = (streams.stdout, streams.stdin) else {
        return Err(io::Error::other("a terminal without its streams"));
    };
    let (mut from_host, mut to_host) = split(connection);
    let printed = async {
        let mut block = [0; BLOCK];
        loop {
            match output.read(&mut block).await? {
                0 => return Ok::<_, io::Error>(()),
                count => to_host.write_all(&block[..count]).await?,
            }
            to_host.flush().await?;
        }
    };
    let typed = async {
        let mut block = [0; BLOCK];
        loop {
            match from_host.read(&mut block).await? {
                0 => return Ok(()),
                count => input.write_all(&block[..count]).await?,
            }
        }
    };
    // When the terminal goes, the kernel hangs up on whatever still runs on it.
    tokio::select! {
        done = printed => done,
        done = typed => done,
    }
}

fn exists(shell: &CStr) -> bool {
    shell.to_str().is_ok_and(|path| std::path::Path::new(path).exists())
}

/// Starts it as the first of a session; the master of its terminal. Its end is the reaper's, as any orphan's.
fn start(shell: &CStr) -> io::Result<OwnedFd> {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let terminal = ptsname_r(&master)?;
    let mut actions = PosixSpawnFileActions::init()?;
    // The first of a session gets the terminal that it opens.
    actions.add_open(0, terminal.as_str(), OFlag::O_RDWR, Mode::empty())?;
    actions.add_dup2(0, 1)?;
    actions.add_dup2(0, 2)?;
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(
        PosixSpawnFlags::from_bits_retain(libc::POSIX_SPAWN_SETSID as _)
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK,
    )?;
    attributes.set_sigdefault(&SigSet::all())?;
    attributes.set_sigmask(&SigSet::empty())?;
    posix_spawn(shell, &actions, &attributes, &[shell], &ENVIRONMENT)?;
    Ok(master.into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{io::duplex, time::timeout};

    use super::*;

    const SOON: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_shell_answers_on_a_terminal_and_ends_the_connection() {
        let (mut host, guest) = duplex(1 << 16);
        let served = tokio::spawn(serve(guest));
        host.write_all(b"tty >&2; ps -o sid= -p $$ >/dev/null; echo $((40 + 2)); exit\n").await.unwrap();
        let mut text = String::new();
        timeout(SOON, host.read_to_string(&mut text)).await.expect("it ends").unwrap();
        assert!(text.contains("\r\n42\r\n") && text.contains("/dev/pts/"), "{text:?}");
        timeout(SOON, served).await.expect("it ends").unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_shell_ends_with_its_connection() {
        let (mut host, guest) = duplex(1 << 16);
        let served = tokio::spawn(serve(guest));
        host.write_all(b"echo pid=$(echo $$)=\n").await.unwrap();
        let mut text = String::new();
        let pid = timeout(SOON, async {
            loop {
                let mut block = [0; 256];
                let count = host.read(&mut block).await.unwrap();
                text.push_str(&String::from_utf8_lossy(&block[..count]));
                let number = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
                if let Some(pid) = text.split("pid=").filter_map(|rest| rest.split('=').next()).find(number) {
                    return pid.to_owned();
                }
            }
        });
        let pid = pid.await.expect("the shell answers");
        let alive =
            || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        assert!(alive());
        drop(host);
        timeout(SOON, served).await.expect("it ends").unwrap().unwrap();
        let gone = async {
            while alive() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(SOON, gone).await.expect("the shell ends");
    }
}

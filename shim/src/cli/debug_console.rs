//! `kata-runtime console`: a shell in the guest, beside its containers.

use std::{
    io::{self, BufRead, BufReader, IsTerminal, Read, Write, copy, stdin, stdout},
    net::Shutdown,
    os::unix::net::UnixStream,
    thread,
    time::Duration,
};

use clap::Args;
use runtime::{
    error::{Context, Error, Result},
    paths::Paths,
    sandbox::Wanted,
};

use super::{console::Raw, sandbox_socket};

/// What a terminal takes for the end of its input.
const END: [u8; 1] = [4];
/// Ctrl-], for a guest that answers no more.
const LEAVE: u8 = 0x1d;
/// From one time that this is typed to the next.
const AGAIN: Duration = Duration::from_millis(200);
/// Of the line that answers.
const LINE_LIMIT: u64 = 4096;

#[derive(Debug, Args)]
pub struct DebugConsole {
    /// A sandbox or one of its containers
    id: String,
}

impl DebugConsole {
    /// Ends with the shell, or when it is left.
    pub fn run(&self) -> Result<()> {
        let dir = sandbox_socket::find(&Paths::default(), &self.id)?;
        let dir = dir
            .ok_or_else(|| Error::not_found(format!("{}: there is no such sandbox or container", self.id)))?;
        let stream = sandbox_socket::ask(&dir, Wanted::Console)?;
        let mut from_guest = admitted(stream)?;
        let is_terminal = stdin().is_terminal();
        if is_terminal {
            eprintln!("Ctrl-] leaves the console");
        }
        let raw = is_terminal.then(Raw::take).transpose()?;
        let to_guest = from_guest.get_ref().try_clone().context("the console")?;
        // It waits for the keyboard, and ends with this process.
        thread::spawn(move || type_in(to_guest, is_terminal));
        let copied = copy(&mut from_guest, &mut stdout().lock()).context("the console");
        drop(raw);
        copied.map(drop)
    }
}

/// Waits until the guest is there; its words, when it is not.
fn admitted(stream: UnixStream) -> Result<BufReader<UnixStream>> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    (&mut stream).take(LINE_LIMIT).read_line(&mut line).context("the sandbox's answer")?;
    match line.trim_end() {
        "OK" => {
            stream.get_ref().set_read_timeout(None).context("the console")?;
            Ok(stream)
        }
        "" => Err(Error::unavailable("the sandbox ends")),
        line => Err(Error::precondition(line.strip_prefix("NO ").unwrap_or(line))),
    }
}

/// What is typed goes to the guest, as it comes.
fn type_in(mut guest: UnixStream, can_leave: bool) -> io::Result<()> {
    let mut bytes = [0; 4096];
    loop {
        match stdin().read(&mut bytes)? {
            0 => loop {
                // A terminal has no other end than this, and hears of it only while somebody reads from it.
                guest.write_all(&END)?;
                thread::sleep(AGAIN);
            },
            count if can_leave && bytes[..count].contains(&LEAVE) => return guest.shutdown(Shutdown::Both),
            count => guest.write_all(&bytes[..count])?,
        }
    }
}

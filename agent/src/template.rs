//! The guest as a template: it waits, with one thread beside the launcher, until a line of the host tells it that it is
//! a clone. Every clone starts in the middle of this wait.
//!
//! What must differ between clones is made here, before anything else of the agent lives: the kernel's randomness,
//! from which all that comes later draws, and the time of day. See `protocols::guest::TEMPLATE_WAKE`.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::AsFd,
};

use nix::{
    poll::{PollFd, PollFlags, poll},
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        time::{TimeVal, TimeValLike},
    },
};
use protocols::guest::{TEMPLATE_AWAKE, TEMPLATE_SERVE, TEMPLATE_TIME, TEMPLATE_WAKE};

use crate::{
    clock_and_entropy,
    error::{Context, Error, Result},
    options::{self, ServerAddress},
    pci,
};

/// More than this without a newline is no line of ours.
const LINE_LIMIT: usize = 1024;
/// For the few bytes of an answer; the host waits for them.
const ANSWER_DEADLINE_MS: u8 = 250;

/// What the host tells a clone.
#[derive(Debug, PartialEq)]
struct Wake {
    nonce: String,
    seed: Vec<u8>,
    rescan: bool,
    address: ServerAddress,
}

/// Gives back the line with which the host asked for a template, and waits on the serial port until this guest is told that it is a clone, and becomes one. Returns where it is to serve.
/// Blocks, as long as it takes.
pub fn wait(port: &File, asked: &str) -> Result<ServerAddress> {
    let mut lines = Lines::new(port)?;
    answer(port, asked)?;
    let mut woken = None;
    loop {
        let line = lines.next()?;
        if let Some(wake) = Wake::parse(&line) {
            let faults = become_a_clone(&wake);
            answer(port, format!("{TEMPLATE_AWAKE} {} {faults}", wake.nonce).trim_end())?;
            woken = Some(wake.address);
        } else if let Some(time) = time(&line) {
            clock_and_entropy::set_clock(time)?;
            answer(port, &line)?;
        } else if line == TEMPLATE_SERVE
            && let Some(address) = woken.take()
        {
            return Ok(address);
        }
        // Anything else is the end of an older conversation.
    }
}

/// The time that a line tells.
fn time(line: &str) -> Option<TimeVal> {
    let nanoseconds: i64 = line.strip_prefix(TEMPLATE_TIME)?.strip_prefix(' ')?.parse().ok()?;
    (nanoseconds > 0).then(|| TimeVal::microseconds(nanoseconds / 1000))
}

/// Returns what went wrong, in one line.
fn become_a_clone(wake: &Wake) -> String {
    let mut steps = vec![clock_and_entropy::reseed(&wake.seed)];
    if wake.rescan {
        steps.push(pci::rescan());
    }
    let faults: Vec<String> =
        steps.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect();
    faults.join("; ").replace('\n', " ")
}

impl Wake {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        if words.next() != Some(TEMPLATE_WAKE) {
            return None;
        }
        let nonce = words.next()?.to_owned();
        let seed = unhex(words.next()?)?;
        let rescan = words.next()? == "1";
        let address = options::parse_address(words.next()?)?;
        (words.next().is_none() && !seed.is_empty()).then_some(Self { nonce, seed, rescan, address })
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn answer(mut port: &File, line: &str) -> Result<()> {
    let line = format!("{line}\n");
    let mut rest = line.as_bytes();
    while !rest.is_empty() {
        match port.write(rest) {
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut ready = [PollFd::new(port.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut ready, ANSWER_DEADLINE_MS).context("answer the host")? == 0 {
                    return Ok(()); // It has hung up, and the next line is waited for.
                }
            }
            Err(error) => return Err(error).context("answer the host"),
        }
    }
    Ok(())
}

/// Lines from the port, of which there may be none for a day.
struct Lines<'p> {
    port: &'p File,
    changes: Epoll,
    buffer: Vec<u8>,
}

impl<'p> Lines<'p> {
    fn new(port: &'p File) -> Result<Self> {
        let changes = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll")?;
        // A port without a host is always readable, with an end of file: only changes are of interest.
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLET;
        changes.add(port, EpollEvent::new(interest, 0)).context("watch the serial port")?;
        Ok(Self { port, changes, buffer: Vec::new() })
    }

    fn next(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.buffer.len() > LINE_LIMIT {
                self.buffer.clear();
            }
            // Byte by byte: what follows the last line belongs to others.
            let mut byte = [0];
            match (&mut &*self.port).read(&mut byte) {
                Ok(0) => self.change()?,
                Ok(_) => self.buffer.extend(byte),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.change()?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::from(error).context("read the serial port")),
            }
        }
    }

    fn change(&self) -> Result<()> {
        match self.changes.wait(&mut [EpollEvent::empty()], EpollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(errno) => Err(Error::from(errno).context("wait for the host")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_line_is_read_whole_or_not_at_all() {
        let line = "kata-wake-1 00ff 0a0b 1 vsock://-1:1024";
        let wake = Wake::parse(line).unwrap();
        assert_eq!((wake.nonce.as_str(), wake.seed.as_slice(), wake.rescan), ("00ff", &[10, 11][..], true));
        assert_eq!(wake.address, ServerAddress::Vsock { port: 1024 });
        for broken in [
            "kata-wake-2 00ff 0a0b 1 vsock://-1:1024",
            "kata-wake-1 00ff  1 vsock://-1:1024",
            "kata-wake-1 00ff 0x 1 vsock://-1:1024",
            "kata-wake-1 00ff 0a 1 nowhere",
            "kata-wake-1 00ff 0a 1 vsock://-1:1024 more",
            "kata-wake-1",
        ] {
            assert_eq!(Wake::parse(broken), None, "{broken}");
        }
        assert_eq!(time("kata-time-1 1700000000000001000"), Some(TimeVal::new(1_700_000_000, 1)));
        assert_eq!((time("kata-time-1 -1"), time("kata-time-1"), time("kata-time-1 x")), (None, None, None));
    }
}

//! One conversation with the kernel over rtnetlink: changes, of which many go in one message, dumps, and news.
//!
//! The kernel answers within the call that asks, so this blocks for no longer than the change itself takes. A socket is of
//! the network namespace of the thread that opens it.

use std::{
    io::IoSlice,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use netlink_packet_core::{
    Emitable, ErrorBuffer, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkMessage,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendmsg,
            setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike},
    },
};

use crate::error::{Context, Error, Result};

/// For an answer, which is there as soon as the request is made.
const PATIENCE_S: i64 = 5;
/// The kernel fills it as far as it can with each part of a dump.
const BUFFER: usize = 32 << 10;
/// Changes in one message: their answers must fit the socket's buffer.
const BATCH: usize = 64;
/// A dump that is disturbed by changes is begun again this often.
const DUMP_ATTEMPTS: usize = 5;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Something to be changed.
#[derive(Clone)]
pub struct Change {
    pub message: RouteNetlinkMessage,
    /// `NLM_F_CREATE` and the like.
    pub flags: u16,
    /// For the error.
    pub what: String,
}

pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    pub fn open() -> Result<Self> {
        Self::of_groups(0)
    }

    /// One that hears of every change of a link.
    pub fn hearing_of_links() -> Result<Self> {
        Self::of_groups(libc::RTMGRP_LINK as u32)
    }

    fn of_groups(groups: u32) -> Result<Self> {
        let fd =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
                .context("open a netlink socket")?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups)).context("bind a netlink socket")?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE_S))
            .context("the deadline of a netlink socket")?;
        Ok(Self { fd, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Makes all changes, in their order, also those after one that fails; tells how each went.
    pub fn try_all(&mut self, changes: Vec<Change>) -> Result<Vec<(String, Result<(), Errno>)>> {
        let mut outcomes = Vec::with_capacity(changes.len());
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            let first = self.sequence + 1;
            let mut bytes = Vec::new();
            let mut names = Vec::new();
            for change in changes.by_ref().take(BATCH) {
                self.add(&mut bytes, change.message, change.flags | NLM_F_ACK);
                names.push(change.what);
            }
            self.send(&bytes)?;
            let mut answers: Vec<Option<Result<(), Errno>>> = vec![None; names.len()];
            while answers.iter().any(Option::is_none) {
                self.receive(|kind, _, sequence, payload| {
                    let place = answers.get_mut(sequence.wrapping_sub(first) as usize);
                    if let (NLMSG_ERROR, Some(place)) = (kind, place) {
                        *place = Some(outcome(payload)?);
                    }
                    Ok(())
                })?;
            }
            outcomes.extend(names.into_iter().zip(answers.into_iter().flatten()));
        }
        Ok(outcomes)
    }

    /// The same, where none may fail.
    pub fn all(&mut self, changes: Vec<Change>) -> Result<()> {
        for (what, outcome) in self.try_all(changes)? {
            outcome.context(what)?;
        }
        Ok(())
    }

    /// What the kernel has, as `read` understands it.
    pub fn dump<T>(
        &mut self,
        request: &RouteNetlinkMessage,
        read: impl Fn(&[u8]) -> Result<Option<T>>,
    ) -> Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut bytes = Vec::new();
            self.add(&mut bytes, request.clone(), NLM_F_DUMP);
            self.send(&bytes)?;
            let asked = self.sequence;
            let (mut found, mut done, mut disturbed) = (Vec::new(), false, false);
            while !done {
                self.receive(|kind, flags, sequence, payload| {
                    if sequence != asked {
                        return Ok(());
                    }
                    disturbed |= flags & NLM_F_DUMP_INTR != 0;
                    match kind {
                        NLMSG_DONE => done = true,
                        NLMSG_ERROR => outcome(payload)?.context("ask the kernel for its network")?,
                        _ => found.extend(read(payload)?),
                    }
                    Ok(())
                })?;
            }
            if !disturbed {
                return Ok(found);
            }
        }
        Err(Error::internal("the network changes too fast to be read"))
    }

    /// Waits for news and drops them: false if there are none until `deadline`.
    pub fn news_before(&mut self, deadline: Instant) -> Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        let mut ready = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, left) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::from(errno).context("wait for news of links")),
        }
        loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                // Lost news are news as well.
                Ok(_) | Err(Errno::EINTR | Errno::ENOBUFS) => {}
                Err(Errno::EAGAIN) => return Ok(true),
                Err(errno) => return Err(Error::from(errno).context("read news of links")),
            }
        }
    }

    fn add(&mut self, bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.emit(&mut bytes[start..]);
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        let kernel = NetlinkAddr::new(0, 0);
        let sent =
            sendmsg(self.fd.as_raw_fd(), &[IoSlice::new(bytes)], &[], MsgFlags::empty(), Some(&kernel));
        sent.map(drop).context("ask the kernel")
    }

    /// Gives (type, flags, sequence, payload) of each message of one datagram.
    fn receive(&mut self, mut take: impl FnMut(u16, u16, u32, &[u8]) -> Result<()>) -> Result<()> {
        let length = match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC) {
            Err(Errno::EINTR) => return Ok(()),
            Err(Errno::EAGAIN) => {
                return Err(Error::internal(format!("the kernel is silent for {PATIENCE_S} s")));
            }
            received => received.context("read the kernel's answer")?,
        };
        let mut rest =
            self.buffer.get(..length).ok_or_else(|| malformed("is longer than a page of its own"))?;
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(malformed)?;
            take(message.message_type(), message.flags(), message.sequence_number(), message.payload())?;
            rest = rest.get((message.length() as usize).next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }
}

/// What a message of the kernel is when it cannot be read.
pub fn malformed(why: impl std::fmt::Display) -> Error {
    Error::internal(format!("a message of the kernel {why}"))
}

fn outcome(payload: &[u8]) -> Result<Result<(), Errno>> {
    let answer = ErrorBuffer::new_checked(payload).map_err(malformed)?;
    Ok(match answer.code() {
        None => Ok(()),
        Some(code) => Err(Errno::from_raw(code.get().saturating_abs())),
    })
}

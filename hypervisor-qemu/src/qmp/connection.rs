//! The task that owns the stream: writes commands with their descriptors, hands answers to who waits for them.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, IoSlice},
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::{Arc, OnceLock},
};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use runtime::error::{Context, Error, Result};
use serde_json::{Value, json};
use tokio::{
    io::Interest,
    net::UnixStream,
    sync::{broadcast, mpsc, oneshot},
};

use super::message::{Event, Message};

/// No answer that we ask for comes near this.
const LINE_LIMIT: usize = 1 << 20;
/// Commands that may be under way at once; more wait in the queue.
const PENDING_LIMIT: usize = 256;

type Reply = oneshot::Sender<Result<Value>>;

/// A command on its way to QEMU.
#[derive(Debug)]
pub(super) struct Request {
    pub command: &'static str,
    pub arguments: Value,
    pub fds: Vec<OwnedFd>,
    pub reply: Reply,
}

struct Outgoing {
    bytes: Vec<u8>,
    written: usize,
    /// Travel with the first byte.
    fds: Vec<OwnedFd>,
}

pub(super) struct Connection {
    stream: UnixStream,
    /// What was read and is no whole line yet.
    inbox: Vec<u8>,
    outbox: VecDeque<Outgoing>,
    pending: HashMap<u64, Reply>,
    next_id: u64,
    events: broadcast::Sender<Event>,
    end: Arc<OnceLock<String>>,
}

impl Connection {
    pub(super) fn new(
        stream: UnixStream,
        events: broadcast::Sender<Event>,
        end: Arc<OnceLock<String>>,
    ) -> Self {
        let (inbox, outbox, pending) = (Vec::new(), VecDeque::new(), HashMap::new());
        Self { stream, inbox, outbox, pending, next_id: 1, events, end }
    }

    /// Waits for the first message, which must be QEMU's greeting; returns its version.
    pub(super) async fn greeting(&mut self) -> Result<String> {
        loop {
            if let Some(line) = self.take_line() {
                return match Message::parse(&line)? {
                    Message::Greeting { version } => Ok(version),
                    other => Err(Error::internal(format!("qemu begins with {other:?}"))),
                };
            }
            self.stream.readable().await.context("wait for qemu")?;
            self.read()?;
        }
    }

    /// Serves requests until every handle is dropped or the stream ends, and then fails what is still pending.
    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let reason = match self.serve(&mut requests).await {
            Ok(()) => "the connection was closed".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::debug!(reason, "qmp connection ended");
        // Before the channels close, so that who sees them closed also sees why.
        let _ = self.end.set(reason.clone()); // Set by nobody else.
        for (_, reply) in self.pending.drain() {
            let _ = reply.send(Err(Error::unavailable(reason.clone()))); // The caller may have left.
        }
    }

    async fn serve(&mut self, requests: &mut mpsc::Receiver<Request>) -> Result<()> {
        loop {
            while let Some(line) = self.take_line() {
                self.dispatch(&line)?;
            }
            let interest = match self.outbox.is_empty() {
                true => Interest::READABLE,
                false => Interest::READABLE | Interest::WRITABLE,
            };
            // Both are cancel-safe: neither takes anything before it is chosen.
            tokio::select! {
                request = requests.recv(), if self.pending.len() < PENDING_LIMIT => match request {
                    Some(request) => self.enqueue(request)?,
                    None => return Ok(()),
                },
                ready = self.stream.ready(interest) => {
                    let ready = ready.context("wait for qemu")?;
                    if ready.is_writable() {
                        self.write()?;
                    }
                    if ready.is_readable() {
                        self.read()?;
                    }
                }
            }
        }
    }

    fn enqueue(&mut self, request: Request) -> Result<()> {
        if request.reply.is_closed() {
            return Ok(()); // The caller left before anything was written.
        }
        let id = self.next_id;
        self.next_id += 1;
        let mut message = json!({ "execute": request.command, "id": id });
        // QEMU takes no null, and most commands have no arguments at all.
        if request.arguments.as_object().is_some_and(|arguments| !arguments.is_empty()) {
            message["arguments"] = request.arguments;
        }
        let mut bytes = serde_json::to_vec(&message).context("encode a command")?;
        tracing::trace!(command = %String::from_utf8_lossy(&bytes), "to qemu");
        bytes.push(b'\n');
        self.pending.insert(id, request.reply);
        self.outbox.push_back(Outgoing { bytes, written: 0, fds: request.fds });
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        while let Some(next) = self.outbox.front_mut() {
            let raw: Vec<RawFd> = next.fds.iter().map(AsRawFd::as_raw_fd).collect();
            let rights = [ControlMessage::ScmRights(&raw)];
            let control = if raw.is_empty() { &[][..] } else { &rights[..] };
            let bytes = [IoSlice::new(&next.bytes[next.written..])];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let fd = self.stream.as_raw_fd();
            let sent = self.stream.try_io(Interest::WRITABLE, || {
                sendmsg::<()>(fd, &bytes, control, flags, None).map_err(io::Error::from)
            });
            match sent {
                Ok(sent) => {
                    next.written += sent;
                    next.fds.clear();
                    if next.written == next.bytes.len() {
                        self.outbox.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("write to qemu"),
            }
        }
        Ok(())
    }

    fn read(&mut self) -> Result<()> {
        let mut buffer = [0; 16 << 10];
        match self.stream.try_read(&mut buffer) {
            Ok(0) => Err(Error::unavailable("qemu closed the connection")),
            Ok(count) => {
                self.inbox.extend_from_slice(&buffer[..count]);
                if self.inbox.len() > LINE_LIMIT && !self.inbox.contains(&b'\n') {
                    return Err(Error::internal(format!(
                        "qemu sent more than {LINE_LIMIT} bytes in one line"
                    )));
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                Err(Error::unavailable("qemu closed the connection"))
            }
            Err(error) => Err(error).context("read from qemu"),
        }
    }

    fn take_line(&mut self) -> Option<Vec<u8>> {
        let end = self.inbox.iter().position(|byte| *byte == b'\n')?;
        let mut line: Vec<u8> = self.inbox.drain(..=end).collect();
        line.truncate(line.trim_ascii_end().len());
        Some(line)
    }

    fn dispatch(&mut self, line: &[u8]) -> Result<()> {
        tracing::trace!(message = %String::from_utf8_lossy(line), "from qemu");
        match Message::parse(line)? {
            Message::Event(event) => {
                let _ = self.events.send(event); // Nobody may be listening.
            }
            Message::Answer { id, result } => match self.pending.remove(&id) {
                Some(reply) => {
                    let _ = reply.send(result); // The caller may have left.
                }
                None => return Err(Error::internal(format!("qemu answers {id}, which was not asked"))),
            },
            Message::Greeting { .. } => return Err(Error::internal("qemu greets twice")),
        }
        Ok(())
    }
}

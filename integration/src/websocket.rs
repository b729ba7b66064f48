//! As much of a WebSocket client as it takes to use the streams of CRI: one connection, binary messages.

use std::io::{self, Read, Write};

/// An open connection.
pub struct WebSocket<S> {
    stream: S,
}

const CONTINUED: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;

impl<S: Read + Write> WebSocket<S> {
    /// Asks the server at the other end of `stream` for `path`, in `protocol`.
    pub fn open(mut stream: S, host: &str, path: &str, protocol: &str) -> io::Result<Self> {
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: {protocol}\r\nOrigin: http://{host}\r\n\r\n"
        )?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            answer.extend(byte);
        }
        let answer = String::from_utf8_lossy(&answer);
        match answer.starts_with("HTTP/1.1 101 ") {
            true => Ok(Self { stream }),
            false => Err(io::Error::other(format!("no switch of protocols: {answer}"))),
        }
    }

    /// Sends one message.
    pub fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let length = message.len();
        let mut frame = vec![0x80 | BINARY];
        // A mask of zeros is one, too.
        match length {
            0..126 => frame.push(0x80 | length as u8),
            126..65536 => {
                frame.push(0x80 | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(message);
        self.stream.write_all(&frame)
    }

    /// The next message; `None` at the end.
    pub fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let mut head = [0; 2];
            match self.stream.read_exact(&mut head) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                read => read?,
            }
            let mut long = [0; 8];
            let length = match head[1] {
                126 => {
                    self.stream.read_exact(&mut long[6..])?;
                    u64::from_be_bytes(long)
                }
                127 => {
                    self.stream.read_exact(&mut long)?;
                    u64::from_be_bytes(long)
                }
                short => short.into(),
            };
            let mut message = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            self.stream.read_exact(&mut message)?;
            match head[0] & 0x0f {
                CONTINUED | BINARY => return Ok(Some(message)),
                CLOSE => return Ok(None),
                _ => {} // A ping.
            }
        }
    }
}

//! Lines on a stream whose rest belongs to somebody else.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// A line longer than this is none of the channel's.
const LINE_LIMIT: usize = 128;

/// Reads up to a newline and not a byte further; of a line that is too long, its end.
pub(crate) async fn read_line(port: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut line = Vec::with_capacity(LINE_LIMIT);
    loop {
        match port.read_u8().await? {
            b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
            byte => line.push(byte),
        }
        if line.len() == LINE_LIMIT {
            line.drain(..LINE_LIMIT / 2);
        }
    }
}

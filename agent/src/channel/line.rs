//! Lines on a stream whose rest belongs to somebody else.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// A line longer than this is none of the channel's. Two ids of up to 255 characters are in some.
pub(crate) const LINE_LIMIT: usize = 640;

/// Reads up to a newline and not a byte further; of a line that is too long, its end.
pub(crate) async fn read_line(port: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut line = Vec::new();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_with_an_engines_long_ids_is_read_whole() {
        let line = format!("kata-stream-1 stdout {} {}", "c".repeat(255), "e".repeat(255));
        let sent = format!("{line}\nrest");
        let mut port = sent.as_bytes();
        assert_eq!(read_line(&mut port).await.unwrap(), line);
        assert_eq!(port, b"rest");
    }

    #[tokio::test]
    async fn of_noise_without_end_only_the_end_is_kept() {
        let sent = format!("{}HELLO\n", "x".repeat(100_000));
        let line = read_line(&mut sent.as_bytes()).await.unwrap();
        assert!(line.len() < LINE_LIMIT && line.ends_with("HELLO"), "{line}");
    }
}

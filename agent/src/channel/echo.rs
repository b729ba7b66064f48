//! Raw streams on a port of their own, for tests and the bench of the channel; see `protocols::guest::PARAM_ECHO_PORT`.
//!
//! A stream begins with a line that says what is done with the rest:
//!
//! - `echo`: it is sent back;
//! - `sink <bytes>`: so many are read, and a line `<bytes> <CRC-32 in hexadecimal>` is sent back;
//! - `source <bytes>`: so many bytes of [`pattern`] are sent;
//! - `drain <bytes>`, `pour <bytes>`: the same without sum and pattern, to measure what the channel takes and gives.
//!
//! Lengths are told beforehand because not every channel can close one direction.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::line::read_line;

/// More than any channel takes at once.
const BLOCK: usize = 128 << 10;
/// Odd, so that no two words of a pattern are the same.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Does what the first line of a stream says.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<()> {
    let line = read_line(&mut stream).await?;
    let (mode, length) = line.split_once(' ').unwrap_or((&line, "0"));
    let length: u64 = length.parse().map_err(|_| unknown(&line))?;
    match mode {
        "echo" => echo(stream).await,
        "sink" => {
            let mut sum = crc32fast::Hasher::new();
            read(&mut stream, length, |bytes| sum.update(bytes)).await?;
            answer(stream, &format!("{length} {:08x}\n", sum.finalize())).await
        }
        "drain" => {
            read(&mut stream, length, |_| {}).await?;
            answer(stream, &format!("{length}\n")).await
        }
        "source" => send(stream, length, pattern).await,
        "pour" => send(stream, length, |_, _| {}).await,
        _ => Err(unknown(&line)),
    }
}

/// Fills `bytes` with what stands from `offset` on, a multiple of eight: words that count up in large steps.
pub fn pattern(offset: u64, bytes: &mut [u8]) {
    let mut word = (offset / 8).wrapping_mul(STEP);
    for place in bytes.chunks_mut(8) {
        place.copy_from_slice(&word.to_le_bytes()[..place.len()]);
        word = word.wrapping_add(STEP);
    }
}

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    loop {
        let length = stream.read(&mut block).await?;
        if length == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&block[..length]).await?;
        stream.flush().await?;
    }
}

async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    length: u64,
    mut each: impl FnMut(&[u8]),
) -> io::Result<()> {
    let (mut block, mut left) = (vec![0; BLOCK], length);
    while left > 0 {
        let most = left.min(BLOCK as u64) as usize;
        let length = stream.read(&mut block[..most]).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        each(&block[..length]);
        left -= length as u64;
    }
    Ok(())
}

async fn send(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    length: u64,
    fill: impl Fn(u64, &mut [u8]),
) -> io::Result<()> {
    let (mut block, mut sent) = (vec![0; BLOCK], 0);
    while sent < length {
        let block = &mut block[..(length - sent).min(BLOCK as u64) as usize];
        fill(sent, block);
        stream.write_all(block).await?;
        sent += block.len() as u64;
    }
    stream.flush().await?;
    linger(stream).await
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, line: &str) -> io::Result<()> {
    stream.write_all(line.as_bytes()).await?;
    stream.flush().await?;
    linger(stream).await
}

/// Leaves closing to the host: `vhost-device-vsock` drops what it has not yet delivered when the guest closes.
async fn linger(mut stream: impl AsyncRead + Unpin) -> io::Result<()> {
    while stream.read(&mut [0; 64]).await? > 0 {}
    Ok(())
}

fn unknown(line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{line:?} says not what to do with the stream"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes back for these bytes, until the guest has nothing more to say.
    async fn said(sent: &[u8], expected: usize) -> Vec<u8> {
        let (mut host, guest) = tokio::io::duplex(1 << 20);
        let served = tokio::spawn(serve(guest));
        host.write_all(sent).await.unwrap();
        let mut back = vec![0; expected];
        host.read_exact(&mut back).await.unwrap();
        drop(host);
        served.await.unwrap().unwrap();
        back
    }

    #[tokio::test]
    async fn a_line_says_what_is_done() {
        assert_eq!(said(b"echo\nabc\nd", 5).await, b"abc\nd");
        // The check value that every description of CRC-32 gives.
        assert_eq!(said(b"sink 9\n123456789", 11).await, b"9 cbf43926\n");
        assert_eq!(said(b"drain 3\nxyz", 2).await, b"3\n");
        assert_eq!(said(b"pour 3\n", 3).await, [0; 3]);
        let mut whole = vec![0; 300_001];
        pattern(0, &mut whole);
        assert!(said(b"source 300001\n", whole.len()).await == whole);
    }

    #[tokio::test]
    async fn a_line_that_says_nothing_known_ends_the_stream() {
        for line in ["shout\n", "sink x\n", "source -1\n", "\n"] {
            let (mut host, guest) = tokio::io::duplex(1 << 10);
            host.write_all(line.as_bytes()).await.unwrap();
            assert_eq!(serve(guest).await.unwrap_err().kind(), io::ErrorKind::InvalidInput, "{line}");
        }
    }

    #[test]
    fn a_pattern_does_not_depend_on_where_it_is_cut() {
        let mut whole = [0; 100];
        pattern(0, &mut whole);
        let mut rest = [0; 60];
        pattern(40, &mut rest);
        assert_eq!(whole[40..], rest);
        assert_ne!(whole[..8], whole[8..16]);
    }
}

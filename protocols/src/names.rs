//! What goes over a connection of `protocols::guest::PORT_NAMES`: questions to a name server, and its answers.
//!
//! A frame is four bytes of length of what follows, most significant first; four bytes of number, whose highest bit tells
//! that the question came by TCP; and the message, as it is in UDP. Answers have the number of their question, and come in
//! any order or not at all.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Of a message.
pub const LONGEST: usize = 65535;
const NUMBER: usize = 4;
const BY_TCP: u32 = 1 << 31;

/// A question or its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Below 2³¹.
    pub number: u32,
    pub by_tcp: bool,
    pub message: Vec<u8>,
}

impl Frame {
    /// Not cancel-safe.
    pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let length = from.read_u32().await? as usize;
        if !(NUMBER..=NUMBER + LONGEST).contains(&length) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
        }
        let number = from.read_u32().await?;
        let mut message = vec![0; length - NUMBER];
        from.read_exact(&mut message).await?;
        Ok(Self { number: number & !BY_TCP, by_tcp: number & BY_TCP != 0, message })
    }

    /// Not cancel-safe.
    pub async fn write(&self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let number = self.number | if self.by_tcp { BY_TCP } else { 0 };
        let mut frame = Vec::with_capacity(2 * NUMBER + self.message.len());
        frame.extend(((NUMBER + self.message.len()) as u32).to_be_bytes());
        frame.extend(number.to_be_bytes());
        frame.extend(&self.message);
        to.write_all(&frame).await?;
        to.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_is_read_as_it_was_written_and_nonsense_is_refused() {
        for by_tcp in [false, true] {
            let frame = Frame { number: 77, by_tcp, message: b"who".to_vec() };
            let mut bytes = Vec::new();
            frame.write(&mut bytes).await.unwrap();
            assert_eq!(Frame::read(&mut bytes.as_slice()).await.unwrap(), frame);
        }
        for length in [0u32, 3, 65540, u32::MAX] {
            let bytes = [&length.to_be_bytes()[..], &[0; 8]].concat();
            let error = Frame::read(&mut bytes.as_slice()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{length}");
        }
    }
}

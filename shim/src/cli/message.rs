//! What a stand-in and its server say to each other: eight bytes each, over the socket that they share.

use std::array;

/// Of every message.
pub const LENGTH: usize = 8;

/// One message: a kind in the first byte, a number in the last four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// From the server: the process is known, and watched.
    Attended,
    /// From the server: the process has ended, with this code.
    Exited(u32),
    /// From the stand-in: it was sent this signal.
    Signal(u32),
    /// From the stand-in: its terminal has this size.
    Resize { rows: u16, columns: u16 },
}

impl Message {
    pub fn encode(self) -> [u8; LENGTH] {
        let (kind, number) = match self {
            Self::Attended => (1, 0),
            Self::Exited(code) => (2, code),
            Self::Signal(number) => (3, number),
            Self::Resize { rows, columns } => (4, u32::from(rows) << 16 | u32::from(columns)),
        };
        let number: [u8; 4] = u32::to_be_bytes(number);
        array::from_fn(|at| match at {
            0 => kind,
            4.. => number[at - 4],
            _ => 0,
        })
    }

    /// `None` for what no message of ours looks like.
    pub fn decode(bytes: [u8; LENGTH]) -> Option<Self> {
        let [kind, _, _, _, a, b, c, d] = bytes;
        let number = u32::from_be_bytes([a, b, c, d]);
        match kind {
            1 => Some(Self::Attended),
            2 => Some(Self::Exited(number)),
            3 => Some(Self::Signal(number)),
            4 => Some(Self::Resize { rows: (number >> 16) as u16, columns: number as u16 }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        for message in [
            Message::Attended,
            Message::Exited(137),
            Message::Signal(15),
            Message::Resize { rows: 65535, columns: 80 },
        ] {
            assert_eq!(Message::decode(message.encode()), Some(message));
        }
        assert_eq!(Message::decode([9; LENGTH]), None);
    }
}

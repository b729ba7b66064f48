//! What a stand-in and its server say to each other over the socket that they share: a line that names the process, and then
//! eight bytes each.

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

/// Two ids and what is around them.
pub const HELLO_LIMIT: u64 = 600;

/// The first line of a connection: whose stand-in it is, and its pid.
pub fn hello(container: &str, exec: Option<&str>, pid: u32) -> String {
    format!("{container} {} {pid}\n", exec.unwrap_or_default())
}

/// What [`hello`] has said.
pub fn heard(line: &str) -> Option<(&str, Option<&str>, u32)> {
    let mut words = line.strip_suffix('\n')?.splitn(3, ' ');
    let (container, exec, pid) = (words.next()?, words.next()?, words.next()?.parse().ok()?);
    Some((container, Some(exec).filter(|exec| !exec.is_empty()), pid))
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

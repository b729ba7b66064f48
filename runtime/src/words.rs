//! What somebody says whom nobody trusts, a helper or a guest: cut into printable lines of bounded length, and the last of
//! them kept within bounds. They end up in logs, error messages and terminals.

use std::collections::VecDeque;

/// A longer line becomes several.
const LINE_LIMIT: usize = 1000;

/// Cuts bytes into lines; empty ones are dropped.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes more bytes, and gives `each` line that they end.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(String)) {
        for byte in bytes {
            if *byte == b'\n' || self.partial.len() == LINE_LIMIT {
                self.finish(&mut each);
            }
            if *byte != b'\n' {
                self.partial.push(*byte);
            }
        }
    }

    /// Gives `each` what was said without an end.
    pub fn finish(&mut self, mut each: impl FnMut(String)) {
        let line = printable(&self.partial);
        self.partial.clear();
        if !line.is_empty() {
            each(line);
        }
    }
}

/// The last of what was said.
#[derive(Debug)]
pub(crate) struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
    most_lines: usize,
    most_bytes: usize,
}

impl Tail {
    /// Keeps so many lines, and of their bytes no more than so many.
    pub fn new(most_lines: usize, most_bytes: usize) -> Self {
        Self { lines: VecDeque::new(), bytes: 0, most_lines, most_bytes }
    }

    pub fn push(&mut self, line: String) {
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > self.most_lines || self.bytes > self.most_bytes {
            let Some(gone) = self.lines.pop_front() else { return };
            self.bytes -= gone.len();
        }
    }

    pub fn contains(&self, line: &str) -> bool {
        self.lines.iter().any(|kept| kept == line)
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }

    /// The last `most` of them as one line.
    pub fn joined(&self, most: usize) -> String {
        let skipped = self.lines.len().saturating_sub(most);
        Vec::from_iter(self.lines.iter().skip(skipped).map(String::as_str)).join(" | ")
    }
}

/// Text without characters that make a terminal do anything but print from left to right.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).replace('\t', " ");
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    text.chars().filter(|c| !steers(*c)).collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut said) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.push(piece, |line| said.push(line));
        }
        lines.finish(|line| said.push(line));
        said
    }

    #[test]
    fn what_steers_a_terminal_is_gone_and_lines_end_somewhere() {
        let endless = vec![b'a'; 5 * LINE_LIMIT + 1];
        let said = lines(&[&endless, b"\x1b[2J\xff\xfe\x00\r\n\n\n", b"one\tt", b"wo\r\nno end"]);
        assert_eq!(said.len(), 8, "{said:?}");
        assert_eq!(said[6..], ["one two", "no end"]);
        assert_eq!(said[5], "a[2J\u{fffd}\u{fffd}");
        assert_eq!(lines(&["\u{202e}gnp.exe\u{2066}".as_bytes()]), ["gnp.exe"]);
    }

    #[test]
    fn no_more_is_kept_than_may_be() {
        let mut tail = Tail::new(3, 10);
        for line in ["1", "22", "333", "4444"] {
            tail.push(line.into());
        }
        assert_eq!(tail.lines(), ["22", "333", "4444"]);
        assert_eq!((tail.joined(2), tail.joined(9)), ("333 | 4444".into(), "22 | 333 | 4444".into()));
        tail.push("55555".into());
        assert_eq!(tail.lines(), ["4444", "55555"]);
        tail.push("x".repeat(11));
        assert_eq!(tail.lines(), [""; 0]);
    }
}

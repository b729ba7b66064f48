//! The table of `docs/task-api.md`: call × state -> answer.

use std::fmt;

/// One line.
#[derive(Debug, Clone)]
pub struct Row {
    pub call: String,
    pub state: String,
    pub ours: Answer,
    /// The reference's answer, where it is another one.
    pub runc: Option<Answer>,
    /// Why, if so.
    pub why: String,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} when {}", self.call, self.state)
    }
}

/// A code by its gRPC name, and what it says: words of an error, or the fact that a success carries. `WAITS` is no
/// answer for as long as nothing happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub code: String,
    pub words: String,
}

impl Answer {
    pub fn new(code: impl Into<String>, words: impl Into<String>) -> Self {
        Self { code: code.into(), words: words.into() }
    }

    fn parse(cell: &str) -> Self {
        let cell = cell.trim_matches('`');
        match cell.split_once(": ") {
            Some((code, words)) => Self::new(code, words),
            None => Self::new(cell, ""),
        }
    }

    /// Whether `given` is this answer. `…` in a table stands for any text.
    pub fn matches(&self, given: &Answer) -> bool {
        let mut pieces = self.words.split('…');
        let Some(mut rest) = given.words.strip_prefix(pieces.next().unwrap_or_default()) else {
            return false;
        };
        let mut pieces = pieces.peekable();
        let mut open = false;
        while let Some(piece) = pieces.next() {
            let place = match pieces.peek() {
                Some(_) => rest.find(piece),
                None => rest.ends_with(piece).then(|| rest.len() - piece.len()),
            };
            let Some(place) = place else { return false };
            rest = &rest[place + piece.len()..];
            open = true;
        }
        self.code == given.code && (rest.is_empty() || open && self.words.ends_with('…'))
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.words.as_str() {
            "" => f.write_str(&self.code),
            words => write!(f, "{}: {words}", self.code),
        }
    }
}

/// Every row of the table in the docs.
pub fn rows() -> Vec<Row> {
    parse(include_str!("../../../docs/task-api.md"))
}

/// The lines of five cells whose first is a call.
fn parse(text: &str) -> Vec<Row> {
    text.lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|line| line.split(" | ").map(str::trim).collect::<Vec<_>>())
        .filter(|cells| cells.len() == 5 && cells[0] != "call" && !cells[0].starts_with('-'))
        .map(|cells| {
            let runc = (!cells[3].is_empty()).then(|| Answer::parse(cells[3]));
            assert_eq!(runc.is_some(), !cells[4].is_empty(), "a difference has a reason: {cells:?}");
            Row {
                call: cells[0].into(),
                state: cells[1].into(),
                ours: Answer::parse(cells[2]),
                runc,
                why: cells[4].into(),
            }
        })
        .collect()
}

#[test]
fn answers_match_word_by_word_and_with_gaps() {
    for (table, given, expected) in [
        ("OK", "OK", true),
        ("OK", "OK: more", false),
        ("UNKNOWN: cannot x", "UNKNOWN: cannot x", true),
        ("UNKNOWN: cannot x", "NOT_FOUND: cannot x", false),
        ("UNKNOWN: cannot x…", "UNKNOWN: cannot x at all", true),
        ("UNKNOWN: …x…", "UNKNOWN: cannot x at all", true),
        ("UNKNOWN: … all", "UNKNOWN: cannot x at all", true),
        ("UNKNOWN: …y", "UNKNOWN: cannot x", false),
    ] {
        assert_eq!(Answer::parse(table).matches(&Answer::parse(given)), expected, "{table} {given}");
    }
}

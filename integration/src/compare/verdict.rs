//! Same or not: one row's two outcomes against what is known of it. Pure.

use std::collections::HashMap;

use super::{row::Row, session::Kind};

/// What came of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Same,
    /// They differ, and the row says why.
    Known,
    /// They differ, and nobody said so.
    Differs,
    /// They are said to differ, and do not.
    Vanished,
    /// Only one runtime was asked.
    Single,
}

impl Verdict {
    /// Whether it calls for somebody.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Differs | Self::Vanished)
    }
}

/// What two runtimes made of one thing, side by side.
#[derive(Debug, Clone)]
pub struct Compared {
    pub title: String,
    /// Why the outcomes may, and then must, differ.
    pub differs: Option<&'static str>,
    /// Of runtimes that were asked.
    pub runc: Option<String>,
    pub ours: Option<String>,
}

impl Compared {
    /// Same or not.
    pub fn verdict(&self) -> Verdict {
        match (&self.runc, &self.ours, self.differs) {
            (Some(runc), Some(ours), None) if runc == ours => Verdict::Same,
            (Some(runc), Some(ours), Some(_)) if runc == ours => Verdict::Vanished,
            (Some(_), Some(_), None) => Verdict::Differs,
            (Some(_), Some(_), Some(_)) => Verdict::Known,
            _ => Verdict::Single,
        }
    }
}

/// What came of each row.
pub fn compared(rows: &[Row], outcomes: &HashMap<(Kind, String), String>) -> Vec<Compared> {
    let of = |kind, row: &Row| outcomes.get(&(kind, row.title())).cloned();
    rows.iter()
        .map(|row| Compared {
            title: row.title(),
            differs: row.differs,
            runc: of(Kind::Runc, row),
            ours: of(Kind::Ours, row),
        })
        .collect()
}

/// The table `scenario | runc | ours`, lines that differ marked by `!` where nobody expects it and by `~` where a
/// reason is known; and how many failures there are. What is the same takes one line unless all is wanted.
pub fn table(rows: &[Compared], all: bool) -> (String, usize) {
    let mut text = String::new();
    let mut failures = 0;
    let mut counts = HashMap::<&str, usize>::new();
    for row in rows {
        let verdict = row.verdict();
        failures += usize::from(verdict.is_failure());
        let word = match verdict {
            Verdict::Same => "same",
            Verdict::Known => "differs, as known",
            Verdict::Differs => "DIFFERS",
            Verdict::Vanished => "THE SAME, but said to differ",
            Verdict::Single => "run",
        };
        *counts.entry(word).or_default() += 1;
        text += &format!("{}  [{word}]\n", row.title);
        if let Some(reason) = row.differs {
            text += &format!("    because {reason}\n");
        }
        if all || !matches!(verdict, Verdict::Same) {
            let mark = if verdict == Verdict::Known { '~' } else { '!' };
            text += &side_by_side(row.runc.as_deref(), row.ours.as_deref(), mark);
        }
    }
    let mut counts: Vec<_> = counts.into_iter().map(|(word, count)| format!("{count} {word}")).collect();
    counts.sort();
    text += &format!("{} scenarios: {}\n", rows.len(), counts.join(", "));
    (text, failures)
}

const WIDTH: usize = 76;

/// Both outcomes, line by line.
fn side_by_side(runc: Option<&str>, ours: Option<&str>, mark: char) -> String {
    let lines = |text: Option<&str>| -> Vec<String> {
        text.map_or_else(Vec::new, |text| text.lines().map(str::to_owned).collect())
    };
    let (left, right) = (lines(runc), lines(ours));
    let mut text = String::new();
    for at in 0..left.len().max(right.len()) {
        let side = |lines: &[String]| lines.get(at).cloned().unwrap_or_default();
        let (one, other) = (side(&left), side(&right));
        let differs = runc.is_some() && ours.is_some() && one != other;
        let sign = if differs { mark } else { ' ' };
        if one.len() > WIDTH || other.len() > WIDTH {
            text += &format!("  {sign} runc | {one}\n");
            text += &format!("  {sign} ours | {other}\n");
        } else {
            text += &format!("  {sign} {one:<WIDTH$} | {other}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(differs: Option<&'static str>, runc: &str, ours: Option<&str>) -> Compared {
        Compared { title: "g/n".into(), differs, runc: Some(runc.into()), ours: ours.map(str::to_owned) }
    }

    #[test]
    fn a_difference_is_a_failure_unless_named_and_a_named_one_must_stay() {
        let named = Some("a reason");
        assert_eq!(row(None, "1", Some("1")).verdict(), Verdict::Same);
        assert_eq!(row(None, "1", Some("2")).verdict(), Verdict::Differs);
        assert_eq!(row(named, "1", Some("2")).verdict(), Verdict::Known);
        assert_eq!(row(named, "1", Some("1")).verdict(), Verdict::Vanished);
        assert_eq!(row(None, "1", None).verdict(), Verdict::Single);
    }

    #[test]
    fn the_table_marks_the_line_that_differs() {
        let (text, failures) = table(&[row(None, "same\none", Some("same\ntwo"))], false);
        assert_eq!(failures, 1);
        assert!(text.lines().any(|line| line.starts_with("  ! one") && line.ends_with("| two")), "{text}");
        assert!(text.lines().any(|line| line.starts_with("    same")), "{text}");
    }
}

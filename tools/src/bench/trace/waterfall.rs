//! A trace as text. Pure.

use std::fmt::Write as _;

use super::spans::Trace;

const COLUMNS: usize = 50;

pub fn text(trace: &Trace) -> String {
    let end = trace.end().max(1.0);
    let mut text = String::new();
    let column = |at: f64| ((at / end * COLUMNS as f64).max(0.0) as usize).min(COLUMNS - 1);
    // Writing to a string does not fail.
    let _ = writeln!(text, "{:>8} {:>8}  {:<12} {:<COLUMNS$}", "at, ms", "long", "who", "");
    for span in &trace.spans {
        let (from, to) = (column(span.begin), column(span.end));
        let (length, mark) = if span.is_moment() {
            (String::new(), "·".to_owned())
        } else {
            (format!("{:.1}", span.end - span.begin), "█".repeat(to - from + 1))
        };
        let bar = format!("{}{mark}", " ".repeat(from));
        let who = span.track.label();
        let _ = writeln!(text, "{:>8.1} {length:>8}  {who:<12} {bar:<COLUMNS$} {}", span.begin, span.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::trace::spans::{Span, Track};

    #[test]
    fn bars_stand_where_the_time_is() {
        let span = Span { track: Track::Shim, name: "half".into(), begin: 50.0, end: 100.0 };
        let text = text(&Trace::of(vec![span, Span::moment(Track::Agent, "ready", 0.0)]));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1].trim_end(), format!("     0.0           agent        ·{} ready", " ".repeat(49)));
        let bar = format!("{}{}", " ".repeat(25), "█".repeat(25));
        assert_eq!(lines[2], format!("    50.0     50.0  shim         {bar} half"));
    }
}

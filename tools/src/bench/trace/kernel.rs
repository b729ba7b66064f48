//! The guest's console: lines of its kernel, which carry the kernel's own time, and lines of the agent. Pure.

use super::spans::{Span, Track};

/// How many of the longest pauses between two lines are shown.
const PAUSES: usize = 12;
const LINE_LIMIT: usize = 72;
/// What the kernel says last before the agent runs.
const HANDS_OVER: &str = "Run /init as init process";
/// The span of a kernel that booted; one in a clone has done so long before.
pub const BOOT: &str = "kernel, until it runs /init";

/// A line and when the host saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Printed {
    /// The kernel's own time.
    pub ms: f64,
    pub seen_at: f64,
    pub text: String,
}

/// A line of the kernel, wherever in `line` it begins: firmware may have left its cursor behind other words.
pub fn printed(line: &str, seen_at: f64) -> Option<Printed> {
    let mut rest = line;
    while let Some(at) = rest.find('[') {
        rest = &rest[at + 1..];
        let (time, text) = rest.split_once(']')?;
        let time = time.trim();
        if time.contains('.')
            && let Ok(seconds) = time.parse::<f64>()
        {
            return Some(Printed { ms: seconds * 1e3, seen_at, text: text.trim().to_owned() });
        }
    }
    None
}

/// What an agent's line says, without its time, which is the guest's.
pub fn agents_words(line: &str) -> Option<&str> {
    let (time, words) = line.trim().split_once(' ')?;
    (time.ends_with('Z') && time.contains('T')).then(|| words.trim())
}

/// The kernel's part of a start.
pub fn spans(lines: &[Printed]) -> Vec<Span> {
    // The line that was held up least tells best when the kernel's clock began.
    let Some(zero) = lines.iter().map(|line| line.seen_at - line.ms).min_by(f64::total_cmp) else {
        return Vec::new();
    };
    let handed_over = lines.iter().position(|line| line.text.contains(HANDS_OVER));
    let booting = &lines[..handed_over.map_or(lines.len(), |at| at + 1)];
    let Some(last) = booting.last() else { return Vec::new() };
    let span = |name: String, begin: f64, end: f64| Span {
        track: Track::Kernel,
        name,
        begin: zero + begin,
        end: zero + end,
    };
    let mut pauses: Vec<_> = booting.windows(2).map(|pair| (pair[1].ms - pair[0].ms, pair)).collect();
    pauses.sort_by(|a, b| b.0.total_cmp(&a.0));
    pauses.truncate(PAUSES);
    let pauses = pauses.into_iter().filter(|(length, _)| *length > 0.0);
    let mut spans = Vec::new();
    if handed_over.is_some() {
        spans.push(span(BOOT.into(), 0.0, last.ms));
    }
    spans.extend(
        pauses.map(|(_, pair)| span(format!("after: {}", cut(&pair[0].text)), pair[0].ms, pair[1].ms)),
    );
    spans
}

fn cut(text: &str) -> String {
    text.chars().take(LINE_LIMIT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_kernel_and_agent_are_told_apart() {
        let line = printed("Booting from ROM..[    0.012345] Linux version 6.1 [x]", 7.0).unwrap();
        assert_eq!(line, Printed { ms: 12.345, seen_at: 7.0, text: "Linux version 6.1 [x]".into() });
        assert_eq!(printed("c[?7l[2J[0mSeaBIOS (version 1.16.2)", 7.0), None);
        assert_eq!(printed("[12] no time", 7.0), None);
        assert_eq!(
            agents_words("2026-11-21T07:32:18.645334Z  INFO kata_agent: ready"),
            Some("INFO kata_agent: ready")
        );
        assert_eq!(agents_words("hello there"), None);
    }

    #[test]
    fn the_kernels_clock_is_set_by_the_line_that_was_held_up_least() {
        let line = |ms: f64, seen_at: f64, text: &str| Printed { ms, seen_at, text: text.into() };
        let spans = spans(&[
            line(0.0, 130.0, "Linux"),
            line(50.0, 150.0, "ACPI"),
            line(60.0, 165.0, "Run /init as init process"),
            line(500.0, 605.0, "later"),
        ]);
        assert_eq!((spans[0].begin, spans[0].end), (100.0, 160.0));
        assert_eq!(spans[1].name, "after: Linux");
        assert_eq!((spans[1].begin, spans[1].end), (100.0, 150.0));
        assert_eq!(spans.len(), 3);
        let clone = super::spans(&[line(5000.0, 150.0, "pci"), line(5010.0, 160.0, "virtio")]);
        assert_eq!((clone.len(), clone[0].begin, clone[0].end), (1, 150.0, 160.0));
        assert!(super::spans(&[]).is_empty());
    }
}

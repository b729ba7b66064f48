//! containerd's log, which holds the shims': lines of `key=value`, and the phases that a shim reports in them.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
};

use anyhow::{Context, Result};

/// The file.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
}

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Nanoseconds since 1970.
    pub at: u64,
    fields: Vec<(String, String)>,
}

/// A part of a start or an end, as a shim reports it when it is over.
#[derive(Debug, Clone, PartialEq)]
pub struct Phase {
    pub name: String,
    pub ms: f64,
    pub ended_at: u64,
}

impl Log {
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub fn length(&self) -> Result<u64> {
        Ok(self.path.metadata().with_context(|| format!("read {}", self.path.display()))?.len())
    }

    /// The lines after the first `offset` bytes. What is not a line of a log is left out.
    pub fn since(&self, offset: u64) -> Result<Vec<Line>> {
        let mut text = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(offset))?;
            file.read_to_end(&mut text)
        });
        read.with_context(|| format!("read {}", self.path.display()))?;
        Ok(String::from_utf8_lossy(&text).lines().filter_map(Line::parse).collect())
    }

    /// The phases of one sandbox after the first `offset` bytes, and those of which the log does not say whose they are.
    pub fn phases(&self, offset: u64, sandbox: &str) -> Result<Vec<Phase>> {
        let lines = self.since(offset)?;
        let counts = |line: &&Line| line.field("sandbox").is_none_or(|other| other == sandbox);
        Ok(lines.iter().filter(counts).filter_map(Line::phase).collect())
    }
}

impl Line {
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = Vec::new();
        let mut rest = text.trim();
        while let Some((key, value)) = rest.split_once('=') {
            let (value, behind) = take_value(value);
            fields.push((key.trim().to_owned(), value));
            rest = behind;
        }
        let at = fields.iter().find(|(key, _)| key == "time").and_then(|(_, time)| nanoseconds(time))?;
        Some(Self { at, fields })
    }

    pub fn field(&self, key: &str) -> Option<&str> {
        self.fields.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub fn message(&self) -> &str {
        self.field("msg").unwrap_or_default()
    }

    pub fn phase(&self) -> Option<Phase> {
        let name = self.field("phase")?.to_owned();
        Some(Phase { name, ms: self.field("ms")?.parse().ok()?, ended_at: self.at })
    }
}

/// A value, in quotes or up to the next space, and what comes after it.
fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_once(' ').unwrap_or((text, ""));
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, 't')) => value.push(' '),
                Some((_, escaped)) => value.push(escaped),
                None => {}
            },
            plain => value.push(plain),
        }
    }
    (value, "")
}

/// RFC 3339 -> nanoseconds since 1970.
fn nanoseconds(text: &str) -> Option<u64> {
    let (date, time) = text.split_once('T')?;
    let mut parts = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let zone_at = time.find(['Z', '+', '-'])?;
    let (clock, zone) = time.split_at(zone_at);
    let mut parts = clock.splitn(3, ':');
    let (hours, minutes, seconds) = (parts.next()?, parts.next()?, parts.next()?);
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    let fraction: u64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    let seconds = days_since_1970(year, month, day) * 86_400
        + hours.parse::<i64>().ok()? * 3600
        + minutes.parse::<i64>().ok()? * 60
        + whole.parse::<i64>().ok()?
        - zone_seconds(zone)?;
    Some(u64::try_from(seconds).ok()? * 1_000_000_000 + fraction)
}

/// `Z`, `+02:00`, `-03:30`.
fn zone_seconds(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let seconds = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
    Some(if zone.starts_with('-') { -seconds } else { seconds })
}

/// In the calendar of today, whose years are made to begin in March, so that the leap day is a year's last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_its_quotes() {
        let line = Line::parse(
            r#"time="2026-11-21T07:32:18.301816Z" level=debug msg="guest console" line="a \"b\"=c\\d\ne" sandbox=k1"#,
        )
        .unwrap();
        assert_eq!(line.message(), "guest console");
        assert_eq!(line.field("line"), Some("a \"b\"=c\\d\ne"));
        assert_eq!(line.field("sandbox"), Some("k1"));
        assert_eq!(Line::parse("panic: something else"), None);
        assert_eq!(Line::parse("time=\"never\" level=debug"), None);
    }

    #[test]
    fn phases_are_read_from_lines() {
        let line = r#"time="1970-01-01T00:00:01Z" level=debug msg=phase phase=vm-start ms=67.464 call=create sandbox=h4"#;
        let phase = Line::parse(line).unwrap().phase().unwrap();
        assert_eq!(phase, Phase { name: "vm-start".into(), ms: 67.464, ended_at: 1_000_000_000 });
        assert_eq!(Line::parse(r#"time="1970-01-01T00:00:01Z" msg=other"#).unwrap().phase(), None);
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2026-11-21T07:32:18Z", 1_795_246_338),
            ("2026-11-21T09:32:18+02:00", 1_795_246_338),
            ("2026-11-21T04:02:18-03:30", 1_795_246_338),
        ] {
            assert_eq!(nanoseconds(text), Some(seconds * 1_000_000_000), "{text}");
        }
        assert_eq!(nanoseconds("1970-01-01T00:00:00.25Z"), Some(250_000_000));
        assert_eq!(nanoseconds("1970-01-01T00:00:00.123456789Z"), Some(123_456_789));
        assert_eq!(nanoseconds("yesterday"), None);
    }

    #[test]
    fn only_the_sandbox_that_is_asked_for_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let line = |sandbox: &str, phase: &str| {
            format!("time=\"1970-01-01T00:00:01Z\" msg=phase phase={phase} ms=1.000 sandbox={sandbox}\n")
        };
        let first = line("s1", "old");
        std::fs::write(&path, format!("{first}{}noise\n{}", line("s1", "new"), line("s2", "other"))).unwrap();
        let log = Log::new(path);
        let phases = log.phases(first.len() as u64, "s1").unwrap();
        assert_eq!(phases.iter().map(|phase| phase.name.as_str()).collect::<Vec<_>>(), ["new"]);
    }
}

//! What is heard of a VM: its guest's console and its helpers' words. The last of it is kept, and goes into the log, the
//! agent's lines at the level that the agent gave them.
//!
//! The guest is hostile: lines are cut and cleaned, what is kept is bounded, and so is what it can put into the log.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tracing::Level;

use crate::{
    ids::ContainerId,
    words::{Lines, Tail},
};

const LINES_KEPT: usize = 64;
const BYTES_KEPT: usize = 8 << 10;
/// Of them in an error message.
const LAST_WORDS: usize = 8;
/// What a kernel prints when it gives up; the registers and stack that follow tell less.
const HEADLINE: &str = "Kernel panic";
/// What else a kernel prints when something is badly wrong.
const TROUBLE: [&str; 6] = [
    HEADLINE,
    "BUG: ",
    "Oops: ",
    "Out of memory: ",
    "Memory cgroup out of memory: ",
    "blocked for more than ",
];

/// What is heard of one VM after another of a sandbox. Clones are the same journal.
#[derive(Clone, Default)]
pub struct Journal(Arc<Mutex<Heard>>);

/// What somebody said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub by: &'static str,
    pub lines: Vec<String>,
}

struct Heard {
    partial: Lines,
    headline: Option<String>,
    console: Tail,
    /// The agent's lines of the console, which the kernel's do not push out.
    agent: Tail,
    helpers: BTreeMap<&'static str, Tail>,
    loud: Allowance,
    quiet: Allowance,
}

impl Default for Heard {
    fn default() -> Self {
        Self {
            partial: Lines::default(),
            headline: None,
            console: tail(),
            agent: tail(),
            helpers: BTreeMap::new(),
            loud: Allowance::new(100.0, 10.0),
            // A kernel that boots says a thousand lines at once.
            quiet: Allowance::new(5000.0, 500.0),
        }
    }
}

fn tail() -> Tail {
    Tail::new(LINES_KEPT, BYTES_KEPT)
}

impl Journal {
    /// A console begins: what another VM said on its own is no part of it.
    pub fn begin(&self) {
        let mut heard = self.lock();
        let helpers = std::mem::take(&mut heard.helpers);
        *heard = Heard { helpers, ..Heard::default() };
    }

    /// Bytes of the guest's console.
    pub fn hear(&self, bytes: &[u8]) {
        let mut heard = self.lock();
        let mut partial = std::mem::take(&mut heard.partial);
        partial.push(bytes, |line| heard.line(line));
        heard.partial = partial;
    }

    /// The console has ended.
    pub fn finish(&self) {
        let mut heard = self.lock();
        let mut partial = std::mem::take(&mut heard.partial);
        partial.finish(|line| heard.line(line));
    }

    /// A line of a helper's, such as the hypervisor's.
    pub(crate) fn helper(&self, role: &'static str, line: &str) {
        self.lock().helpers.entry(role).or_insert_with(tail).push(line.to_owned());
    }

    /// How the console ends, for an error message: the kernel's panic if there was one, else the last lines. Empty if
    /// the guest said nothing.
    pub fn last_words(&self) -> String {
        let heard = self.lock();
        heard.headline.clone().unwrap_or_else(|| heard.console.joined(LAST_WORDS))
    }

    /// All that is kept.
    pub fn said(&self) -> Vec<Said> {
        let heard = self.lock();
        let mut agent = heard.agent.lines();
        agent.retain(|line| !heard.console.contains(line));
        let helpers = heard.helpers.iter().map(|(role, tail)| (*role, tail.lines()));
        let all = [("agent", agent), ("console", heard.console.lines())].into_iter().chain(helpers);
        all.filter(|(_, lines)| !lines.is_empty()).map(|(by, lines)| Said { by, lines }).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        // Lines and counts, whole after each step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Journal")
    }
}

impl Heard {
    fn line(&mut self, line: String) {
        let level = agents_level(&line);
        self.log(level.unwrap_or_else(|| kernels_level(&line)), &line);
        if level.is_some() {
            self.agent.push(line.clone());
        }
        if line.contains(HEADLINE) {
            self.headline = Some(line.clone());
        }
        self.console.push(line);
    }

    fn log(&mut self, level: Level, line: &str) {
        let allowance = if level <= Level::INFO { &mut self.loud } else { &mut self.quiet };
        let Some(refused) = allowance.admit(Instant::now()) else { return };
        if refused > 0 {
            tracing::warn!(lines = refused, "the guest says more than is logged");
        }
        let container = container_of(line);
        match level {
            Level::ERROR => tracing::error!(line, container, "guest console"),
            Level::WARN => tracing::warn!(line, container, "guest console"),
            Level::INFO => tracing::info!(line, container, "guest console"),
            Level::DEBUG => tracing::debug!(line, container, "guest console"),
            Level::TRACE => tracing::trace!(line, container, "guest console"),
        }
    }
}

/// The level of a line of the agent's: `2026-11-21T19:14:22.123456Z  WARN agent::rpc: text`.
fn agents_level(line: &str) -> Option<Level> {
    let (time, rest) = line.split_once(' ')?;
    let (day, hour) = time.strip_suffix('Z')?.split_once('T')?;
    let number = |text: &str, between: char| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == between || c == '.')
    };
    if !number(day, '-') || !number(hour, ':') {
        return None;
    }
    Some(match rest.trim_start().split(' ').next()? {
        "ERROR" => Level::ERROR,
        "WARN" => Level::WARN,
        "INFO" => Level::INFO,
        "DEBUG" => Level::DEBUG,
        "TRACE" => Level::TRACE,
        _ => return None,
    })
}

fn kernels_level(line: &str) -> Level {
    if TROUBLE.iter().any(|trouble| line.contains(trouble)) { Level::WARN } else { Level::DEBUG }
}

/// The container that a line of the agent's is about; empty if it does not say.
fn container_of(line: &str) -> &str {
    let Some((_, rest)) = line.split_once("container=") else { return "" };
    let rest = rest.strip_prefix('"').unwrap_or(rest);
    let end = rest.find([' ', '"', '}']).unwrap_or(rest.len());
    ContainerId::new(&rest[..end]).map_or("", |_| &rest[..end])
}

/// How much may be said: so many lines at once, and after that so many a second.
struct Allowance {
    most: f64,
    each_second: f64,
    left: f64,
    at: Instant,
    refused: u64,
}

impl Allowance {
    fn new(most: f64, each_second: f64) -> Self {
        Self { most, each_second, left: most, at: Instant::now(), refused: 0 }
    }

    /// How many were refused since the last that was not, if this one is not.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + since * self.each_second).min(self.most);
        self.at = now;
        if self.left < 1.0 {
            self.refused += 1;
            return None;
        }
        self.left -= 1.0;
        Some(std::mem::take(&mut self.refused))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_panic_is_not_lost_behind_its_registers() {
        let journal = Journal::default();
        journal.hear(b"[ 1.0] Kernel panic - not syncing: no init\r\n");
        journal.hear(&b"RAX: 0000\n".repeat(100));
        assert_eq!(journal.last_words(), "[ 1.0] Kernel panic - not syncing: no init");
        journal.begin();
        journal.hear(b"one\ntwo");
        journal.finish();
        assert_eq!(journal.last_words(), "one | two");
    }

    #[test]
    fn hostile_output_is_bounded() {
        let journal = Journal::default();
        for _ in 0..100 {
            journal.hear(&[b'a'; 4096]);
            journal.helper("helper", &"b".repeat(900));
        }
        let said = journal.said();
        let kept: usize = said.iter().flat_map(|said| &said.lines).map(String::len).sum();
        assert!(kept <= 3 * BYTES_KEPT, "{kept}");
        assert_eq!(said.iter().map(|said| said.by).collect::<Vec<_>>(), ["console", "helper"]);
    }

    #[test]
    fn lines_of_the_agent_outlast_the_kernels() {
        let journal = Journal::default();
        journal.hear(b"2026-11-21T07:32:18.6Z  WARN agent::guest: a bundle stays container=c1\n");
        assert_eq!(journal.said().len(), 1, "it is not told twice");
        journal.hear(&b"[ 1.0] something\n".repeat(200));
        let said = journal.said();
        assert_eq!((said[0].by, said[0].lines.len(), said[1].by), ("agent", 1, "console"));
    }

    #[test]
    fn each_line_has_the_level_of_who_said_it() {
        for (line, level) in [
            ("2026-11-21T07:32:18.6Z  INFO kata_agent: ready", Level::INFO),
            ("2026-11-21T07:32:18.614093Z ERROR kata_agent: x", Level::ERROR),
            ("2026-11-21T07:32:18Z  WARN ThreadId(01) x", Level::WARN),
            ("[    1.0] Out of memory: Killed process 7 (sh)", Level::WARN),
            ("[    1.0] random: crng init done", Level::DEBUG),
            ("ATZ WARN x", Level::DEBUG),
            ("2026-11-21T07:32:18Z LOUD x", Level::DEBUG),
            ("2026-11-21T07:32:18Z", Level::DEBUG),
        ] {
            assert_eq!(agents_level(line).unwrap_or_else(|| kernels_level(line)), level, "{line}");
        }
    }

    #[test]
    fn the_container_of_a_line_is_a_name_or_nothing() {
        for (line, container) in [
            ("x container=c1 error=y", "c1"),
            ("x container=\"c-2\"", "c-2"),
            ("create{container=c3}: x", "c3"),
            ("x container=../../etc", ""),
            ("container=", ""),
            ("x", ""),
        ] {
            assert_eq!(container_of(line), container, "{line}");
        }
    }

    #[test]
    fn who_says_too_much_is_refused_and_counted() {
        let mut allowance = Allowance::new(2.0, 1.0);
        let now = allowance.at;
        let admitted = Vec::from_iter((0..4).map(|_| allowance.admit(now)));
        assert_eq!(admitted, [Some(0), Some(0), None, None]);
        let later = now + Duration::from_secs(1);
        assert_eq!((allowance.admit(later), allowance.admit(later)), (Some(2), None));
    }
}

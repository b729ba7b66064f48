//! `kata-runtime logs`: what a sandbox died of, or what is heard of one that lives.

use std::{fmt::Write as _, io::Read, path::Path};

use clap::Args;
use runtime::{
    accident::{Report, Shelf},
    error::{Context, Error, Result},
    paths::Paths,
    sandbox::Wanted,
};

use super::{clock, sandbox_socket, table::Table};

/// Larger than anything that is kept of a sandbox.
const LIMIT: u64 = 1 << 20;
/// Of what happened, in the list.
const HEADLINE: usize = 100;

#[derive(Debug, Args)]
pub struct Logs {
    /// A sandbox or one of its containers, dead or alive; without, the accidents of this host are listed
    id: Option<String>,
}

impl Logs {
    pub fn run(&self) -> Result<String> {
        let paths = Paths::default();
        let dead = Shelf::new(paths.accidents()).all();
        let Some(id) = &self.id else { return Ok(list(&dead)) };
        let living = sandbox_socket::find(&paths, id)?.map(|dir| ask(&dir));
        let last = dead.into_iter().find(|report| report.is_about(id));
        match (living, last) {
            (Some(Ok(report)), _) | (_, Some(report)) => Ok(text(&report)),
            (Some(Err(error)), None) => Err(error),
            (None, None) => Err(Error::not_found(format!(
                "{id}: there is no such sandbox or container, and no accident of one is remembered"
            ))),
        }
    }
}

fn ask(dir: &Path) -> Result<Report> {
    let mut answer = Vec::new();
    let stream = sandbox_socket::ask(dir, Wanted::Logs)?;
    stream.take(LIMIT).read_to_end(&mut answer).context("the sandbox's answer")?;
    serde_json::from_slice(&answer).context("the sandbox's answer")
}

fn list(reports: &[Report]) -> String {
    if reports.is_empty() {
        return "no accident is remembered\n".into();
    }
    let mut table = Table::new(&["TIME", "SANDBOX", "WHAT"]);
    for report in reports {
        let mut what: String = report.what.chars().take(HEADLINE).collect();
        if what.len() < report.what.len() {
            what.push('…');
        }
        table.row([clock::log_time(report.at()), report.sandbox.clone(), what]);
    }
    table.to_string()
}

fn text(report: &Report) -> String {
    let mut text = format!("sandbox {}", report.sandbox);
    let mut add = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    match report.containers.as_slice() {
        [] => add(""),
        containers => add(&format!(", containers {}", containers.join(", "))),
    }
    match report.what.as_str() {
        "" => add(&format!("{} it runs", clock::log_time(report.at()))),
        what => add(&format!("{} {what}", clock::log_time(report.at()))),
    }
    for words in &report.said {
        let _ = writeln!(text, "\n{} said last:", words.by); // A String takes all.
        for line in &words.lines {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use runtime::accident::Words;

    use super::*;

    fn report() -> Report {
        Report {
            at_ms: 951_782_399_000,
            containers: vec!["c1".into(), "c2".into()],
            said: vec![Words { by: "console".into(), lines: vec!["[ 1.0] Kernel panic".into()] }],
            ..Report::new("s1", "it died")
        }
    }

    #[test]
    fn a_report_is_told_in_full() {
        assert_eq!(
            text(&report()),
            "sandbox s1, containers c1, c2\n2000-02-28T23:59:59Z it died\n\nconsole said last:\n  [ 1.0] Kernel panic\n"
        );
        let lives = Report { what: String::new(), containers: Vec::new(), said: Vec::new(), ..report() };
        assert_eq!(text(&lives), "sandbox s1\n2000-02-28T23:59:59Z it runs\n");
    }

    #[test]
    fn a_list_has_a_line_for_each() {
        assert_eq!(list(&[]), "no accident is remembered\n");
        let long = Report { what: "x".repeat(101), ..report() };
        let listed = list(&[report(), long]);
        let lines: Vec<_> = listed.lines().collect();
        assert_eq!(lines[1], "2000-02-28T23:59:59Z   s1          it died");
        assert!(lines[2].ends_with(&format!("s1          {}…", "x".repeat(100))), "{listed}");
    }
}

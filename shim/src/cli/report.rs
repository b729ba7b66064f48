//! Errors to where the caller wants them: standard error for people, and a log in logrus's form for engines.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::ValueEnum;
use serde_json::json;

use super::clock::log_time;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Options before the command whose next word is their value.
const WITH_VALUE: [&str; 7] =
    ["--config", "--kata-config", "--root", "--log", "--log-format", "--rootless", "--criu"];

/// Where errors are told besides standard error.
#[derive(Debug, Clone)]
pub struct Report {
    pub log: Option<PathBuf>,
    pub format: LogFormat,
}

impl Report {
    /// What words say that are no command line as a whole, as far as the command: what follows is another's.
    pub fn of_words(words: impl IntoIterator<Item = String>) -> Self {
        let mut report = Self { log: None, format: LogFormat::Text };
        let mut words = words.into_iter();
        while let Some(word) = words.next().filter(|word| word.starts_with('-')) {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None if WITH_VALUE.contains(&word.as_str()) => (word.as_str(), words.next()),
                None => continue,
            };
            match (name, value) {
                ("--log", value) => report.log = value.map(PathBuf::from),
                ("--log-format", Some(value)) => {
                    report.format = LogFormat::from_str(&value, false).unwrap_or(report.format);
                }
                _ => {}
            }
        }
        report
    }

    /// Tells an error, and does what it can where that is not possible.
    pub fn error(&self, message: &str) {
        self.record(message);
        eprintln!("{message}");
    }

    /// Tells the log alone.
    pub fn record(&self, message: &str) {
        if let Some(log) = &self.log
            && let Err(error) = append(log, &self.line(message))
        {
            eprintln!("--log {}: {error}", log.display());
        }
    }

    fn line(&self, message: &str) -> String {
        let time = log_time(SystemTime::now());
        match self.format {
            LogFormat::Text => format!("time=\"{time}\" level=error msg={message:?}\n"),
            LogFormat::Json => format!("{}\n", json!({"level": "error", "msg": message, "time": time})),
        }
    }
}

fn append(path: &Path, line: &str) -> std::io::Result<()> {
    File::options().append(true).create(true).open(path)?.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_found_among_words_that_make_no_sense() {
        let told = |line: &str| Report::of_words(line.split_whitespace().map(str::to_owned));
        for (line, log, format) in [
            ("--root /r --log /l --log-format json nonsense", Some("/l"), LogFormat::Json),
            ("--log=/l --debug --nonsense state", Some("/l"), LogFormat::Text),
            ("exec --log /l c1", None, LogFormat::Text),
            ("--log-format no --log", None, LogFormat::Text),
        ] {
            let report = told(line);
            assert_eq!((report.log.as_deref(), report.format), (log.map(Path::new), format), "{line}");
        }
    }

    #[test]
    fn a_line_is_logruss() {
        let mut report = Report { log: None, format: LogFormat::Json };
        let line = report.line("a \"b\"\nc");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["level"], &value["msg"]), (&json!("error"), &json!("a \"b\"\nc")));
        report.format = LogFormat::Text;
        let line = report.line("a \"b\"\nc");
        assert!(
            line.starts_with("time=\"2") && line.ends_with(" level=error msg=\"a \\\"b\\\"\\nc\"\n"),
            "{line}"
        );
    }
}

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

/// Where errors are told besides standard error.
#[derive(Debug, Clone)]
pub struct Report {
    pub log: Option<PathBuf>,
    pub format: LogFormat,
}

impl Report {
    /// Tells an error, and does what it can where that is not possible.
    pub fn error(&self, message: &str) {
        if let Some(log) = &self.log
            && let Err(error) = append(log, &self.line(message))
        {
            eprintln!("--log {}: {error}", log.display());
        }
        eprintln!("{message}");
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

//! The few commands that a template and its clones need from QEMU.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::bench::host::patience::{self, wait};

/// For one answer or event.
const DEADLINE: Duration = Duration::from_secs(30);

pub struct Qmp {
    reader: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects as soon as QEMU listens.
    pub fn open(socket: &Path, deadline: Instant) -> Result<Self> {
        let left = deadline.saturating_duration_since(Instant::now());
        let stream = wait(left, patience::OFTEN, || UnixStream::connect(socket).ok());
        let stream = stream.with_context(|| format!("nobody listens on {}", socket.display()))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        let mut qmp = Self { reader: BufReader::new(stream) };
        qmp.message().context("QEMU's greeting")?;
        qmp.execute("qmp_capabilities", None)?;
        Ok(qmp)
    }

    pub fn execute(&mut self, command: &str, arguments: Option<Value>) -> Result<()> {
        self.send(command, arguments)?;
        loop {
            let message = self.message().with_context(|| format!("the answer to {command}"))?;
            if let Some(error) = message.get("error") {
                bail!("{command}: {}", error["desc"].as_str().unwrap_or_default());
            }
            if message.get("return").is_some() {
                return Ok(());
            }
        }
    }

    /// Memory that is a file stays where it is; how a migration goes on is told by events.
    pub fn keep_memory_out_of_the_state(&mut self) -> Result<()> {
        let on = |name: &str| json!({ "capability": name, "state": true });
        let capabilities = json!({ "capabilities": [on("x-ignore-shared"), on("events")] });
        self.execute("migrate-set-capabilities", Some(capabilities))
    }

    pub fn save(&mut self, state: &Path) -> Result<()> {
        self.migrate("migrate", &format!("exec:cat > '{}'", state.display()))
    }

    pub fn restore(&mut self, state: &Path) -> Result<()> {
        self.migrate("migrate-incoming", &format!("exec:cat '{}'", state.display()))
    }

    fn migrate(&mut self, command: &str, uri: &str) -> Result<()> {
        self.send(command, Some(json!({ "uri": uri })))?;
        // The event that tells of the end may come before the answer to the command.
        let (mut answered, mut completed) = (false, false);
        while !(answered && completed) {
            let message = self.message().with_context(|| format!("the end of {command}"))?;
            if let Some(error) = message.get("error") {
                bail!("{command}: {}", error["desc"].as_str().unwrap_or_default());
            }
            answered |= message.get("return").is_some();
            if message["event"] == "MIGRATION" {
                match message["data"]["status"].as_str() {
                    Some("completed") => completed = true,
                    Some(status @ ("failed" | "cancelled")) => bail!("{command}: {status}"),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, command: &str, arguments: Option<Value>) -> Result<()> {
        let mut message = json!({ "execute": command });
        if let Some(arguments) = arguments {
            message["arguments"] = arguments;
        }
        let mut stream = self.reader.get_ref();
        stream.write_all(format!("{message}\n").as_bytes()).with_context(|| format!("send {command}"))
    }

    fn message(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("QEMU hung up");
        }
        Ok(serde_json::from_str(&line)?)
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    /// A QEMU that says `lines` whatever it is told.
    fn qemu(lines: &'static [&'static str]) -> (tempfile::TempDir, Qmp) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for line in [&[r#"{"QMP":{}}"#, r#"{"return":{}}"#], lines].concat() {
                writeln!(stream, "{line}").unwrap();
            }
            let mut reader = BufReader::new(stream);
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|count| count > 0) {}
        });
        let qmp = Qmp::open(&path, Instant::now() + DEADLINE).unwrap();
        (dir, qmp)
    }

    #[test]
    fn events_may_come_before_and_after_an_answer() {
        for lines in [
            &[r#"{"event":"MIGRATION","data":{"status":"completed"}}"#, r#"{"return":{}}"#],
            &[r#"{"return":{}}"#, r#"{"event":"MIGRATION","data":{"status":"completed"}}"#],
        ] {
            qemu(lines).1.save(Path::new("/s")).unwrap();
        }
    }

    #[test]
    fn a_refusal_is_told_in_qemus_words() {
        let error =
            qemu(&[r#"{"event":"STOP"}"#, r#"{"error":{"desc":"no such thing"}}"#]).1.execute("cont", None);
        assert_eq!(error.unwrap_err().to_string(), "cont: no such thing");
        let failed = qemu(&[r#"{"return":{}}"#, r#"{"event":"MIGRATION","data":{"status":"failed"}}"#]).1;
        let mut failed = failed;
        assert!(failed.restore(Path::new("/s")).is_err());
    }
}

//! A container whose shell answers line by line, so that an answer is known to have been given within a few milliseconds.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, SystemTime},
};

/// For one answer, or for the VM to come up before the first.
const PATIENCE: Duration = Duration::from_secs(60);

/// The running command, which ends when it is dropped.
pub struct Conversation {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

/// A line, and between which times of the host it was said.
#[derive(Debug)]
pub struct Answer {
    pub line: String,
    pub asked: SystemTime,
    pub heard: SystemTime,
}

impl Conversation {
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        // Ends with the output of the command, which ends at the latest when this is dropped.
        thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { child, input, lines }
    }

    /// What is said unasked.
    pub fn hear(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line")
    }

    /// Says a line and waits for the answer.
    pub fn ask(&mut self, line: &str) -> Answer {
        let input = self.input.as_mut().expect("not ended");
        let asked = SystemTime::now();
        input.write_all(format!("{line}\n").as_bytes()).expect("the command listens");
        let line = self.hear();
        Answer { line, asked, heard: SystemTime::now() }
    }

    /// Closes the input, upon which the command must end.
    pub fn end(mut self) -> ExitStatus {
        drop(self.input.take());
        while self.lines.recv_timeout(PATIENCE).is_ok() {}
        self.child.wait().expect("wait for a child of ours")
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let _ = self.child.kill(); // It may have ended.
        let _ = self.child.wait();
    }
}

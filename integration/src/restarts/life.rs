//! One container's life by `ctr`, up to the moment at which containerd is killed; and what must hold afterwards.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::host::left;
use crate::containerd::{Containerd, Runtime};

/// For what happens by itself.
const SOON: Duration = Duration::from_secs(90);
const STEP: Duration = Duration::from_millis(50);

/// Instead of a call: the container was removed when containerd was killed.
pub const REMOVED: &str = "removed";

/// A container.
pub struct Life<'a> {
    pub containerd: &'a Containerd,
    pub kata: &'a Runtime,
    pub id: &'a str,
    /// In the environment of what would be in the guest.
    pub mark: &'a str,
}

impl Life<'_> {
    /// Everything that is done to it, until something fails: what, and with which words.
    pub fn live(&self) -> Result<(), (&'static str, String)> {
        let id = self.id;
        let mut calls = self.containerd.life(self.kata, &["--env", self.mark], id);
        calls.push(("rm", ["task", "rm", "--force", id].map(str::to_owned).into()));
        calls.push(("forget", ["container", "rm", id].map(str::to_owned).into()));
        self.containerd.live(calls)
    }

    /// After containerd was killed in `call` and is back: what it says of the task, and what should not be.
    pub fn look_after(&self, call: &str) -> (String, Vec<String>) {
        let mut problems = Vec::new();
        let allowed: &[&str] = match call {
            "run" => &["", "CREATED", "RUNNING"],
            "pause" | "resume" => &["RUNNING", "PAUSED"],
            "kill" => &["RUNNING", "STOPPED"],
            "rm" => &["", "STOPPED"],
            "forget" | REMOVED => &[""],
            _ => &["RUNNING"],
        };
        let mut status = String::new();
        let settled = soon(|| {
            status = self.status();
            allowed.contains(&status.as_str())
        });
        if !settled {
            problems.push(format!("it is {status:?} and not one of {allowed:?}"));
        }
        match status.as_str() {
            "" if call == "run" => self.create_again(&mut problems),
            "RUNNING" | "PAUSED" if call != "kill" => self.is_alive(call, &mut problems),
            _ => {}
        }
        self.remove(&mut problems);
        (status, problems)
    }

    /// The whole life once more under the same name, and nothing is left.
    pub fn live_again(&self, problems: &mut Vec<String>) {
        if let Err((call, words)) = self.live() {
            problems.push(format!("the next one of that name: {call}: {words}"));
            self.remove(problems);
        }
        self.is_gone(problems);
    }

    /// As `ctr task ls` shows it; nothing if there is no task.
    fn status(&self) -> String {
        let listed = self.containerd.ctr(["task", "ls"]);
        if listed.code != 0 {
            return format!("unknown: {}", listed.stderr);
        }
        let of_it = |line: &str| {
            let mut words = line.split_whitespace();
            (words.next() == Some(self.id)).then(|| words.last().unwrap_or_default().to_owned())
        };
        listed.text().lines().find_map(of_it).unwrap_or_default()
    }

    /// What a client does whose create was cut off.
    fn create_again(&self, problems: &mut Vec<String>) {
        let mut said = String::new();
        let created = soon(|| {
            let started = self.containerd.ctr(["task", "start", "--detach", "--null-io", self.id]);
            said = started.stderr;
            started.code == 0
        });
        if !created {
            problems.push(format!("the create cannot be repeated: {said}"));
        }
    }

    fn is_alive(&self, call: &str, problems: &mut Vec<String>) {
        if ["pause", "resume"].contains(&call) {
            self.containerd.ctr(["task", "resume", self.id]); // It may not stand still.
        }
        let mut said = String::new();
        let lives = soon(|| {
            let exec = self.containerd.ctr(self.containerd.exec_args(self.id, "e2", &["echo", "alive"]));
            said = format!("{}{}", exec.text(), exec.stderr);
            exec.text() == "alive\n"
        });
        if !lives {
            problems.push(format!("it takes no exec: {said}"));
        }
    }

    /// What a user does to be rid of it.
    fn remove(&self, problems: &mut Vec<String>) {
        let task = self.containerd.ctr(["task", "rm", "--force", self.id]);
        let gone = self.containerd.ctr(["container", "rm", self.id]);
        if gone.code != 0 && !gone.stderr.contains("not found") {
            problems.push(format!("it cannot be removed: {}{}", task.stderr, gone.stderr));
        }
        self.is_gone(problems);
    }

    fn is_gone(&self, problems: &mut Vec<String>) {
        soon(|| left(self.containerd, self.id).is_empty());
        let left = left(self.containerd, self.id);
        if !left.is_empty() {
            problems.push(format!("left: {}", left.join(", ")));
        }
    }
}

/// Whether it becomes a fact in time.
pub fn soon(mut fact: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while !fact() {
        if began.elapsed() > SOON {
            return false;
        }
        thread::sleep(STEP);
    }
    true
}

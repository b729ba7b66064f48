//! One scenario with one command line: its containers, and what it tells.

use std::{
    fmt::Display,
    fs,
    path::{Path, PathBuf},
};

use integration::oci_cli::{Cli, Ran};
use serde_json::Value;

/// Runs until it is killed.
pub const WAITS: &str = "echo up; while true; do sleep 0.1; done";

/// No change to a bundle.
pub fn plain(_: &mut Value) {}

pub struct Stage<'a> {
    pub cli: &'a Cli,
    name: &'static str,
    facts: Vec<(String, Option<String>)>,
}

impl<'a> Stage<'a> {
    pub fn new(cli: &'a Cli, name: &'static str) -> Self {
        Self { cli, name, facts: Vec::new() }
    }

    pub fn told(self) -> Vec<(String, Option<String>)> {
        self.facts
    }

    /// Tells something, without what differs from run to run.
    pub fn tell(&mut self, fact: &str, value: impl Display) {
        let is_new = self.facts.iter().all(|(name, _)| name != fact);
        assert!(is_new, "{}: {fact} is told twice", self.name);
        let text = self.cli.plain(&value.to_string());
        self.facts.push((fact.to_owned(), Some(text.trim_end().to_owned())));
    }

    /// Of a fact that cannot be asked for here: it is compared with nothing.
    pub fn cannot_tell(&mut self, fact: &str) {
        self.facts.push((fact.to_owned(), None));
    }

    /// Tells how a command ended. Words of a refusal are each runtime's own, but for what they must name.
    pub fn tell_ran(&mut self, fact: &str, ran: Ran, naming: &str) {
        let value = match ran.code {
            Some(0) => "done".into(),
            Some(code) if ran.stderr.to_lowercase().contains(&naming.to_lowercase()) => {
                format!("refused ({code}), naming {naming:?}")
            }
            _ => format!("refused ({:?}): {}", ran.code, ran.stderr.trim_end()),
        };
        self.tell(fact, value);
    }

    /// The name of a container of this scenario.
    pub fn id(&self, part: &str) -> String {
        self.cli.id(&self.file_name(part))
    }

    pub fn bundle(&self, part: &str, script: &str, change: impl FnOnce(&mut Value)) -> String {
        self.cli.bundle(&self.file_name(part), script, change).display().to_string()
    }

    /// Where the output of a container goes that outlives its command.
    pub fn output(&self, part: &str) -> String {
        let path = self.cli.path().join(self.id(part));
        fs::read_to_string(path).unwrap_or_default()
    }

    /// Makes a container, and leaves it.
    pub fn create(&self, part: &str, bundle: &str) -> Ran {
        let id = self.id(part);
        self.cli.leave(&["create", "--bundle", bundle, &id], &id)
    }

    /// Makes a container that is there afterwards.
    #[track_caller]
    pub fn created(&self, part: &str, script: &str, change: impl FnOnce(&mut Value)) -> String {
        let bundle = self.bundle(part, script, change);
        self.create(part, &bundle).good();
        self.id(part)
    }

    /// Runs a container to its end.
    pub fn run(&self, part: &str, script: &str, change: impl FnOnce(&mut Value)) -> Ran {
        let bundle = self.bundle(part, script, change);
        let ran = self.cli.run(&["run", "--bundle", &bundle, &self.id(part)]);
        if ran.code != Some(0) {
            // runc leaves one there whose start failed.
            self.remove(part);
        }
        ran
    }

    pub fn remove(&self, part: &str) {
        self.cli.run(&["delete", "--force", &self.id(part)]).good();
    }

    /// Asks questions in a container: each a name, and a command whose output is the answer.
    pub fn ask(&mut self, part: &str, questions: &[(&str, &str)], change: impl FnOnce(&mut Value)) {
        let script: String = questions
            .iter()
            .map(|(name, command)| format!("echo \"{MARK}{name}\"\n({command}) 2>&1\n"))
            .collect();
        let ran = self.run(part, &format!("{script}exit 0\n"), change);
        let end = match ran.code {
            Some(0) => "done".into(),
            code => format!("{code:?}: {}", ran.stderr.trim_end()),
        };
        self.tell(&format!("run{part}"), end);
        for answer in ran.stdout.split(MARK).skip(1) {
            let (name, text) = answer.split_once('\n').unwrap_or((answer, ""));
            self.tell(name, text);
        }
    }

    /// A folder or file beside the bundles, for a container to be given.
    pub fn path(&self, name: &str) -> PathBuf {
        self.cli.path().join(self.file_name(name))
    }

    /// The scenario's and a part's names as one that files and containers may have.
    fn file_name(&self, part: &str) -> String {
        let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
        format!("{} {part}", self.name).trim_end().chars().map(plain).collect()
    }
}

/// The host's control groups: of that hierarchy, or the only one.
pub fn group_of_the_host(hierarchy: &str) -> PathBuf {
    let root = Path::new("/sys/fs/cgroup");
    Some(root.join(hierarchy)).filter(|dir| dir.is_dir()).unwrap_or_else(|| root.to_path_buf())
}

/// What stands before an answer's name.
const MARK: &str = "=====";

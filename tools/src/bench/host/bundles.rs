//! Containers made by an OCI command line, over bundles of its own.

use std::{
    cell::RefCell,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::command::{self, Done};

/// For one command. A cold start on a busy machine that emulates takes seconds.
const DEADLINE: Duration = Duration::from_secs(120);
/// Runs a command whose outputs are a file's, and tells what it has said if it fails.
const APART: &str = r#""$@" >"$0" 2>&1 || { cat "$0"; exit 1; }"#;

/// A command line, `kata-runtime` or `runc`, with a root of its own. What it has made goes when it is dropped.
pub struct CommandLine {
    program: PathBuf,
    config: Option<PathBuf>,
    dir: PathBuf,
    rootfs: PathBuf,
    made: RefCell<Vec<String>>,
}

impl CommandLine {
    /// Over `dir`, which is made, with containers that have this root file system.
    pub fn new(program: &Path, config: Option<&Path>, dir: PathBuf, rootfs: &Path) -> Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let (program, config) = (program.to_path_buf(), config.map(Path::to_path_buf));
        Ok(Self { program, config, dir, rootfs: rootfs.to_path_buf(), made: RefCell::default() })
    }

    /// One command, to its end.
    pub fn ask(&self, words: &[&str]) -> Result<Done> {
        self.finish(Command::new(&self.program), words)
    }

    fn finish(&self, mut command: Command, words: &[&str]) -> Result<Done> {
        command.arg("--root").arg(self.dir.join("root"));
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        command.args(words);
        command::run(command, DEADLINE).with_context(|| words.join(" "))
    }

    /// Runs a container to its end; returns milliseconds.
    pub fn run(&self, id: &str) -> Result<f64> {
        let bundle = self.bundle(id, &["true"], None)?;
        Ok(self.ask(&["run", "--bundle", &bundle, id])?.ms)
    }

    /// Starts a container that stays, in the sandbox of `pod` if there is one.
    pub fn start(&self, id: &str, pod: Option<&str>) -> Result<()> {
        let bundle = self.bundle(id, &["sleep", "86400"], pod)?;
        self.made.borrow_mut().push(id.to_owned());
        // The container would hold the outputs whose end tells that of the command.
        let mut command = Command::new("sh");
        command.args(["-c", APART]).arg(self.dir.join(id).join("said")).arg(&self.program);
        self.finish(command, &["run", "--detach", "--bundle", &bundle, id]).map(drop)
    }

    /// Writes what the command line itself takes for a good spec, with that program.
    fn bundle(&self, id: &str, args: &[&str], pod: Option<&str>) -> Result<String> {
        let bundle = self.dir.join(id);
        fs::create_dir_all(&bundle).with_context(|| format!("make {}", bundle.display()))?;
        let file = bundle.join("config.json");
        if !file.exists() {
            self.ask(&["spec", "--bundle", &bundle.display().to_string()])?;
        }
        let text = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        let mut spec: Value = serde_json::from_slice(&text).with_context(|| format!("{}", file.display()))?;
        spec["process"]["args"] = json!(args);
        spec["process"]["terminal"] = json!(false);
        spec["root"] = json!({"path": self.rootfs, "readonly": true});
        // Engines name one, which runc takes by itself.
        spec["linux"]["cgroupsPath"] = json!(format!("/{id}"));
        if let Some(pod) = pod {
            let role = if pod == id { "sandbox" } else { "container" };
            spec["annotations"] =
                json!({"io.kubernetes.cri.container-type": role, "io.kubernetes.cri.sandbox-id": pod});
        }
        fs::write(&file, spec.to_string()).with_context(|| format!("write {}", file.display()))?;
        Ok(bundle.display().to_string())
    }
}

impl Drop for CommandLine {
    fn drop(&mut self) {
        // The first is the one whose VM the others are in.
        for id in self.made.borrow().iter().rev() {
            if let Err(error) = self.ask(&["delete", "--force", id]) {
                eprintln!("==> {error:#}");
            }
        }
    }
}

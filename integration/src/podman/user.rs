//! Podman of somebody who is not root, in the place of the private one.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Podman, place};
use crate::containerd::{Finished, finish};

/// A user with storage, settings and a run directory of their own, whose containers are other than root's.
pub struct User<'a> {
    podman: &'a Podman,
    id: u32,
    home: PathBuf,
    run_dir: PathBuf,
}

impl<'a> User<'a> {
    /// One who has no number but their own. `None`, with a word, where the kernel gives users no namespaces of their own.
    pub fn of(podman: &'a Podman) -> Option<Self> {
        Self::numbered(podman, place::USERS[0].1)
    }

    /// One whose containers have numbers of their own: 1 in them is the number that is told on the host.
    pub fn with_range(podman: &'a Podman) -> Option<(Self, u32)> {
        Some((Self::numbered(podman, place::USERS[1].1)?, place::RANGE))
    }

    fn numbered(podman: &'a Podman, id: u32) -> Option<Self> {
        // Sockets below it have names of their own, and few bytes for all.
        let run_dir = podman.path().join(format!("u{}", id % 10));
        let home = podman.path().join(format!("home-{id}"));
        let this = Self { podman, id, home, run_dir };
        if finish(this.enter(&["unshare", "--user", "true"]), b"").code != 0 {
            eprintln!("skipped: users may make no user namespaces here");
            return None;
        }
        for dir in [&this.home, &this.run_dir] {
            fs::create_dir(dir).expect("make a folder");
            chown(dir, Some(id), Some(id)).expect("give a folder away");
        }
        let path = podman.path();
        place::write_settings(&this.home, &this.home, &path.join("tree"), "vfs");
        // The usual place, which is another for a user.
        let template = ("template_path", "template_path = \"/run/vc/vm/template\"".to_owned());
        let configuration = podman.env.configuration_with(&this.home, "configuration", &[template]);
        let (theirs, ours) =
            (podman.env.root().display().to_string(), path.join("dev").display().to_string());
        let text = fs::read_to_string(&configuration).expect("read the configuration");
        fs::write(&configuration, text.replace(&theirs, &ours)).expect("write the configuration");
        let flags = format!("--config {}", configuration.display());
        place::write_runtime(&this.runtime(), &path.join("programs"), &flags);
        this.ok(&[
            "import",
            "-c",
            "ENV PATH=/bin",
            &path.join("layer.tar").display().to_string(),
            super::IMAGE,
        ]);
        Some(this)
    }

    /// Where what is theirs is, in place of `/run`.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    fn runtime(&self) -> PathBuf {
        self.home.join("kata-runtime")
    }

    /// Runs `podman`.
    pub fn podman(&self, args: &[&str]) -> Finished {
        let podman = self.podman.path().join("tree/usr/bin/podman");
        let mut command = self.enter(&[&podman.display().to_string(), "--log-level", "error"]);
        command.arg("--runtime").arg(self.runtime()).args(args);
        finish(command, b"")
    }

    /// Runs `podman`, which is to succeed; what it prints, without the end of its last line.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let finished = self.podman(args);
        assert_eq!(finished.code, 0, "podman {args:?}: {}", finished.stderr);
        finished.text().trim_end().to_owned()
    }

    /// Runs a script of theirs, in which `$1` is `kata-runtime` and `$2` the archive of an image's files.
    pub fn script(&self, script: &str) -> Finished {
        let (runtime, layer) = (self.runtime().display().to_string(), self.podman.path().join("layer.tar"));
        finish(self.enter(&["sh", "-c", script, "script", &runtime, &layer.display().to_string()]), b"")
    }

    fn enter(&self, program: &[&str]) -> Command {
        let mut command = self.podman.enter();
        let id = self.id.to_string();
        command.args(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "--"]);
        command.args(["env", "--chdir=/"]);
        let tree = self.podman.path().join("tree/usr/bin");
        let path = std::env::var("PATH").unwrap_or_default();
        command.arg(format!("PATH={}:{path}", tree.display())); // For newuidmap.
        let variable = |name: &str, path: &Path| format!("{name}={}", path.display());
        command.arg(variable("HOME", &self.home)).arg(variable("XDG_RUNTIME_DIR", &self.run_dir));
        command.arg(variable("CONTAINERS_CONF", &self.home.join("containers.conf")));
        command.arg(variable("CONTAINERS_STORAGE_CONF", &self.home.join("storage.conf")));
        command.args(program);
        command
    }
}

impl Drop for User<'_> {
    fn drop(&mut self) {
        self.podman(&["rm", "--all", "--force", "--time", "0"]);
        // Its namespaces are held by a process of Podman's, which this ends.
        self.podman(&["system", "migrate"]);
    }
}

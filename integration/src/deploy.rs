//! `deploy/` as its image has it, and a node that it is let loose on: a folder that plays the node's root.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::containerd::{Finished, finish};

/// What `tools/dev install --destdir` fills, as the Containerfile names it.
const INSTALLED: &str = "target/dev/deploy/opt/kata";
const CONFIGURATION: &str = "opt/kata/share/defaults/kata-containers/configuration.toml";

/// The repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the repository").to_owned()
}

/// A node and the image of kata-deploy.
pub struct Node {
    dir: TempDir,
    /// The folder of containerd's configuration, which the node has under the same path.
    containerd_dir: PathBuf,
    settings: BTreeMap<&'static str, String>,
}

impl Node {
    /// A node with that containerd, whose configuration is `config.toml` in `containerd_dir`, or in a folder of its own.
    pub fn new(containerd: &Path, containerd_dir: Option<&Path>) -> Self {
        let dir = tempfile::Builder::new().prefix("kata-node.").tempdir().expect("make a folder");
        let own = dir.path().join("containerd");
        fs::create_dir(&own).expect("make a folder");
        let containerd_dir = containerd_dir.map_or(own, Path::to_owned);
        let mut node = Self { dir, containerd_dir, settings: BTreeMap::new() };
        node.make_image();
        node.write("usr/bin/qemu", "", 0o755);
        // What containerd calls a path is the same file below the node's root.
        let inside = node.path(node.containerd_dir.strip_prefix("/").expect("it is absolute"));
        fs::create_dir_all(inside.parent().expect("it is not the root")).expect("make folders");
        symlink(&node.containerd_dir, inside).expect("link containerd's folder");
        // Notes that it was run.
        let restart = node.dir.path().join("restart");
        write(&restart, "#!/bin/sh\necho >>\"$0.ed\"\n", 0o755);
        let text = |path: &Path| path.display().to_string();
        node.settings = BTreeMap::from([
            ("HOST_ROOT", text(&node.path(""))),
            ("KATA_ARTIFACTS", text(&node.image())),
            ("KATA_ENTER", String::new()),
            ("KATA_RESTART", text(&restart)),
            ("CONTAINERD", text(containerd)),
            ("CONTAINERD_CONFIG", text(&node.config())),
        ]);
        node
    }

    /// Another setting for the script.
    pub fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.settings.insert(name, value.into());
    }

    /// Runs the script with these actions.
    pub fn kata_deploy(&self, actions: &str) -> Finished {
        let mut command = Command::new(self.image().join("scripts/kata-deploy.sh"));
        command.env_remove("NODE_NAME").envs(&self.settings).args(actions.split_whitespace());
        finish(command, b"")
    }

    /// The same; it is to succeed.
    pub fn done(&self, actions: &str) {
        let finished = self.kata_deploy(actions);
        assert_eq!(finished.code, 0, "{actions}: {}", finished.stderr);
    }

    /// The same; it is to fail, and says why.
    pub fn refused(&self, actions: &str) -> String {
        let finished = self.kata_deploy(actions);
        assert_ne!(finished.code, 0, "{actions}: {}", finished.stderr);
        finished.stderr
    }

    /// How often the engine was restarted.
    pub fn restarts(&self) -> usize {
        fs::read(self.dir.path().join("restart.ed")).map_or(0, |lines| lines.len())
    }

    /// containerd's configuration.
    pub fn config(&self) -> PathBuf {
        self.containerd_dir.join("config.toml")
    }

    /// What containerd makes of its configuration.
    pub fn dump(&self) -> String {
        let mut command = Command::new(&self.settings["CONTAINERD"]);
        if self.config().exists() {
            command.arg("--config").arg(self.config()).args(["config", "dump"]);
        } else {
            command.args(["config", "default"]);
        }
        let finished = finish(command, b"");
        assert_eq!(finished.code, 0, "{}", finished.stderr);
        finished.text()
    }

    /// A path below the node's root.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    /// Writes a file below the node's root.
    pub fn write(&self, path: &str, text: &str, mode: u32) {
        write(&self.path(path), text, mode);
    }

    /// The folder that plays the image's `/opt/kata-artifacts`.
    pub fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// The configuration of the installed runtime, on the node.
    pub fn configuration(&self) -> PathBuf {
        self.path(CONFIGURATION)
    }

    /// Every file of the node with its mode and text, and of containerd's configuration.
    pub fn files(&self) -> BTreeMap<PathBuf, (u32, String)> {
        let mut files = BTreeMap::new();
        collect(&self.path(""), &mut files);
        collect(&self.containerd_dir, &mut files);
        files
    }

    /// Does what the Containerfile says, with small files for the installed ones.
    fn make_image(&self) {
        let text =
            fs::read_to_string(repository().join("deploy/Containerfile")).expect("read the Containerfile");
        for line in text.lines().filter_map(|line| line.strip_prefix("COPY ")) {
            let (from, to) = line.split_once(' ').expect("COPY has two words");
            let to = to.strip_prefix("/opt/kata-artifacts/").expect("all is below one folder");
            if from != INSTALLED {
                copy(&repository().join(from), &self.image().join(to));
            }
        }
        for name in ["containerd-shim-kata-v2", "kata-runtime"] {
            write(&self.image().join("opt/kata/bin").join(name), "#!/bin/sh\n", 0o755);
        }
        let configuration = "[hypervisor.qemu]\npath = \"/usr/bin/qemu\"\nvirtio_fs_daemon = \"\"\n";
        write(&self.image().join(CONFIGURATION), configuration, 0o644);
        write(&self.image().join("opt/kata/share/kata-containers/installed-by-tools-dev"), "", 0o644);
    }
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().expect("a file has a folder")).expect("make folders");
    fs::write(path, text).expect("write a file");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set a file's mode");
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        for entry in fs::read_dir(from).expect("list a folder") {
            let entry = entry.expect("list a folder");
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::create_dir_all(to.parent().expect("a file has a folder")).expect("make folders");
        fs::copy(from, to).unwrap_or_else(|error| panic!("copy {}: {error}", from.display()));
    }
}

/// Links are told by their targets and not followed.
fn collect(dir: &Path, files: &mut BTreeMap<PathBuf, (u32, String)>) {
    for entry in fs::read_dir(dir).expect("list a folder") {
        let path = entry.expect("list a folder").path();
        let metadata = path.symlink_metadata().expect("look at a file");
        if metadata.is_dir() {
            collect(&path, files);
        } else {
            let text = if metadata.is_symlink() {
                format!("-> {}", fs::read_link(&path).expect("read a link").display())
            } else {
                fs::read_to_string(&path).expect("read a file")
            };
            files.insert(path, (metadata.permissions().mode(), text));
        }
    }
}

//! A temporary place with everything a sandbox over a fake VM needs: roots, a configuration, bundles, named pipes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use nix::{sys::stat::Mode, unistd::mkfifo};
use runtime::{
    bundle::Bundle,
    config::Config,
    ids::{ContainerId, SandboxId},
    paths::Paths,
    sandbox::CreateContainer,
    stdio::Stdio,
};
use serde_json::json;
use tempfile::TempDir;

use crate::remains;

/// The place; gone when dropped.
pub struct Workshop {
    dir: TempDir,
}

impl Workshop {
    /// `None`, with a word, without the right to mount.
    pub fn open() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "needs root");
            eprintln!("skipped: needs root, for the shared tree is made of mounts");
            return None;
        }
        Some(Self { dir: tempfile::tempdir().expect("make a temporary folder") })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn paths(&self) -> Paths {
        Paths::under(self.dir.path())
    }

    /// A configuration without a daemon for the share; `more` is appended.
    pub fn config(&self, more: &str) -> Config {
        let path = self.dir.path().join("configuration.toml");
        let text = format!(
            "[hypervisor.qemu]\npath = \"/bin/true\"\nkernel = \"/bin/true\"\ninitrd = \"/bin/true\"\n\
             shared_fs = \"virtio-9p\"\n{more}"
        );
        fs::write(&path, text).expect("write the configuration");
        Config::load(&path).expect("a good configuration")
    }

    /// A bundle that runs `script` by the host's shell.
    pub fn bundle(&self, id: &str, script: &str) -> Bundle {
        let dir = self.dir.path().join(format!("bundle-{id}"));
        fs::create_dir_all(dir.join("rootfs")).expect("make the bundle");
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "args": ["sh", "-c", script], "cwd": "/", "user": {"uid": 0, "gid": 0},
                "env": ["PATH=/usr/bin:/bin"],
            },
            "root": {"path": "rootfs"},
            "linux": {"namespaces": [{"type": "mount"}]},
        });
        fs::write(dir.join("config.json"), config.to_string()).expect("write config.json");
        Bundle::load(&dir).expect("a good bundle")
    }

    /// A request for a container that runs `script`.
    pub fn container(&self, id: &str, script: &str, stdio: Stdio) -> CreateContainer {
        let bundle = self.bundle(id, script);
        let id = ContainerId::new(id).expect("a good id");
        CreateContainer { id, bundle, rootfs: Vec::new(), stdio }
    }

    /// Named pipes for all three streams of a process.
    pub fn pipes(&self, name: &str) -> Stdio {
        let pipe = |stream: &str| {
            let path = self.dir.path().join(format!("{name}-{stream}"));
            mkfifo(&path, Mode::S_IRWXU).expect("make a named pipe");
            path.display().to_string()
        };
        Stdio { stdin: pipe("in"), stdout: pipe("out"), stderr: pipe("err"), ..Stdio::default() }
    }

    /// What is left of sandboxes: files and mounts below the roots.
    pub fn remains(&self) -> Vec<PathBuf> {
        remains::below(self.dir.path())
    }
}

impl Drop for Workshop {
    /// A test that failed half-way leaves its mounts, which would keep the folder.
    fn drop(&mut self) {
        remains::unmount(self.dir.path());
    }
}

/// A sandbox's id.
pub fn sandbox_id(id: &str) -> SandboxId {
    SandboxId::new(id).expect("a good id")
}

/// A shim's options that name a configuration file.
pub fn options(configuration: &Path) -> Any {
    // Field 2 of runtimeoptions.v1.Options is the configuration's path.
    let path = configuration.display().to_string();
    let mut value = vec![0x12, u8::try_from(path.len()).expect("a short path")];
    value.extend_from_slice(path.as_bytes());
    Any { type_url: "runtimeoptions.v1.Options".into(), value, ..Default::default() }
}

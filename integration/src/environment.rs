//! What the tests of the top level need from outside: programs, a guest, an image. `tools/dev test` provides it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The folder that `tools/dev test` filled, named by `KATA_TEST_ENV`.
#[derive(Debug, Clone)]
pub struct Environment {
    root: PathBuf,
}

impl Environment {
    /// `None` where nobody provides one; the caller then says that it skips. In CI that is a failure.
    pub fn find() -> Option<Self> {
        let root = env::var_os("KATA_TEST_ENV").map(PathBuf::from).filter(|root| root.is_dir());
        if root.is_none() {
            assert!(
                env::var_os("CI").is_none(),
                "KATA_TEST_ENV names no folder: run the tests by tools/dev test"
            );
            eprintln!("skipped: KATA_TEST_ENV names no folder; run `tools/dev test`");
        }
        root.map(|root| Self { root })
    }

    /// A file that must be there.
    fn file(&self, name: &str) -> PathBuf {
        let path = self.root.join(name);
        assert!(path.exists(), "{} is missing: tools/dev test makes it", path.display());
        path
    }

    pub fn image(&self) -> PathBuf {
        self.file("images/busybox.tar")
    }

    /// The configuration for this machine, with every path filled in.
    pub fn configuration(&self) -> PathBuf {
        self.file("configuration.toml")
    }

    /// The configuration with lines replaced: (key, whole new line). Written to `dir`.
    pub fn configuration_with(&self, dir: &Path, name: &str, changes: &[(&str, String)]) -> PathBuf {
        let text = fs::read_to_string(self.configuration()).expect("read the configuration");
        let is_key = |line: &str, key: &str| line.split('=').next().is_some_and(|start| start.trim() == key);
        for (key, _) in changes {
            assert!(text.lines().any(|line| is_key(line, key)), "the configuration has no line for {key}");
        }
        let lines = text.lines().map(|line| {
            changes
                .iter()
                .find(|(key, _)| is_key(line, key))
                .map_or(line.to_owned(), |(_, changed)| changed.clone())
        });
        let path = dir.join(format!("{name}.toml"));
        fs::write(&path, lines.collect::<Vec<_>>().join("\n")).expect("write the configuration");
        path
    }

    /// The folder of our own programs.
    pub fn programs(&self) -> PathBuf {
        match env::var_os("KATA_TEST_BIN") {
            Some(dir) => dir.into(),
            None => self
                .root
                .parent()
                .map(|target| target.join("release"))
                .expect("the folder lies in a build folder"),
        }
    }

    /// The folder with `containerd` and `ctr` of another release, if the machine's mirror had it.
    pub fn containerd(&self, release: &str) -> Option<PathBuf> {
        let bin = self.root.join(format!("counterparts/containerd-{release}/usr/bin"));
        if !bin.join("containerd").exists() {
            assert!(env::var_os("CI").is_none(), "{} is missing", bin.display());
            eprintln!("skipped: {} is missing", bin.display());
            return None;
        }
        Some(bin)
    }

    /// The vhost-user-vsock program.
    pub fn vhost_user_vsock(&self) -> PathBuf {
        self.file("cargo/bin/vhost-device-vsock")
    }

    pub fn root(&self) -> &Path {
        &self.root
    }
}

//! What the tests of the top level need from outside: programs, a guest, an image. `tools/dev test` provides it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The folder that `tools/dev test` filled, named by `KATA_TEST_ENV`.
#[derive(Debug, Clone)]
pub struct Environment {
    root: PathBuf,
    programs: Option<PathBuf>,
    /// What engines find in their environment besides.
    variables: Vec<(String, PathBuf)>,
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
        root.map(|root| Self { root, programs: None, variables: Vec::new() })
    }

    /// A file that must be there.
    fn file(&self, name: &str) -> PathBuf {
        let path = self.root.join(name);
        assert!(path.exists(), "{} is missing: tools/dev test makes it", path.display());
        path
    }

    pub fn image(&self) -> PathBuf {
        self.file("images/small.tar")
    }

    /// The configuration for this machine, with every path filled in.
    pub fn configuration(&self) -> PathBuf {
        self.file("configuration.toml")
    }

    /// The configuration with lines replaced: (key, whole new line). A key that stands in several tables is told apart
    /// by its table's name before it, as in `runtime.enable_debug`. Written to `dir`.
    pub fn configuration_with(&self, dir: &Path, name: &str, changes: &[(&str, String)]) -> PathBuf {
        let text = fs::read_to_string(self.configuration()).expect("read the configuration");
        for (key, _) in changes {
            assert!(
                keys(&text).any(|(name, _)| is_key(&name, key)),
                "the configuration has no line for {key}"
            );
        }
        let lines: Vec<&str> = keys(&text)
            .map(|(name, line)| {
                let change = changes.iter().find(|(key, _)| is_key(&name, key));
                change.map_or(line, |(_, changed)| changed)
            })
            .collect();
        let path = dir.join(format!("{name}.toml"));
        fs::write(&path, lines.join("\n")).expect("write the configuration");
        path
    }

    /// What the configuration has for a key, such as `hypervisor.qemu.path`, without quotes.
    pub fn setting(&self, key: &str) -> String {
        let text = fs::read_to_string(self.configuration()).expect("read the configuration");
        let found = keys(&text).find(|(name, _)| is_key(name, key));
        let (_, line) = found.unwrap_or_else(|| panic!("the configuration has no line for {key}"));
        line.split_once('=').map_or("", |(_, value)| value).trim().trim_matches('"').to_owned()
    }

    /// The folder of our own programs.
    pub fn programs(&self) -> PathBuf {
        match (&self.programs, env::var_os("KATA_TEST_BIN")) {
            (Some(dir), _) => dir.clone(),
            (None, Some(dir)) => dir.into(),
            (None, None) => self
                .root
                .parent()
                .map(|target| target.join("release"))
                .expect("the folder lies in a build folder"),
        }
    }

    /// The same with other programs of ours, in that folder.
    pub fn with_programs(self, dir: PathBuf) -> Self {
        Self { programs: Some(dir), ..self }
    }

    /// The same with a variable in the environment of its engines.
    pub fn with_variable(mut self, name: &str, value: PathBuf) -> Self {
        self.variables.push((name.into(), value));
        self
    }

    /// What engines find in their environment besides.
    pub fn variables(&self) -> &[(String, PathBuf)] {
        &self.variables
    }

    /// The folder with `containerd` and `ctr` of another release, if the machine's mirror had it.
    pub fn containerd(&self, release: &str) -> Option<PathBuf> {
        Some(self.counterpart(&format!("containerd-{release}"), "bin/containerd")?.join("usr/bin"))
    }

    /// The folder in which a release of Docker was unpacked, if the machine's mirror had it.
    pub fn docker(&self, release: &str) -> Option<PathBuf> {
        self.counterpart(&format!("docker-{release}"), "sbin/dockerd")
    }

    /// The folder in which a release of Podman was unpacked, if the machine's mirror had it.
    pub fn podman(&self, release: &str) -> Option<PathBuf> {
        self.counterpart(&format!("podman-{release}"), "bin/podman")
    }

    /// The registry of images, if the machine's mirror had it.
    pub fn registry(&self) -> Option<PathBuf> {
        Some(self.counterpart("registry", "bin/docker-registry")?.join("usr/bin/docker-registry"))
    }

    fn counterpart(&self, name: &str, program: &str) -> Option<PathBuf> {
        let tree = self.root.join("counterparts").join(name);
        let program = tree.join("usr").join(program);
        if !program.exists() {
            assert!(env::var_os("CI").is_none(), "{} is missing", program.display());
            eprintln!("skipped: {} is missing", program.display());
            return None;
        }
        Some(tree)
    }

    /// The vhost-user-vsock program.
    pub fn vhost_user_vsock(&self) -> PathBuf {
        self.file("cargo/bin/vhost-device-vsock")
    }

    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Every line, with its table and key if it has one.
fn keys(text: &str) -> impl Iterator<Item = (String, &str)> {
    text.lines().scan("", |table, line| {
        *table = line.strip_prefix('[').map_or(*table, |header| header.trim_end_matches(']'));
        let key = line.split_once('=').map_or("", |(key, _)| key.trim());
        Some((format!("{table}.{key}"), line))
    })
}

/// Whether `key` is the name, or the end of it.
fn is_key(name: &str, key: &str) -> bool {
    name == key || name.rsplit('.').next() == Some(key)
}

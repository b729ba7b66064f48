//! A containerd whose VMs are clones of templates in a folder of its own, and what the log tells of each start.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use crate::{
    containerd::{Containerd, Finished, Runtime},
    environment::Environment,
};

/// The containerd and its folder of templates.
pub struct Factory {
    pub containerd: Containerd,
    pub env: Environment,
}

/// A container that has run to its end, and what its shim logged.
#[derive(Debug)]
pub struct Start {
    pub id: String,
    pub finished: Finished,
    pub log: String,
}

impl Factory {
    /// `None`, with a word, where nobody provides an environment.
    pub fn open() -> Option<Self> {
        let env = Environment::find()?;
        Some(Self { containerd: Containerd::start(&env, None), env })
    }

    /// Where the templates are.
    pub fn path(&self) -> PathBuf {
        self.containerd.dir().join("templates")
    }

    /// Our runtime with templates in [`Self::path`], a talkative shim, and `changes` of keys to values.
    pub fn runtime(&self, name: &str, changes: &[(&str, &str)]) -> Runtime {
        let path = format!("\"{}\"", self.path().display());
        let usual = [("runtime.enable_debug", "true"), ("template_path", path.as_str())];
        let lines: Vec<(&str, String)> = usual
            .iter()
            .chain(changes)
            .map(|(key, value)| (*key, format!("{} = {value}", key.rsplit('.').next().unwrap_or(key))))
            .collect();
        Runtime::Kata(self.env.configuration_with(self.containerd.dir(), name, &lines))
    }

    /// An id that no other test on this machine uses meanwhile.
    pub fn id(&self, name: &str) -> String {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        format!("{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
    }

    /// Runs a container to its end, after which nothing of it is left.
    pub fn start(&self, runtime: &Runtime, name: &str, command: &[&str]) -> Start {
        let id = self.id(name);
        let finished = self.containerd.run(runtime, &[], &id, command, b"");
        self.containerd.assert_gone(&id);
        let log = self.log(&id);
        Start { id, finished, log }
    }

    /// As [`Self::start`], of a container that must do its work.
    #[track_caller]
    pub fn good_start(&self, runtime: &Runtime, name: &str) -> Start {
        let start = self.start(runtime, name, &["echo", "works"]);
        start.assert_ended_well();
        assert_eq!(start.finished.text(), "works\n", "{name}: {}\n{}", start.finished.stderr, start.log);
        start
    }

    /// What the shim of an ended sandbox has logged.
    pub fn log(&self, id: &str) -> String {
        let field = format!("sandbox={id} ");
        let lines = || -> String {
            let log = self.containerd.log_of_all();
            let own = log.lines().filter(|line| format!("{line} ").contains(&field));
            own.flat_map(|line| [line, "\n"]).collect()
        };
        // containerd may be behind with copying it.
        self.containerd.wait_for("the end of the shim's log", || phases(&lines(), "sandbox-stop") > 0);
        lines()
    }

    /// The folders of templates, whole and half ones; none if there is no place for them.
    pub fn templates(&self) -> Vec<PathBuf> {
        match fs::read_dir(self.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            entries => entries
                .expect("read the folder of templates")
                .map(|entry| entry.expect("read an entry").path())
                .filter(|path| path.is_dir())
                .collect(),
        }
    }

    /// The one template.
    #[track_caller]
    pub fn template(&self) -> PathBuf {
        let templates = self.templates();
        assert_eq!(templates.len(), 1, "{templates:?}");
        templates.into_iter().next().expect("one")
    }

    /// Puts a shell script in the place of the hypervisor. In it, `$QEMU` is the real one; each call leaves a line with
    /// its process and its arguments in [`Self::calls`].
    pub fn hypervisor(&self, script: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.containerd.dir().join("hypervisor");
        let (qemu, calls) = (self.env.setting("hypervisor.qemu.path"), self.calls_file());
        let text = format!("#!/bin/sh\nQEMU={qemu}\necho \"$$ $*\" >>{}\n{script}\n", calls.display());
        fs::write(&path, text).expect("write the script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it a program");
        path
    }

    /// The calls of [`Self::hypervisor`]: process and arguments.
    pub fn calls(&self) -> Vec<(u32, String)> {
        let text = fs::read_to_string(self.calls_file()).unwrap_or_default();
        let call = |line: &str| {
            let (pid, args) = line.split_once(' ')?;
            Some((pid.parse().ok()?, args.to_owned()))
        };
        text.lines().filter_map(call).collect()
    }

    fn calls_file(&self) -> PathBuf {
        self.containerd.dir().join("calls")
    }
}

impl Start {
    /// How often a phase came to its end.
    pub fn phases(&self, name: &str) -> usize {
        phases(&self.log, name)
    }

    #[track_caller]
    pub fn assert_ended_well(&self) {
        assert_eq!(self.finished.code, 0, "{}: {}\n{}", self.id, self.finished.stderr, self.log);
    }

    /// Asserts that this VM is a clone of a template that was there before, and no word of complaint.
    #[track_caller]
    pub fn assert_is_a_clone(&self) {
        self.assert_phases([
            ("template-find", 1),
            ("template-make", 0),
            ("clone-wake", 1),
            ("guest-boot", 0),
        ]);
        assert_eq!(self.warnings(), Vec::<&str>::new(), "{}", self.id);
    }

    /// Asserts that this VM made a new template and is its clone.
    #[track_caller]
    pub fn assert_made_a_template(&self) {
        self.assert_phases([
            ("template-find", 0),
            ("template-make", 1),
            ("clone-wake", 1),
            ("guest-boot", 0),
        ]);
    }

    /// Asserts that this VM was booted, not cloned.
    #[track_caller]
    pub fn assert_was_booted(&self) {
        self.assert_phases([("clone-wake", 0), ("guest-boot", 1)]);
    }

    #[track_caller]
    fn assert_phases<const N: usize>(&self, expected: [(&str, usize); N]) {
        let found = expected.map(|(name, _)| (name, self.phases(name)));
        assert_eq!(found, expected, "{}: {}", self.id, self.log);
    }

    /// What the shim complained about concerning templates and clones.
    pub fn warnings(&self) -> Vec<&str> {
        let warnings = self.log.lines().filter(|line| line.contains(" level=warning "));
        warnings.filter(|line| line.contains("template") || line.contains("clone")).collect()
    }
}

/// How often a phase came to its end, by a log.
pub fn phases(log: &str, name: &str) -> usize {
    let field = format!(" phase={name} ");
    log.lines().filter(|line| line.contains(&field)).count()
}

/// Permissions and owner of a file, links not followed.
pub fn mode_and_owner(path: &Path) -> (u32, u32) {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (meta.mode() & 0o7777, meta.uid())
}

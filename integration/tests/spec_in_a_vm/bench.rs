//! A containerd to run containers of any spec in.

use std::{
    cell::Cell,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
    process::Command,
};

use integration::{
    compare::spec::{container, mount},
    containerd::{Containerd, Finished, IMAGE, Runtime, finish},
    environment::Environment,
};
use serde_json::{Value, json};

/// A containerd, and a root file system to make containers from.
pub struct Bench {
    pub containerd: Containerd,
    kata: PathBuf,
    pub rootfs: PathBuf,
    made: Cell<u32>,
    /// Whether this containerd passes on fields of runtime-spec 1.2.
    pub has_newer_fields: bool,
}

impl Bench {
    /// `changes` are made to the configuration.
    pub fn open(changes: &[(&str, String)]) -> Option<Self> {
        Self::open_with(changes, None)
    }

    pub fn open_with(changes: &[(&str, String)], release: Option<&str>) -> Option<Self> {
        let env = Environment::find()?;
        let programs = release.and_then(|release| env.containerd(release));
        let has_newer_fields = programs.is_some();
        let containerd = Containerd::start(&env, programs);
        let (mounted, rootfs) = (containerd.dir().join("mounted"), containerd.dir().join("rootfs"));
        fs::create_dir(&mounted).unwrap();
        let image = containerd.ctr(["images", "mount", IMAGE, &mounted.display().to_string()]);
        assert_eq!(image.code, 0, "{}", image.stderr);
        let copied = Command::new("cp").arg("-a").arg(&mounted).arg(&rootfs).status().unwrap();
        assert!(copied.success());
        assert_eq!(containerd.ctr(["images", "unmount", &mounted.display().to_string()]).code, 0);
        for dir in ["etc", "home/u", "private", "tmp", "vol"] {
            fs::create_dir_all(rootfs.join(dir)).unwrap();
        }
        fs::set_permissions(rootfs.join("private"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(rootfs.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::write(rootfs.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\n")
            .unwrap();
        let _ = fs::remove_file(rootfs.join("link")); // Another test's image may have it.
        symlink("/home", rootfs.join("link")).unwrap();
        fs::write(rootfs.join("bin/text"), "no program").unwrap();
        fs::set_permissions(rootfs.join("bin/text"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(rootfs.join("bin/data"), "no program").unwrap();
        let kata = env.configuration_with(containerd.dir(), "spec", changes);
        Some(Self { containerd, kata, rootfs, made: Cell::new(0), has_newer_fields })
    }

    /// The arguments of `ctr run` for a container `id` of a spec.
    pub fn args(&self, id: &str, spec: &Value, options: &[&str]) -> Vec<String> {
        let file = self.containerd.dir().join(format!("{id}.json"));
        fs::write(&file, spec.to_string()).unwrap();
        let mut args = self.containerd.run_args(&Runtime::Kata(self.kata.clone()), options, id);
        args.retain(|arg| arg != IMAGE);
        let at = args.len() - 1;
        args.splice(at..at, ["--config".to_owned(), file.display().to_string()]);
        args
    }

    pub fn spec(&self, script: &str, edit: impl FnOnce(&mut Value)) -> (String, Value) {
        self.made.set(self.made.get() + 1);
        let id = format!("spec-{}-{}", std::process::id(), self.made.get());
        let mut spec = container(script, false, &format!("/{}/{id}", self.containerd.namespace()));
        spec["root"]["path"] = json!(self.rootfs);
        edit(&mut spec);
        (id, spec)
    }

    /// Runs `script` in a container of its own, whose spec is changed first.
    pub fn run(&self, script: &str, edit: impl FnOnce(&mut Value)) -> Finished {
        let (id, spec) = self.spec(script, edit);
        finish(self.containerd.command(self.args(&id, &spec, &["--rm"])), b"")
    }

    /// What a container that must work says.
    pub fn facts(&self, script: &str, edit: impl FnOnce(&mut Value)) -> Vec<String> {
        let done = self.run(script, edit);
        assert_eq!(done.code, 0, "{}\n{}\n{}", done.text(), done.stderr, self.containerd.log());
        done.text().lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    /// Why a container that cannot be is refused.
    pub fn refusal(&self, edit: impl FnOnce(&mut Value)) -> String {
        let done = self.run("echo it ran", edit);
        assert_ne!(done.code, 0, "{}", done.text());
        assert!(!done.text().contains("it ran"), "{}", done.stderr);
        done.stderr
    }
}

#[track_caller]
pub fn assert_facts(facts: &[String], expected: &[&str]) {
    for line in expected {
        assert!(facts.iter().any(|fact| fact == line), "{line:?} is not in\n{}", facts.join("\n"));
    }
}

pub fn push(list: &mut Value, item: Value) {
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut().unwrap().push(item);
}

/// Lets a container do what a daemon of containers does.
pub fn administers(spec: &mut Value) {
    let more = ["DAC_READ_SEARCH", "NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE", "SYS_RESOURCE"];
    for set in ["bounding", "effective", "permitted"] {
        more.iter()
            .for_each(|name| push(&mut spec["process"]["capabilities"][set], json!(format!("CAP_{name}"))));
    }
}

/// Gives a container the programs of the host, which is a Debian.
pub fn bring_programs(spec: &mut Value) {
    for (of_host, place) in [("/usr", "/usr"), ("/usr/lib", "/lib"), ("/usr/lib64", "/lib64")] {
        push(&mut spec["mounts"], mount(place, "bind", of_host, &["rbind", "ro"]));
    }
}

//! The spec's hooks that run on the host, where the engine's programs and the sandbox's network are.
//!
//! `prestart`, `createRuntime` and `createContainer` run before the container is made in the guest, `poststart` and
//! `poststop` after it runs and after it is gone. `startContainer` is the guest's: its programs are the container's. Each
//! gets the container's state on its standard input, and none is waited for without end.

use std::{
    fs::File,
    io::{Seek, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{Hook, Hooks};
use serde_json::json;

use crate::{
    bundle::Bundle,
    child::{Child, Launch},
    error::{Context, Error, Result},
    features::SPEC,
    ids::{ContainerId, SandboxId},
    ledger::{Ledger, ProcessId},
    paths::Paths,
    state::{Record, StateStore},
};

/// Runs the `poststop` hooks of a container whose sandbox is gone, and its server with it. The hooks' processes are listed
/// meanwhile in a record of the container's own.
pub async fn run_poststop(
    paths: &Paths,
    id: &ContainerId,
    bundle: &Bundle,
    deadline: Duration,
) -> Result<()> {
    if bundle.spec.hooks().as_ref().is_none_or(|hooks| hooks.poststop().as_ref().is_none_or(Vec::is_empty)) {
        return Ok(());
    }
    let record = Record::new(id.as_str(), ProcessId::of(std::process::id())?);
    let store = Arc::new(StateStore::create(&paths.sandbox(&SandboxId::new(id.as_str())?), record)?);
    let ledger = Ledger::new(store.clone());
    HostHooks::new(id, bundle, 0, deadline, &ledger).after(Phase::Poststop).await;
    ledger.release_all()?;
    store.remove()
}

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Prestart,
    CreateRuntime,
    CreateContainer,
    Poststart,
    Poststop,
}

/// All that must have run before a container is made, in their order.
const BEFORE_CREATE: [Phase; 3] = [Phase::Prestart, Phase::CreateRuntime, Phase::CreateContainer];

impl Phase {
    /// The hooks' name in the spec, and the container's status while they run.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Prestart => ("prestart", "creating"),
            Self::CreateRuntime => ("createRuntime", "creating"),
            Self::CreateContainer => ("createContainer", "creating"),
            Self::Poststart => ("poststart", "running"),
            Self::Poststop => ("poststop", "stopped"),
        }
    }
}

/// The hooks of one container.
#[derive(Debug)]
pub(crate) struct HostHooks {
    hooks: Hooks,
    id: String,
    /// The one that is reported for the container's processes; of no meaning once they have ended.
    pid: u32,
    bundle: PathBuf,
    annotations: serde_json::Value,
    /// For a hook that names no time of its own.
    deadline: Duration,
    ledger: Ledger,
}

impl HostHooks {
    pub fn new(id: &ContainerId, bundle: &Bundle, pid: u32, deadline: Duration, ledger: &Ledger) -> Self {
        Self {
            hooks: bundle.spec.hooks().clone().unwrap_or_default(),
            id: id.to_string(),
            pid,
            bundle: bundle.dir.clone(),
            annotations: json!(bundle.spec.annotations().clone().unwrap_or_default()),
            deadline,
            ledger: ledger.clone(),
        }
    }

    /// Runs all that must have run before the container is made.
    pub async fn before_create(&self) -> Result<()> {
        for phase in BEFORE_CREATE {
            self.run(phase).await?;
        }
        Ok(())
    }

    /// Runs hooks whose failure changes nothing any more: it is logged, and the next one runs.
    pub async fn after(&self, phase: Phase) {
        for (index, hook) in self.of(phase).iter().enumerate() {
            if let Err(error) = self.run_one(phase, index, hook).await {
                tracing::warn!(%error, container = self.id, "a hook failed");
            }
        }
    }

    async fn run(&self, phase: Phase) -> Result<()> {
        for (index, hook) in self.of(phase).iter().enumerate() {
            self.run_one(phase, index, hook).await?;
        }
        Ok(())
    }

    #[allow(deprecated)] // Prestart hooks: engines still send them.
    fn of(&self, phase: Phase) -> &[Hook] {
        let hooks = match phase {
            Phase::Prestart => self.hooks.prestart(),
            Phase::CreateRuntime => self.hooks.create_runtime(),
            Phase::CreateContainer => self.hooks.create_container(),
            Phase::Poststart => self.hooks.poststart(),
            Phase::Poststop => self.hooks.poststop(),
        };
        hooks.as_deref().unwrap_or_default()
    }

    async fn run_one(&self, phase: Phase, index: usize, hook: &Hook) -> Result<()> {
        let (name, status) = phase.words();
        let what = || format!("error running {name} hook #{index} ({})", hook.path().display());
        let launch = self.launch(hook, status).with_context(what)?;
        let child = Child::spawn("hook", launch, &self.ledger).await.with_context(what)?;
        let own =
            hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
        let deadline = own.map_or(self.deadline, Duration::from_secs);
        match child.wait(deadline).await {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err(Error::internal(child.epitaph()).context(what())),
            Err(error) => {
                child.end(Duration::ZERO).await.with_context(what)?;
                Err(error.context(what()))
            }
        }
    }

    fn launch(&self, hook: &Hook, status: &str) -> Result<Launch> {
        let mut launch = Launch::new(hook.path());
        if let Some((first, rest)) = hook.args().as_deref().and_then(<[String]>::split_first) {
            launch.arg0(first).args(rest);
        }
        if let Some(env) = hook.env() {
            launch.no_env();
            for (name, value) in env.iter().filter_map(|entry| entry.split_once('=')) {
                launch.env(name, value);
            }
        }
        launch.dir(&self.bundle).input(self.state(status).context("the container's state")?);
        Ok(launch)
    }

    /// The container's state, to be read from its beginning.
    fn state(&self, status: &str) -> Result<File> {
        let mut state = json!({
            "ociVersion": SPEC,
            "id": self.id,
            "status": status,
            "bundle": self.bundle,
            "annotations": self.annotations,
        });
        if status != "stopped" {
            state["pid"] = self.pid.into();
        }
        // A pipe would be a process's to fill, or no longer than 64 KiB.
        let mut file = File::from(memfd_create(c"state", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(state.to_string().as_bytes())?;
        file.rewind()?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, sync::Arc, time::Instant};

    use super::*;
    use crate::{
        error::ErrorKind,
        state::{ProcessId, Record, StateStore},
    };

    fn hooks(dir: &Path, hooks: serde_json::Value) -> HostHooks {
        let config = json!({
            "ociVersion": "1.1.0", "process": {"args": ["x"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "root": {"path": "r"}, "linux": {}, "annotations": {"k": "v"}, "hooks": hooks,
        });
        fs::write(dir.join("config.json"), config.to_string()).unwrap();
        let bundle = Bundle::load(dir).unwrap();
        let id = ContainerId::new("c1").unwrap();
        let sandbox = tempfile::tempdir_in(dir).unwrap().keep();
        let record = Record::new("s1", ProcessId::of(std::process::id()).unwrap());
        let ledger = Ledger::new(Arc::new(StateStore::create(&sandbox.join("s1"), record).unwrap()));
        HostHooks::new(&id, &bundle, 42, Duration::from_secs(20), &ledger)
    }

    fn shell(script: &str) -> serde_json::Value {
        json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["A= b ", "PATH=/usr/bin:/bin"]})
    }

    #[tokio::test]
    async fn a_hook_gets_the_state_its_arguments_and_its_environment_alone() {
        let dir = tempfile::tempdir().unwrap();
        let hooks = hooks(
            dir.path(),
            json!({"prestart": [shell("cat > state; env > env; echo \"$0\" > name")],
                   "createRuntime": [shell("cat > runtime")], "createContainer": [shell("cat > container")],
                   "poststop": [shell("exit 3"), shell("cat > stopped")]}),
        );
        hooks.before_create().await.unwrap();
        hooks.after(Phase::Poststop).await;
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let state: serde_json::Value = serde_json::from_str(&read("state")).unwrap();
        let bundle = dir.path().display().to_string();
        assert_eq!(
            state,
            json!({"ociVersion": SPEC, "id": "c1", "status": "creating", "pid": 42, "bundle": bundle,
                   "annotations": {"k": "v"}})
        );
        assert!(read("env").contains("A= b \n") && !read("env").contains("HOME="), "{}", read("env"));
        assert_eq!(read("name"), "sh\n");
        assert_eq!((read("runtime"), read("container")), (read("state"), read("state")));
        let stopped: serde_json::Value = serde_json::from_str(&read("stopped")).unwrap();
        assert_eq!((&stopped["status"], stopped.get("pid")), (&json!("stopped"), None));
    }

    #[tokio::test]
    async fn a_failing_hook_is_named_with_its_words_and_ends_the_row() {
        let dir = tempfile::tempdir().unwrap();
        let hooks = hooks(
            dir.path(),
            json!({"createRuntime": [shell("true"), shell("echo boom >&2; exit 7"), shell("touch late")]}),
        );
        let error = hooks.before_create().await.unwrap_err().to_string();
        for word in ["createRuntime hook #1 (/bin/sh)", "exit status: 7", "boom"] {
            assert!(error.contains(word), "{error}");
        }
        assert!(!dir.path().join("late").exists());
    }

    #[tokio::test]
    async fn a_hook_that_hangs_is_killed_in_time_and_one_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut slow = shell("echo $$ > pid; exec sleep 1000");
        slow["timeout"] = json!(1);
        let slow = hooks(dir.path(), json!({"prestart": [slow]}));
        let began = Instant::now();
        let error = slow.before_create().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
        assert!(began.elapsed() < Duration::from_secs(15));
        let pid = fs::read_to_string(dir.path().join("pid")).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "the hook lives on");

        let missing = hooks(dir.path(), json!({"prestart": [{"path": "/no/such/hook"}]}));
        let error = missing.before_create().await.unwrap_err().to_string();
        assert!(error.contains("/no/such/hook"), "{error}");
    }
}

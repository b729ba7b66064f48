//! A sandbox of the engine over a fake VM, for tests of one test file's length.

use std::{sync::Arc, time::Duration};

use oci_spec::runtime::{Process, ProcessBuilder};
use runtime::{
    container::Container,
    events::Event,
    ids::ExecId,
    process::Exit,
    sandbox::{Sandbox, Setup},
    stdio::Stdio,
};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    fake_vm::{Behaviour, FakeHypervisor},
    workshop::{Workshop, sandbox_id},
};

const SOON: Duration = Duration::from_secs(60);

/// A running sandbox and what happens in it.
pub struct Engine {
    pub sandbox: Arc<Sandbox>,
    pub events: mpsc::UnboundedReceiver<Event>,
    pub hypervisor: Arc<FakeHypervisor>,
}

impl Engine {
    pub async fn start(workshop: &Workshop) -> Self {
        Self::start_with(workshop, Behaviour::Boots).await
    }

    pub async fn start_with(workshop: &Workshop, behaviour: Behaviour) -> Self {
        let hypervisor = FakeHypervisor::new(behaviour);
        let (sender, events) = mpsc::unbounded_channel();
        let setup = Setup {
            id: sandbox_id("s1"),
            config: workshop.config(""),
            hypervisor: hypervisor.clone(),
            paths: workshop.paths(),
            events: sender,
        };
        let sandbox = Sandbox::create(setup, &workshop.bundle("s1", "true")).await.expect("a sandbox");
        sandbox.start().await.expect("the sandbox starts");
        Self { sandbox, events, hypervisor }
    }

    /// A container `id` that runs `script` already.
    pub async fn run(&self, workshop: &Workshop, id: &str, script: &str, stdio: Stdio) -> Arc<Container> {
        let request = workshop.container(id, script, stdio);
        let container = self.sandbox.create_container(request).await.expect("a container");
        container.start().await.expect("the container starts");
        container
    }

    pub async fn stop(self, workshop: &Workshop) {
        self.sandbox.stop().await.expect("the sandbox stops");
        assert_eq!(workshop.remains(), Vec::<std::path::PathBuf>::new());
    }
}

/// A process that runs `script` by the host's shell.
pub fn shell(script: &str) -> Process {
    ProcessBuilder::default()
        .args(["sh", "-c", script].map(str::to_owned).to_vec())
        .env(vec!["PATH=/usr/bin:/bin".to_owned()])
        .cwd("/")
        .build()
        .expect("a good process")
}

/// Adds and starts an exec.
pub async fn exec(container: &Arc<Container>, id: &str, script: &str, stdio: Stdio) {
    let exec = ExecId::new(id).expect("a good id");
    let mut process = shell(script);
    process.set_terminal(Some(stdio.terminal));
    container.exec(exec, process, stdio).await.expect("an exec");
    container.start_exec(id).await.expect("the exec starts");
}

/// Waits for the end of the init, or of an exec.
pub async fn ended(container: &Container, exec: Option<&str>) -> Exit {
    let process = container.process(exec).expect("the process is known");
    timeout(SOON, process.wait()).await.expect("it ends in time").expect("it ends")
}

//! A sandbox of the engine over a fake VM, for tests of one test file's length.

use std::{sync::Arc, time::Duration};

use oci_spec::runtime::{Process, ProcessBuilder};
use runtime::{
    container::Container,
    error::Result,
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
        Self::try_start(workshop, behaviour, "").await.expect("the sandbox starts")
    }

    /// With `config` appended to the configuration.
    pub async fn try_start(workshop: &Workshop, behaviour: Behaviour, config: &str) -> Result<Self> {
        let hypervisor = FakeHypervisor::new(behaviour);
        let (sender, events) = mpsc::unbounded_channel();
        let setup = Setup {
            id: sandbox_id("s1"),
            config: workshop.config(config),
            hypervisor: hypervisor.clone(),
            paths: workshop.paths(),
            events: sender,
        };
        let sandbox = Sandbox::create(setup, &workshop.bundle("s1", "true")).await?;
        sandbox.start().await?;
        Ok(Self { sandbox, events, hypervisor })
    }

    /// A container `id` that runs `script` already.
    pub async fn run(&self, workshop: &Workshop, id: &str, script: &str, stdio: Stdio) -> Arc<Container> {
        let request = workshop.container(id, script, stdio);
        let container = self.sandbox.create_container(request).await.expect("a container");
        container.start().await.expect("the container starts");
        container
    }

    /// What happened so far, each event by its name and process.
    pub fn told(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.events.try_recv().ok()).map(|event| name(&event)).collect()
    }

    pub async fn stop(self, workshop: &Workshop) {
        self.sandbox.stop().await.expect("the sandbox stops");
        self.sandbox.stop().await.expect("a second time as well");
        assert_eq!(workshop.remains(), Vec::<std::path::PathBuf>::new());
    }
}

fn name(event: &Event) -> String {
    match event {
        Event::Created { container, .. } => format!("created {container}"),
        Event::Started { container, .. } => format!("started {container}"),
        Event::ExecAdded { exec, .. } => format!("added {exec}"),
        Event::ExecStarted { exec, .. } => format!("started {exec}"),
        Event::Exited { process, exit, .. } => format!("exited {process} {}", exit.code),
        Event::OutOfMemory { container } => format!("out of memory {container}"),
        Event::Paused { container } => format!("paused {container}"),
        Event::Resumed { container } => format!("resumed {container}"),
        Event::Deleted { container, .. } => format!("deleted {container}"),
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

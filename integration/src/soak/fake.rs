//! Containers that come and go in one sandbox over the fake VM: what its shim takes must not grow.

use std::{fs, path::Path};

use fastrand::Rng;
use runtime::stdio::Stdio;

use crate::{
    engine::{Engine, ended, exec},
    workshop::Workshop,
};

/// What a process takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Takes {
    pub memory_kib: u64,
    pub files: usize,
    pub threads: u64,
}

impl Takes {
    /// What this process takes, which has everything of the shim and the fake guest in it.
    pub fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").expect("read the status");
        let figure = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim().trim_end_matches(" kB").parse().unwrap_or_default()
        };
        let files = fs::read_dir(Path::new("/proc/self/fd")).expect("read the descriptors").count();
        Self { memory_kib: figure("VmRSS:"), files, threads: figure("Threads:") }
    }
}

/// A sandbox in which containers live at random.
pub struct Soak {
    workshop: Workshop,
    engine: Engine,
    rng: Rng,
    cycle: u64,
}

impl Soak {
    /// `None`, with a word, without the right to mount.
    pub async fn start(seed: u64) -> Option<Self> {
        let workshop = Workshop::open()?;
        let engine = Engine::start(&workshop).await;
        Some(Self { workshop, engine, rng: Rng::with_seed(seed), cycle: 0 })
    }

    /// A container with some execs, which ends by itself or is killed.
    pub async fn cycle(&mut self) {
        self.cycle += 1;
        let id = format!("c{}", self.cycle);
        let code = self.rng.u32(0..100);
        let (script, ends) = match self.rng.bool() {
            true => (format!("exit {code}"), true),
            false => ("exec sleep 1000".to_owned(), false),
        };
        let container = self.engine.run(&self.workshop, &id, &script, Stdio::default()).await;
        if !ends {
            for number in 0..self.rng.usize(0..3) {
                let name = format!("e{number}");
                exec(&container, &name, &format!("exit {code}"), Stdio::default()).await;
                assert_eq!(ended(&container, Some(&name)).await.code, code, "{name} of {id}");
                container.delete_exec(&name).await.expect("the exec is deleted");
            }
            if self.rng.bool() {
                container.pause().await.expect("it is paused");
                container.resume().await.expect("it goes on");
            }
            container.process(None).expect("the init").kill(9).await.expect("it is killed");
        }
        assert_eq!(ended(&container, None).await.code, if ends { code } else { 137 }, "{id}");
        drop(container);
        self.engine.sandbox.delete_container(&id).await.expect("it is deleted");
        self.engine.told();
        let _ = fs::remove_dir_all(self.workshop.path().join(format!("bundle-{id}"))); // containerd's part.
    }

    pub async fn stop(self) {
        self.engine.stop(&self.workshop).await;
    }
}

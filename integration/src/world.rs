//! Containers in network namespaces of the test's making, and what scripts in them say.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    containerd::{Containerd, Finished, Runtime, finish},
    environment::Environment,
    place::{Place, unique},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A containerd, and the runtime that its containers get.
pub struct World {
    pub containerd: Containerd,
    pub kata: Runtime,
}

impl World {
    /// `None`, with a word, where virtual machines or network namespaces cannot be had.
    pub fn open() -> Option<Self> {
        let env = Environment::find()?;
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: network namespaces need root");
            return None;
        }
        let kata = Runtime::Kata(env.configuration());
        Some(Self { containerd: Containerd::start(&env, None), kata })
    }

    /// Starts a container in the namespace, which goes on until it is removed.
    pub fn start(&self, place: &Place, id: &str) {
        let option = place.option();
        self.containerd.run_detached(&self.kata, &["--with-ns", &option], id, &["sleep", "1000"]);
    }

    /// Starts a pod's sandbox in the network namespace of that name, as CRI does.
    pub fn start_pod(&self, namespace: &str, id: &str) {
        let option = format!("network:/run/netns/{namespace}");
        let annotation = "io.kubernetes.cri.container-type=sandbox";
        let options = ["--with-ns", &option, "--annotation", annotation];
        self.containerd.run_detached(&self.kata, &options, id, &["sleep", "1000"]);
    }

    /// Runs a script in the container.
    pub fn exec(&self, id: &str, script: &str) -> Finished {
        let name = format!("e{}", unique());
        finish(self.containerd.command(self.containerd.exec_args(id, &name, &["sh", "-c", script])), b"")
    }

    /// What a script in the container prints.
    pub fn inside(&self, id: &str, script: &str) -> String {
        let finished = self.exec(id, script);
        assert_eq!(finished.code, 0, "{script}: {}{}", finished.text(), finished.stderr);
        finished.text()
    }

    /// Waits until what a script in the container prints is as it should be.
    pub fn wait_inside(&self, id: &str, script: &str, fact: impl Fn(&str) -> bool) {
        let began = Instant::now();
        loop {
            let text = self.exec(id, script).text();
            if fact(&text) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{script}: {text}\n{}", self.containerd.log());
            thread::sleep(Duration::from_millis(100));
        }
    }
}

//! Lives in real VMs under a real containerd, one after the other, all with one name.

use std::{
    os::unix::fs::symlink,
    path::Path,
    sync::Mutex,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{
    Fault, Outcome, Point,
    matrix::{Cell, Ground},
    plan::Plan,
};
use crate::{
    containerd::{Containerd, Runtime, finish},
    environment::Environment,
    place::unique,
};

/// For an answer of the guest's, which takes milliseconds where the machine is not busy.
const PATIENCE: Duration = Duration::from_secs(10);
/// Within which it is noticed that a guest does not answer, and its VM has ended: the health check and its deadline.
const NOTICED: Duration = Duration::from_secs(60);

/// A containerd whose shim has fault points.
pub struct Real {
    containerd: Containerd,
    kata: Runtime,
    plan: Plan,
    id: String,
    /// One life at a time.
    one: Mutex<()>,
    _dir: TempDir,
}

impl Real {
    /// With the shim at `program`, and a VM that has all the helpers there are.
    pub fn start(env: Environment, program: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("kf.").tempdir_in("/run").expect("make a folder");
        let (programs, faults) = (dir.path().join("bin"), dir.path().join("faults"));
        for made in [&programs, &faults] {
            std::fs::create_dir(made).expect("make a folder");
        }
        symlink(program, programs.join("containerd-shim-kata-v2")).expect("link the shim");
        let env = env.with_programs(programs).with_variable("KATA_FAULTS", faults.clone());
        let channel = ("agent_channel", "agent_channel = \"vhost-user-vsock\"".to_owned());
        // Of its own: clones that fail put a template aside for everybody.
        let templates =
            ("template_path", format!("template_path = \"{}\"", dir.path().join("template").display()));
        let kata = Runtime::Kata(env.configuration_with(dir.path(), "faults", &[channel, templates]));
        let plan = Plan::in_dir(faults);
        plan.set_patience(PATIENCE);
        let containerd = Containerd::start(&env, None);
        Self { containerd, kata, plan, id: format!("faults{}", unique()), one: Mutex::default(), _dir: dir }
    }

    /// What `ctr` is asked for, until it fails.
    fn calls(&self) -> Outcome {
        match self.containerd.live(self.containerd.life(&self.kata, &[], &self.id)) {
            Ok(()) => Outcome::Whole,
            Err((call, words)) => Outcome::Refused { call, words },
        }
    }

    /// What a user does to be rid of it, whatever has happened.
    fn remove(&self, problems: &mut Vec<String>) {
        let id = self.id.as_str();
        let mut said = String::new();
        // What goes wrong in the removal itself does so once, or until it is noticed that the guest has fallen silent.
        let began = Instant::now();
        for attempt in 0.. {
            let task = self.containerd.ctr(["task", "rm", "--force", id]);
            let gone = self.containerd.ctr(["container", "rm", id]);
            said = format!("{}{}", task.stderr, gone.stderr);
            let is_over = attempt > 0 && began.elapsed() > NOTICED;
            if gone.code == 0 || gone.stderr.contains("not found") || is_over {
                break;
            }
        }
        if finish(self.containerd.command(["container", "info", id]), b"").code == 0 {
            problems.push(format!("it cannot be removed: {said}"));
        }
        let began = Instant::now();
        while !self.containerd.remains(id).is_empty() && began.elapsed() < Duration::from_secs(15) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let remains = self.containerd.remains(id);
        if !remains.is_empty() {
            problems.push(format!("left: {}", remains.join(", ")));
        }
    }

    fn one_life(&self) -> (Outcome, Vec<String>) {
        let mut problems = Vec::new();
        let outcome = self.calls();
        self.remove(&mut problems);
        (outcome, problems)
    }
}

impl Ground for Real {
    fn at_a_time(&self) -> usize {
        1
    }

    /// The agent is the product's, and answers well: one that does not is the fake VM's.
    fn has(&self, point: &Point, fault: Fault) -> bool {
        let asks = point.name.starts_with("agent.");
        // The server that it leaves ends by itself, but only after a while without a create.
        let leaves_a_server = point.name == "shim.start.after" && fault == Fault::ShimKilled;
        let never = leaves_a_server || fault.is_the_agents() || (asks && fault.is_the_hosts());
        !never
    }

    async fn points(&self) -> Vec<Point> {
        let _one = self.one.lock().expect("no panic");
        // The first one makes the template.
        for _ in 0..2 {
            self.plan.clear();
            assert_eq!(
                self.one_life(),
                (Outcome::Whole, Vec::new()),
                "without a fault: {}",
                self.containerd.log()
            );
        }
        self.plan.passed()
    }

    async fn live(&self, point: &Point, fault: Fault) -> Cell {
        let _one = self.one.lock().expect("no panic");
        let began = Instant::now();
        self.plan.clear();
        self.plan.set(point, fault);
        let (outcome, mut problems) = tokio::task::block_in_place(|| self.one_life());
        let fired = self.plan.fired();
        if !problems.is_empty() {
            problems.push(self.containerd.log());
        }
        Cell { outcome, fired, problems, took: began.elapsed() }
    }
}

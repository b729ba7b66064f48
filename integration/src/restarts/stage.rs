//! A containerd whose shims have fault points, and the rounds that are played on it.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{
    Back, Fate,
    life::{Life, REMOVED, soon},
};
use crate::{
    containerd::{Containerd, Runtime},
    environment::Environment,
    faults::{
        Point,
        host::{GUEST_MARK, Leftovers},
        plan::Plan,
    },
    place::unique,
};

/// Nothing here is to come to its end because of a guest's silence.
const PATIENCE: Duration = Duration::from_secs(60);
/// For all shims of a round to stand.
const ALL_STAND: Duration = Duration::from_secs(150);
/// Shims that pass no point for so long have nothing to do; if they do, they are looked after all the same.
const QUIET: Duration = Duration::from_millis(500);
const LONGEST_QUIET: Duration = Duration::from_secs(20);
/// The cgroups of all are looked for elsewhere.
const NO_GROUP: &str = "no-such-group";
const STEP: Duration = Duration::from_millis(10);

/// The containerd, and the folder of its plans.
pub struct Stage {
    containerd: Containerd,
    kata: Runtime,
    dir: TempDir,
    /// What marks the processes that would be in a guest.
    mark: String,
}

impl Stage {
    /// With the shim `program` over the fake VM, whose shared tree `virtiofsd` serves.
    pub fn fake(env: Environment, release: Option<PathBuf>, program: &Path) -> Self {
        let config = format!(
            "[hypervisor.qemu]\npath = \"/bin/true\"\nkernel = \"/bin/true\"\ninitrd = \"/bin/true\"\n\
             shared_fs = \"virtio-fs\"\nvirtio_fs_daemon = \"{}\"\n[runtime]\nsandbox_cgroup_only = true\n",
            env.setting("virtio_fs_daemon")
        );
        let dir = folder();
        let path = dir.path().join("fake.toml");
        fs::write(&path, config).expect("write the configuration");
        Self::start(env, release, program, dir, path)
    }

    /// With the shim `program` and real VMs.
    pub fn real(env: Environment, release: Option<PathBuf>, program: &Path) -> Self {
        let dir = folder();
        // Of its own: clones that fail put a template aside for everybody.
        let templates = format!("template_path = \"{}\"", dir.path().join("template").display());
        let config = env.configuration_with(dir.path(), "real", &[("template_path", templates)]);
        Self::start(env, release, program, dir, config)
    }

    fn start(
        env: Environment,
        release: Option<PathBuf>,
        program: &Path,
        dir: TempDir,
        config: PathBuf,
    ) -> Self {
        let (programs, faults) = (dir.path().join("bin"), dir.path().join("faults"));
        for made in [&programs, &faults] {
            fs::create_dir(made).expect("make a folder");
        }
        symlink(program, programs.join("containerd-shim-kata-v2")).expect("link the shim");
        let env = env.with_programs(programs).with_variable("KATA_FAULTS", faults);
        let containerd = Containerd::start(&env, release);
        let mark = format!("{GUEST_MARK}={}", dir.path().display());
        Self { containerd, kata: Runtime::Kata(config), dir, mark }
    }

    /// The points of a life in which nothing happens to containerd.
    pub fn points(&self) -> Vec<Point> {
        let id = format!("rs{}", unique());
        // A first one may have a template to make.
        let _ = self.one(&id).live();
        let plan = self.plan(&id);
        let lived = self.one(&id).live();
        assert_eq!(lived, Ok(()), "without a fault: {}", self.containerd.log());
        let mut seen = HashSet::new();
        plan.passed().into_iter().filter(|point| seen.insert(point.clone())).collect()
    }

    /// Kills containerd once while a shim stands at each of `points`, starts it again, and looks after each container.
    pub fn round(&self, points: &[Point], back: Back) -> Vec<Fate> {
        let played: Vec<_> = points
            .iter()
            .map(|point| {
                let id = format!("rs{}", unique());
                let plan = self.plan(&id);
                plan.hold(point);
                (id, plan)
            })
            .collect();
        let calls = self.kill_and_start(&played, back);
        let fates = thread::scope(|scope| {
            let looks: Vec<_> = played
                .iter()
                .zip(points)
                .zip(calls)
                .map(|(((id, plan), point), call)| {
                    scope.spawn(move || {
                        let one = self.one(id);
                        let (status, mut problems) = match call {
                            Some(call) => one.look_after(call),
                            None => Default::default(),
                        };
                        plan.clear();
                        one.live_again(&mut problems);
                        if !problems.is_empty() {
                            eprintln!("{id}:\n{}", self.containerd.log_of(id));
                        }
                        Fate { point: point.clone(), back, call, status, problems }
                    })
                })
                .collect();
            looks.into_iter().map(|look| look.join().expect("no panic")).collect::<Vec<Fate>>()
        });
        for (id, _) in &played {
            fs::remove_dir_all(self.faults().join(id)).expect("remove a plan");
        }
        fates
    }

    /// The calls that were cut off.
    fn kill_and_start(&self, played: &[(String, Plan)], back: Back) -> Vec<Option<&'static str>> {
        thread::scope(|scope| {
            let lives: Vec<_> =
                played.iter().map(|(id, plan)| (scope.spawn(move || self.one(id).live()), plan)).collect();
            let began = Instant::now();
            while !lives.iter().all(|(life, plan)| plan.fired() || life.is_finished()) {
                assert!(began.elapsed() < ALL_STAND, "not all stand: {}", self.containerd.log());
                thread::sleep(STEP);
            }
            let ended: Vec<_> = lives.iter().map(|(life, _)| life.is_finished()).collect();
            self.containerd.kill();
            let go = || played.iter().for_each(|(_, plan)| plan.go());
            if back == Back::After {
                go();
                become_quiet(|| played.iter().map(|(_, plan)| plan.passed().len()).sum());
            }
            self.containerd.start_again("");
            if back == Back::During {
                go();
            }
            let outcomes = lives.into_iter().map(|(life, _)| life.join().expect("no panic"));
            let calls = outcomes.zip(ended).zip(played).map(|((outcome, ended), (_, plan))| match outcome {
                Err((call, words)) if ended => {
                    panic!("{call} fails by itself: {words}\n{}", self.containerd.log())
                }
                Err((call, _)) => Some(call),
                // The shim stands at what it does after its last answer.
                Ok(()) => plan.fired().then_some(REMOVED),
            });
            calls.collect()
        })
    }

    /// What is there without containerd, which should be nothing when all containers are removed.
    pub fn remains(&self) -> Vec<String> {
        self.containerd.stop();
        Leftovers::end_guest(self.dir.path());
        let left = || Leftovers::of(self.dir.path(), NO_GROUP).0;
        soon(|| left().is_empty());
        let left = left();
        self.containerd.start_again("");
        left
    }

    /// Its containerd.
    pub fn containerd(&self) -> &Containerd {
        &self.containerd
    }

    fn one<'a>(&'a self, id: &'a str) -> Life<'a> {
        Life { containerd: &self.containerd, kata: &self.kata, id, mark: &self.mark }
    }

    fn plan(&self, id: &str) -> Plan {
        let dir = self.faults().join(id);
        fs::create_dir(&dir).expect("make a plan's folder");
        let plan = Plan::in_dir(dir);
        plan.set_patience(PATIENCE);
        plan
    }

    fn faults(&self) -> PathBuf {
        self.dir.path().join("faults")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        Leftovers::end_guest(self.dir.path());
    }
}

fn folder() -> TempDir {
    // The paths of sockets are short.
    tempfile::Builder::new().prefix("kr.").tempdir_in("/run").expect("make a folder")
}

/// Waits until shims that go on have nothing more to do: they pass no more points.
fn become_quiet(passes: impl Fn() -> usize) {
    let began = Instant::now();
    let (mut passed, mut since) = (0, Instant::now());
    while since.elapsed() < QUIET && began.elapsed() < LONGEST_QUIET {
        let now = passes();
        if now != passed {
            (passed, since) = (now, Instant::now());
        }
        thread::sleep(STEP);
    }
}

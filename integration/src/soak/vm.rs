//! Lives in real VMs, under a real containerd.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    containerd::{Containerd, Runtime, processes},
    environment::Environment,
    place::unique,
};

/// After a life has ended.
const SOON: Duration = Duration::from_secs(15);

/// A containerd whose containers live at random.
pub struct Soak {
    containerd: Containerd,
    kata: Runtime,
    rng: Rng,
}

/// What a life is.
#[derive(Debug, Clone, Copy)]
enum Life {
    Ends,
    IsRemoved,
    Execs,
    IsPaused,
    IsLimited,
    LosesItsVm,
    LosesItsShim,
    IsAPod,
}

/// What ctr does not give a container by itself.
const CGROUPS: &str = "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro";

const LIVES: [Life; 8] = [
    Life::Ends,
    Life::IsRemoved,
    Life::Execs,
    Life::IsPaused,
    Life::IsLimited,
    Life::LosesItsVm,
    Life::LosesItsShim,
    Life::IsAPod,
];

impl Soak {
    pub fn start(env: &Environment, seed: u64) -> Self {
        let kata = Runtime::Kata(env.configuration());
        Self { containerd: Containerd::start(env, None), kata, rng: Rng::with_seed(seed) }
    }

    /// One life; what it was, and what should not be.
    pub fn cycle(&mut self) -> (String, Vec<String>) {
        let life = LIVES[self.rng.usize(..LIVES.len())];
        let id = format!("soak{}", unique());
        let mut problems = Vec::new();
        self.live(life, &id, &mut problems);
        let members = [id.clone(), format!("{id}-a"), format!("{id}-b")];
        for id in members.iter().rev() {
            self.containerd.ctr(["task", "rm", "--force", id]);
            self.containerd.ctr(["container", "rm", id]);
        }
        let began = Instant::now();
        let left = loop {
            let left: Vec<_> = members.iter().flat_map(|id| self.containerd.remains(id)).collect();
            if left.is_empty() || began.elapsed() > SOON {
                break left;
            }
            thread::sleep(Duration::from_millis(20));
        };
        problems.extend(left.into_iter().map(|what| format!("left: {what}")));
        (format!("{life:?}"), problems)
    }

    fn live(&mut self, life: Life, id: &str, problems: &mut Vec<String>) {
        if let Life::Ends = life {
            let code = self.rng.i32(0..200);
            let kib = self.rng.usize(0..512);
            let script = format!("dd if=/dev/zero bs=1024 count={kib} 2>/dev/null; exit {code}");
            let finished = self.containerd.run(&self.kata, &[], id, &["sh", "-c", &script], b"");
            if (finished.code, finished.stdout.len()) != (code, kib * 1024) {
                let got = (finished.code, finished.stdout.len());
                problems.push(format!("wanted ({code}, {}), got {got:?}: {}", kib * 1024, finished.stderr));
            }
            return;
        }
        let pod = "io.kubernetes.cri.container-type=sandbox";
        let limit = (self.rng.u64(64..512) << 20).to_string();
        let options: &[&str] = match life {
            Life::IsAPod => &["--annotation", pod],
            Life::IsLimited => &["--memory-limit", &limit, "--mount", CGROUPS],
            _ => &[],
        };
        self.containerd.run_detached(&self.kata, options, id, &["sleep", "1000"]);
        match life {
            Life::Ends | Life::IsRemoved => {}
            Life::Execs => {
                for _ in 0..self.rng.usize(1..6) {
                    let code = self.rng.i32(0..200);
                    self.expect(&self.exec(id, &format!("exit {code}")), code, problems);
                }
            }
            Life::IsPaused => {
                self.expect(&["task", "pause", id], 0, problems);
                if self.rng.bool() {
                    self.expect(&["task", "resume", id], 0, problems);
                    self.expect(&self.exec(id, "true"), 0, problems);
                }
            }
            Life::IsLimited => {
                let file = "/sys/fs/cgroup/memory.max";
                let asks = format!("test $(cat {file}) = {limit}");
                self.expect(&self.exec(id, &asks), 0, problems);
            }
            Life::LosesItsVm => self.kill("qemu-system", id, problems),
            Life::LosesItsShim => self.kill("containerd-shim-kata", id, problems),
            Life::IsAPod => {
                for member in ["a", "b"] {
                    let name = format!("{id}-{member}");
                    let of = format!("io.kubernetes.cri.sandbox-id={id}");
                    let options =
                        ["--annotation", "io.kubernetes.cri.container-type=container", "--annotation", &of];
                    self.containerd.run_detached(&self.kata, &options, &name, &["sleep", "1000"]);
                    self.expect(&self.exec(&name, "true"), 0, problems);
                }
                if self.rng.bool() {
                    self.kill("qemu-system", id, problems);
                }
            }
        }
    }

    fn exec(&self, id: &str, script: &str) -> Vec<String> {
        self.containerd.exec_args(id, &format!("e{}", unique()), &["sh", "-c", script])
    }

    fn expect<S: AsRef<str>>(&self, args: &[S], code: i32, problems: &mut Vec<String>) {
        let finished = self.containerd.ctr(args.iter().map(AsRef::as_ref));
        if finished.code != code {
            let words: Vec<_> = args.iter().map(AsRef::as_ref).collect();
            problems.push(format!("{}: {} for {code}: {}", words.join(" "), finished.code, finished.stderr));
        }
    }

    /// Kills the sandbox's process of that name.
    fn kill(&self, name: &str, id: &str, problems: &mut Vec<String>) {
        let record = fs::read_to_string(format!("/run/vc/sbs/{id}/persist.json")).unwrap_or_default();
        let record: Value = serde_json::from_str(&record).unwrap_or_default();
        let owner = record.pointer("/kata_rs/owner/pid").and_then(Value::as_u64);
        let vm = record.pointer("/HypervisorState/Pid").and_then(Value::as_u64);
        let wanted = if name.starts_with("qemu") { vm } else { owner };
        let found = processes()
            .into_iter()
            .find(|(pid, line)| Some(u64::from(*pid)) == wanted && line.contains(name));
        match found {
            Some((pid, _)) => kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("it runs"),
            None => problems.push(format!("{id} has no {name}")),
        }
    }
}

//! What goes wrong, and where: a folder that `KATA_FAULTS` names, for every process that finds it in its environment. If it
//! has a folder of the working directory's name, which is the container's where that is a bundle, then it is that one.
//!
//! | file | holds |
//! |---|---|
//! | `patience` | for how many seconds the guest is waited for at most |
//! | `plan` | `POINT N ACTION`: what is done the Nth time that a process passes the point; may be missing |
//! | `trace` | written here: each point passed, and its N, a line each |
//! | `fired` | made here when it is done; it is done once by all processes together |
//! | `go` | ends a `hold` |
//!
//! Actions: `die`, `hold`, `signal ROLE NUMBER`, `errno NUMBER`, and for a fake guest `hang`, `error`, `garbage`.

use std::{
    collections::HashMap,
    fs::{self, OpenOptions},
    io::{self, Write},
    path::PathBuf,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, raise},
    unistd::Pid,
};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::block_in_place,
};

use crate::error::Result;

/// How long a step stands still at most: a test that has failed lets nobody go on.
const LONGEST_HOLD: Duration = Duration::from_secs(120);
const STEP: Duration = Duration::from_millis(2);

/// What is done at a point.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    /// This process is killed.
    Die,
    /// The step stands still until the test lets it go on; what else this process does goes on.
    Hold,
    /// The latest helper of that role is sent a signal.
    Signal { role: String, signal: i32 },
    /// The step fails with this errno.
    Errno(i32),
    /// The guest misbehaves in the call that comes next.
    Guest(GuestFault),
}

/// How a guest answers a call wrongly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestFault {
    /// Not at all, and nothing that comes later either.
    Hang,
    /// With an error.
    Error,
    /// With bytes that are no answer.
    Garbage,
}

struct Planned {
    point: String,
    count: u64,
    action: Action,
}

struct Plan {
    dir: PathBuf,
    patience: Duration,
    planned: Option<Planned>,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    passed: HashMap<String, u64>,
    helpers: Vec<(String, u32)>,
    /// The guest's call that goes wrong.
    guest: Option<(String, GuestFault)>,
}

static PLAN: LazyLock<Option<Plan>> = LazyLock::new(|| {
    let dir = PathBuf::from(std::env::var_os("KATA_FAULTS")?);
    let own = std::env::current_dir().ok().and_then(|bundle| Some(dir.join(bundle.file_name()?)));
    let dir = own.filter(|own| own.is_dir()).unwrap_or(dir);
    let planned = fs::read_to_string(dir.join("plan")).ok().map(|text| parse(text.trim()));
    let patience = fs::read_to_string(dir.join("patience")).ok()?;
    let patience = Duration::from_secs(patience.trim().parse().ok()?);
    Some(Plan { dir, patience, planned, progress: Mutex::default() })
});

/// A plan is a test's own text, so a bad one stops the test.
fn parse(text: &str) -> Planned {
    let mut words = text.split(' ');
    let mut word = || words.next().unwrap_or_else(|| panic!("the plan ends early: {text}"));
    let (point, count, action) = (word().to_owned(), word(), word());
    let action = match action {
        "die" => Action::Die,
        "hold" => Action::Hold,
        "signal" => Action::Signal { role: word().to_owned(), signal: number(word()) },
        "errno" => Action::Errno(number(word())),
        "hang" => Action::Guest(GuestFault::Hang),
        "error" => Action::Guest(GuestFault::Error),
        "garbage" => Action::Guest(GuestFault::Garbage),
        other => panic!("no such action: {other}"),
    };
    Planned { point, count: count.parse().unwrap_or_else(|_| panic!("no number: {count}")), action }
}

fn number(word: &str) -> i32 {
    word.parse().unwrap_or_else(|_| panic!("no number: {word}"))
}

/// Passes the point `name` of `step`.
pub(super) fn pass(name: &str, step: &str) -> Result<()> {
    let Some(plan) = &*PLAN else { return Ok(()) };
    let count = {
        let mut progress = plan.progress();
        let count = progress.passed.entry(name.to_owned()).or_default();
        *count += 1;
        *count
    };
    let trace = OpenOptions::new().create(true).append(true).open(plan.dir.join("trace"));
    let _ = trace.and_then(|mut trace| trace.write_all(format!("{name} {count}\n").as_bytes())); // The test misses it.
    let now = plan.planned.as_ref().filter(|planned| planned.point == name && planned.count == count);
    match now {
        Some(planned) if plan.is_first() => plan.carry_out(step, &planned.action),
        _ => Ok(()),
    }
}

pub(super) fn started(role: &str, pid: u32) {
    if let Some(plan) = &*PLAN {
        plan.progress().helpers.push((role.to_owned(), pid));
    }
}

pub(super) fn patience(usual: Duration) -> Duration {
    PLAN.as_ref().map_or(usual, |plan| usual.min(plan.patience))
}

/// Whether and how the guest is to answer `call` wrongly, for those who play the guest.
pub fn for_guest(call: &str) -> Option<GuestFault> {
    let plan = PLAN.as_ref()?;
    let mut progress = plan.progress();
    match &progress.guest {
        Some((_, GuestFault::Hang)) => Some(GuestFault::Hang),
        Some((name, fault)) if name == call => {
            let fault = *fault;
            progress.guest = None;
            Some(fault)
        }
        _ => None,
    }
}

impl Plan {
    fn is_first(&self) -> bool {
        OpenOptions::new().write(true).create_new(true).open(self.dir.join("fired")).is_ok()
    }

    fn carry_out(&self, step: &str, action: &Action) -> Result<()> {
        match action {
            Action::Die => raise(Signal::SIGKILL).map_err(io::Error::from)?,
            Action::Hold => self.hold(),
            Action::Errno(errno) => return Err(io::Error::from_raw_os_error(*errno).into()),
            Action::Guest(fault) => self.progress().guest = Some((step.to_owned(), *fault)),
            Action::Signal { role, signal } => {
                let progress = self.progress();
                let helper = progress.helpers.iter().rev().find(|(known, _)| known == role);
                if let (Some((_, pid)), Ok(signal)) = (helper, Signal::try_from(*signal)) {
                    let _ = kill(Pid::from_raw(*pid as i32), signal); // It may have ended.
                }
            }
        }
        Ok(())
    }

    fn hold(&self) {
        let until_told = || {
            let began = Instant::now();
            while !self.dir.join("go").exists() && began.elapsed() < LONGEST_HOLD {
                sleep(STEP);
            }
        };
        let executor = Handle::try_current().map(|executor| executor.runtime_flavor());
        match executor {
            // Else the tasks that this thread would run next stand still, too.
            Ok(RuntimeFlavor::MultiThread) => block_in_place(until_told),
            _ => until_told(),
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // Counts and lists, whole at any time.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! A scenario as data: its name, its group, its steps, and what is known to differ.

use serde_json::Value;

use super::{spec::Change, streams::Wiring};

/// A process by its name in the row: [`INIT`], or an added one's id.
pub type Who = &'static str;

/// The container's first process.
pub const INIT: Who = "init";

/// One thing that a client of containerd does.
#[derive(Debug, Clone)]
pub enum Step {
    /// Makes the snapshot, the container and the task.
    Create(Creation),
    /// Makes the task once more.
    CreateAgain,
    Start(Who),
    State(Who),
    Wait(Who),
    /// Begins to wait, and goes on.
    WaitBegin(Who),
    /// Ends all begun waits.
    WaitEnd,
    Kill(Who, u32),
    KillAll(u32),
    Delete(Who),
    Exec(Who, Addition),
    /// So many added processes at the same time, each from exec to delete.
    ExecMany(usize, &'static str),
    Pause,
    Resume,
    /// How many processes there are.
    Pids,
    /// Which parts the statistics have.
    Stats,
    Update(Value),
    Resize(Who, u32, u32),
    CloseIo(Who),
    Checkpoint,
    /// Writes to the input.
    Write(Who, Vec<u8>),
    /// Closes our end of the input. The shim's own end stays until CloseIO.
    EndInput(Who),
    /// Opens the input anew, as another client.
    BeginInput(Who),
    /// Waits for words on standard output.
    Expect(Who, &'static str),
    /// Waits until the state is this, which only asking tells.
    Until(Who, &'static str),
    /// Lets a held reader read.
    Release(Who),
    /// Closes our ends of the outputs.
    Leave(Who),
    /// All that the outputs brought, after their end.
    Output(Who),
    /// The events up to one that begins so.
    Events(&'static str),
}

/// How a container is made.
#[derive(Debug, Clone)]
pub struct Creation {
    pub script: &'static str,
    pub wiring: Wiring,
    pub changes: Vec<Change>,
    pub rootfs: Rootfs,
}

/// Where a container's root comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rootfs {
    Snapshot,
    /// No mount, and nothing in the bundle.
    Missing,
    /// A mount whose source is not there.
    Broken,
}

/// How a process is added. The spec is the process's part.
#[derive(Debug, Clone)]
pub struct Addition {
    pub script: &'static str,
    pub wiring: Wiring,
    pub changes: Vec<Change>,
}

/// Whose container the steps work in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// They make their own.
    Own,
    /// One that runs, and that all such rows use.
    Shared,
}

/// A scenario.
#[derive(Debug, Clone)]
pub struct Row {
    pub group: &'static str,
    pub name: String,
    pub place: Place,
    pub steps: Vec<Step>,
    /// What a refusal must name; its other words are each runtime's own.
    pub naming: Option<&'static str>,
    /// Why the outcomes may, and then must, differ.
    pub differs: Option<&'static str>,
    /// Whether it belongs to the short selection that every test run does.
    pub quick: bool,
}

impl Row {
    /// `group/name`, as it is selected and shown.
    pub fn title(&self) -> String {
        format!("{}/{}", self.group, self.name)
    }

    /// Compares of a refusal only that it comes, and that it names this.
    pub fn naming(mut self, what: &'static str) -> Self {
        self.naming = Some(what);
        self
    }

    /// Names the reason for a difference.
    pub fn differs(mut self, reason: &'static str) -> Self {
        self.differs = Some(reason);
        self
    }

    /// Puts it into the short selection.
    pub fn quick(mut self) -> Self {
        self.quick = true;
        self
    }
}

/// A row that makes its own container.
pub fn row(group: &'static str, name: impl Into<String>, steps: impl Into<Vec<Step>>) -> Row {
    let steps = steps.into();
    Row { group, name: name.into(), place: Place::Own, steps, naming: None, differs: None, quick: false }
}

/// A row within the container that runs.
pub fn shared(group: &'static str, name: impl Into<String>, steps: impl Into<Vec<Step>>) -> Row {
    Row { place: Place::Shared, ..row(group, name, steps) }
}

/// A container with pipes.
pub fn create(script: &'static str) -> Step {
    create_with(script, Wiring::Pipes, [])
}

/// A container with other streams, or another spec.
pub fn create_with(script: &'static str, wiring: Wiring, changes: impl Into<Vec<Change>>) -> Step {
    Step::Create(Creation { script, wiring, changes: changes.into(), rootfs: Rootfs::Snapshot })
}

/// An added process with pipes.
pub fn exec(who: Who, script: &'static str) -> Step {
    exec_with(who, script, Wiring::Pipes, [])
}

/// An added process with other streams, or another spec.
pub fn exec_with(who: Who, script: &'static str, wiring: Wiring, changes: impl Into<Vec<Change>>) -> Step {
    Step::Exec(who, Addition { script, wiring, changes: changes.into() })
}

/// A container from start to end.
pub fn run(script: &'static str) -> Vec<Step> {
    run_with(script, [])
}

/// A container of another spec from start to end.
pub fn run_with(script: &'static str, changes: impl Into<Vec<Change>>) -> Vec<Step> {
    life(create_with(script, Wiring::Pipes, changes), [])
}

/// An added process from start to end.
pub fn add(script: &'static str) -> Vec<Step> {
    add_with(script, [])
}

/// An added process of another spec from start to end.
pub fn add_with(script: &'static str, changes: impl Into<Vec<Change>>) -> Vec<Step> {
    life(exec_with("e", script, Wiring::Pipes, changes), [])
}

/// A process from the step that makes it, through what is done while it runs, to its end.
pub fn life(begin: Step, meanwhile: impl Into<Vec<Step>>) -> Vec<Step> {
    let who = match &begin {
        Step::Exec(who, _) => who,
        _ => INIT,
    };
    let [start, end @ ..] = to_the_end(who);
    let mut steps = vec![begin, start];
    steps.extend(meanwhile.into());
    steps.extend(end);
    steps
}

/// Start, wait, outputs, delete.
pub fn to_the_end(who: Who) -> [Step; 4] {
    [Step::Start(who), Step::Wait(who), Step::Output(who), Step::Delete(who)]
}

/// What every row that only wants a running container begins with.
pub fn running(script: &'static str) -> [Step; 2] {
    [create(script), Step::Start(INIT)]
}

/// Rows' steps one after the other.
pub fn steps(parts: impl IntoIterator<Item = Vec<Step>>) -> Vec<Step> {
    parts.into_iter().flatten().collect()
}

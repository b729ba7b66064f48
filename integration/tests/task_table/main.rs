//! Every line of the table in `docs/task-api.md`, asked of our shim over the fake VM and of runc's.

mod installed;
mod ours;
mod subject;
mod table;

use subject::Subject;
use table::Row;

/// Makes the call of each row in its state. Returns what was not as the table says.
async fn walk(subject: &Subject, rows: &[Row], runc: bool) -> Vec<String> {
    let mut differences = Vec::new();
    for row in rows {
        subject.bring(&row.state).await;
        let expected = row.runc.as_ref().filter(|_| runc).unwrap_or(&row.ours);
        let given = subject.make(&row.call).await;
        if !expected.matches(&given) {
            let known = if runc && row.runc.is_some() { &row.why } else { "" };
            differences.push(format!("{row}\n    expected {expected} {known}\n    given    {given}"));
        }
        subject.clear().await;
    }
    differences
}

fn assert_none(differences: &[String]) {
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

/// A shutdown ends the shim when it has nothing to keep, so it comes last.
fn split_shutdown() -> (Vec<Row>, Vec<Row>) {
    let ends = |row: &Row| row.call == "Shutdown" && matches!(row.state.as_str(), "none" | "deleted");
    let (last, rows) = table::rows().into_iter().partition(ends);
    (rows, last)
}

#[test]
fn the_table_has_every_call_in_every_state() {
    let rows = table::rows();
    let calls = [
        "State",
        "Create",
        "Start",
        "Delete",
        "Pids",
        "Pause",
        "Resume",
        "Checkpoint",
        "Kill",
        "ResizePty",
        "CloseIO",
        "Exec",
        "Update",
        "Wait",
        "Stats",
        "Connect",
        "Shutdown",
    ];
    for call in calls {
        for state in ["none", "created", "running", "paused", "stopped", "deleted"] {
            let count = rows.iter().filter(|row| row.call == call && row.state == state).count();
            assert_eq!(count, 1, "{call} when {state}");
        }
    }
    for call in ["State", "Start", "Delete", "Kill", "ResizePty", "CloseIO", "Wait"] {
        for state in ["no exec", "exec created", "exec running", "exec stopped", "exec deleted"] {
            let call = format!("{call} exec");
            let count = rows.iter().filter(|row| row.call == call && row.state == state).count();
            assert_eq!(count, 1, "{call} when {state}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_shim_answers_as_the_table_says_under_both_names() {
    let (rows, last) = split_shutdown();
    for service in ["containerd.task.v2.Task", "containerd.task.v3.Task"] {
        let Some(ours) = ours::start(service).await else { return };
        let mut differences = walk(&ours.subject, &rows, false).await;
        for row in &last {
            let Some(ours) = ours::start(service).await else { return };
            differences.extend(walk(&ours.subject, std::slice::from_ref(row), false).await);
        }
        assert_none(&differences);
    }
}

/// A life with everything that is told of.
const LIFE: [&str; 12] = [
    "Create",
    "Start",
    "Exec",
    "Start exec",
    "Kill exec",
    "Wait exec",
    "Delete exec",
    "Pause",
    "Resume",
    "Kill",
    "Wait",
    "Delete",
];

#[tokio::test(flavor = "multi_thread")]
async fn both_shims_tell_the_same_events_in_the_same_order() {
    let Some(mut ours) = ours::start("containerd.task.v2.Task").await else { return };
    let Some(reference) = installed::start().await else { return };
    for step in LIFE {
        for subject in [&ours.subject, &reference.subject] {
            let answer = subject.make(step).await;
            assert_eq!(answer.code, "OK", "{step}: {answer}");
        }
    }
    let told = ours.topics();
    assert_eq!(told, reference.topics("/tasks/delete").await);
    assert_eq!(told.len(), 9, "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn runcs_shim_answers_as_the_table_says() {
    let (rows, last) = split_shutdown();
    let Some(reference) = installed::start().await else { return };
    let mut differences = walk(&reference.subject, &rows, true).await;
    differences.extend(walk(&reference.subject, &last[..1], true).await);
    assert_none(&differences);
}

/// The rows in which the guest's part is most of the answer.
#[tokio::test(flavor = "multi_thread")]
async fn our_shim_with_a_real_vm_answers_as_the_table_says() {
    let in_the_guest = |row: &Row| row.state.contains("paused") || row.state.contains("container created");
    let rows: Vec<_> = table::rows().into_iter().filter(in_the_guest).collect();
    assert!(rows.len() > 20);
    let Some(ours) = installed::start_ours().await else { return };
    assert_none(&walk(&ours.subject, &rows, false).await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "two minutes, for a VM each; the fake VM shows the same"]
async fn our_shim_with_a_real_vm_answers_every_row() {
    let (rows, last) = split_shutdown();
    let Some(ours) = installed::start_ours().await else { return };
    let mut differences = walk(&ours.subject, &rows, false).await;
    differences.extend(walk(&ours.subject, &last[..1], false).await);
    assert_none(&differences);
}

//! A containerd that has forgotten what still lives, for its state is lost, or what it was removing.

use std::fs;

use integration::{
    containerd::{Containerd, Runtime, finish},
    environment::Environment,
    restarts::{bundle, soon},
};

use super::programs;

fn forgets(release: Option<&str>) {
    let Some(env) = Environment::find() else { return };
    let Some(programs) = programs(&env, release) else { return };
    let containerd = Containerd::start(&env, programs);
    let kata = Runtime::Kata(env.configuration());
    let id = format!("forgotten-{}", release.unwrap_or("1.6"));
    containerd.run_detached(&kata, &[], &id, &["sleep", "1000"]);

    containerd.kill();
    containerd.lose_tasks();
    containerd.start_again("");
    assert!(!containerd.ctr(["task", "ls"]).text().contains(&id));
    assert!(!containerd.remains(&id).is_empty(), "the test kills nothing");

    // Under the same name: containerd's record of the container is still there.
    let started = containerd.ctr(["task", "start", "--detach", "--null-io", &id]);
    assert_eq!(started.code, 0, "{}\n{}", started.stderr, containerd.log());
    let exec = finish(containerd.command(containerd.exec_args(&id, "e1", &["echo", "alive"])), b"");
    assert_eq!((exec.code, exec.text().as_str()), (0, "alive\n"), "{}", exec.stderr);
    let living = containerd.remains(&id);
    let shims = living.iter().filter(|line| line.contains("containerd-shim-kata")).count();
    assert_eq!(shims, 1, "{living:#?}");
    containerd.remove(&id);
    containerd.assert_gone(&id);
}

/// It was killed between the two steps in which it removes a bundle: a dot before the name, then the files.
fn is_killed_in_a_removal(release: Option<&str>) {
    let Some(env) = Environment::find() else { return };
    let Some(programs) = programs(&env, release) else { return };
    let containerd = Containerd::start(&env, programs);
    let kata = Runtime::Kata(env.configuration());
    let id = format!("halfway-{}", release.unwrap_or("1.6"));
    let bundle = bundle(&containerd, &id);
    let halfway = bundle.with_file_name(format!(".{id}"));
    fs::create_dir_all(&halfway).expect("make what is left of a bundle");
    fs::write(halfway.join("config.json"), "{}").expect("write into it");

    containerd.run_detached(&kata, &[], &id, &["sleep", "1000"]);
    containerd.remove(&id);
    containerd.assert_gone(&id);
    assert!(soon(|| !bundle.exists() && !halfway.exists()), "{}", containerd.log());
}

#[test]
fn containerd_1_6_removes_a_bundle_after_it_was_killed_in_that() {
    is_killed_in_a_removal(None);
}

#[test]
fn containerd_2_removes_a_bundle_after_it_was_killed_in_that() {
    is_killed_in_a_removal(Some("2"));
}

#[test]
fn a_create_is_repeated_after_containerd_1_6_lost_its_state() {
    forgets(None);
}

#[test]
fn a_create_is_repeated_after_containerd_2_lost_its_state() {
    forgets(Some("2"));
}

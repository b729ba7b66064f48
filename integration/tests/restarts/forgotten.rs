//! A containerd that has forgotten what still lives, for its state is lost.

use integration::{
    containerd::{Containerd, Runtime, finish},
    environment::Environment,
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

#[test]
fn a_create_is_repeated_after_containerd_1_6_lost_its_state() {
    forgets(None);
}

#[test]
fn a_create_is_repeated_after_containerd_2_lost_its_state() {
    forgets(Some("2"));
}

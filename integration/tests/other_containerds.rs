//! The same shim under the other releases of containerd that users have.

use integration::{
    containerd::{Containerd, Runtime, finish},
    environment::Environment,
};

fn lives_under(release: &str) {
    let Some(env) = Environment::find() else { return };
    let Some(programs) = env.containerd(release) else { return };
    let containerd = Containerd::start(&env, Some(programs));
    let kata = Runtime::Kata(env.configuration());

    let hello = containerd.run(&kata, &[], "hello", &["sh", "-c", "cat; echo err >&2; exit 5"], b"");
    assert_eq!(hello.code, 5, "{}\n{}", hello.stderr, containerd.log());
    assert!(hello.stderr.contains("err"), "{}", hello.stderr);
    containerd.assert_gone("hello");

    containerd.run_detached(&kata, &[], "long", &["sleep", "1000"]);
    let exec =
        finish(containerd.command(["task", "exec", "--exec-id", "e1", "long", "echo", "from exec"]), b"");
    assert_eq!((exec.code, exec.text().as_str()), (0, "from exec\n"), "{}", exec.stderr);
    containerd.remove("long");
    containerd.assert_gone("long");
}

#[test]
fn containers_live_and_die_under_containerd_1_7() {
    lives_under("1.7");
}

#[test]
fn containers_live_and_die_under_containerd_2() {
    lives_under("2");
}

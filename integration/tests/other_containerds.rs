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

    let (first, second) = (format!("hello-{release}"), format!("long-{release}"));
    let hello = containerd.run(&kata, &[], &first, &["sh", "-c", "echo err >&2; exit 5"], b"");
    assert_eq!(hello.code, 5, "{}\n{}", hello.stderr, containerd.log());
    assert!(hello.stderr.contains("err"), "{}", hello.stderr);
    containerd.assert_gone(&first);

    containerd.run_detached(&kata, &[], &second, &["sleep", "1000"]);
    let exec = finish(containerd.command(containerd.exec_args(&second, "e1", &["echo", "from exec"])), b"");
    assert_eq!((exec.code, exec.text().as_str()), (0, "from exec\n"), "{}", exec.stderr);
    containerd.remove(&second);
    containerd.assert_gone(&second);
}

#[test]
fn containers_live_and_die_under_containerd_1_7() {
    lives_under("1.7");
}

#[test]
fn containers_live_and_die_under_containerd_2() {
    lives_under("2");
}

#[test]
fn containerd_2_is_told_what_the_runtime_understands() {
    let Some(env) = Environment::find() else { return };
    let Some(programs) = env.containerd("2") else { return };
    let containerd = Containerd::start(&env, Some(programs));
    let told = containerd.ctr(["plugins", "inspect-runtime", "--runtime", "io.containerd.kata.v2"]);
    assert_eq!(told.code, 0, "{}\n{}", told.stderr, containerd.log());
    let told: serde_json::Value = serde_json::from_str(&told.text()).unwrap();
    assert_eq!(told["Name"], "io.containerd.kata.v2", "{told}");
    let options = told["Features"]["mountOptions"].as_array().unwrap();
    assert!(options.iter().any(|option| option == "rro"), "CRI's recursive read-only mounts need it: {told}");
}

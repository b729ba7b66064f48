//! What is done to all containers at once, to a container as a whole, and by the engine for itself.

use std::fs;

use integration::{
    docker::{Docker, IMAGE},
    environment::Environment,
};

use crate::{REST, Way};

pub fn prune_and_export(docker: &Docker, _way: Way) {
    let lives = docker.start_container("lives", "--network none", REST);
    let ended = docker.start_container("ended", "--network none -v /anonymous", "exit 0");
    docker.wait_for("its end", || docker.inspect("ended", "{{.State.Status}}") == "exited");
    docker.ok(&["system", "prune", "--force", "--volumes"]);
    assert_eq!(docker.ok(&["ps", "-a", "--format", "{{.Names}}"]), "lives");
    docker.assert_gone(&[ended]);

    docker.inside("lives", "echo exported >/made");
    let script = "docker export lives | tar -xO made";
    assert_eq!(docker.outside(script).text(), "exported\n");
    docker.ok(&["rename", "lives", "renamed"]);
    assert_eq!(docker.inside("renamed", "cat /made"), "exported\n");
    docker.remove(&[lives]);
}

/// BuildKit runs steps by the program that `DOCKER_BUILDKIT_RUNC_COMMAND` names to the daemon.
pub fn buildkit(docker: &Docker, _way: Way) {
    // The one client that speaks to it without a plugin.
    let Some(tree) = Environment::find().and_then(|env| env.docker("20")) else { return };
    let client = tree.join("usr/bin/docker");
    let dir = docker.path().join("context");
    fs::create_dir(&dir).expect("make a folder");
    let recipe = format!("FROM {IMAGE}\nRUN uname -r >/kernel\nCOPY file /file\nRUN cat /file >>/kernel\n");
    fs::write(dir.join("Dockerfile"), recipe).expect("write a file");
    fs::write(dir.join("file"), "copied\n").expect("write a file");
    let script = format!("DOCKER_BUILDKIT=1 {} build --tag built {}", client.display(), dir.display());
    let built = docker.outside(&script);
    assert_eq!(built.code, 0, "{}\n{}", built.stderr, docker.log());
    let records = || fs::read_dir(docker.path().join("kata")).expect("it ran something").count();
    docker.wait_for("the end of what was run", || records() == 0);
    let said = docker.run("--network none", "uname -r; echo copied").text();
    let made = ["run", "--rm", "--network", "none", "built", "cat", "/kernel"];
    assert_eq!(docker.ok(&made), said.trim_end());
    docker.ok(&["rmi", "built"]);
}

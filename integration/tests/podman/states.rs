//! What Podman does to containers by itself, and what it makes of those that have ended.

use integration::{docker::IMAGE, podman::Podman};

use crate::REST;

fn status(podman: &Podman, name: &str) -> String {
    podman.ok(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name])
}

pub fn health(podman: &Podman) {
    let options =
        "--network none --health-interval 0 --health-retries 2 --health-on-failure kill --health-cmd";
    let id = podman.start_container("patient", &format!("{options} /tmp/well"), REST);
    podman.inside("patient", "printf '#!/bin/sh\\n' >/tmp/well && chmod +x /tmp/well");
    podman.ok(&["healthcheck", "run", "patient"]);
    assert_eq!(podman.ok(&["inspect", "--format", "{{.State.Health.Status}}", "patient"]), "healthy");
    podman.inside("patient", "rm /tmp/well");
    assert_eq!(podman.podman(&["healthcheck", "run", "patient"]).code, 1);
    assert_eq!(podman.podman(&["healthcheck", "run", "patient"]).code, 1);
    podman.wait_for("its end", || status(podman, "patient") == "exited 137");
    podman.ok(&["rm", "patient"]);
    podman.assert_gone(&id);
}

pub fn restarts(podman: &Podman) {
    let id = podman.start_container("failing", "--network none --restart on-failure:2", "echo run; exit 4");
    let restarts = |name: &str| podman.ok(&["inspect", "--format", "{{.RestartCount}}", name]);
    podman.wait_for("the last run", || restarts("failing") == "2" && status(podman, "failing") == "exited 4");
    podman.wait_for("all that it said", || podman.ok(&["logs", "failing"]) == "run\nrun\nrun");
    podman.ok(&["rm", "failing"]);
    podman.assert_gone(&id);

    let id = podman.start_container("lasting", "--network none --restart always", REST);
    podman.wait_for("the trap", || podman.ok(&["logs", "lasting"]) == "began");
    podman.podman(&["exec", "lasting", "kill", "-TERM", "1"]); // It may be killed with the container.
    podman.wait_for("another run", || restarts("lasting") == "1" && status(podman, "lasting") == "running 0");
    podman.ok(&["rm", "--force", "--time", "0", "lasting"]);
    podman.assert_gone(&id);

    let create = ["create", "--name", "waiting", "--network", "none", IMAGE, "sh", "-c", "echo out; exit 3"];
    let id = podman.ok(&create);
    podman.ok(&["init", "waiting"]);
    let ran = podman.podman(&["start", "--attach", "waiting"]);
    assert_eq!((ran.code, ran.text().as_str()), (3, "out\n"), "{}", ran.stderr);
    let ran =
        podman.podman(&["run", "--replace", "--name", "waiting", "--network", "none", IMAGE, "echo", "new"]);
    assert_eq!((ran.code, ran.text().as_str()), (0, "new\n"), "{}", ran.stderr);
    podman.ok(&["rm", "waiting"]);
    podman.assert_gone(&id);

    let id = podman.start_container("passing", "--rm --network none", "true");
    podman.wait_for("it to be removed", || podman.podman(&["container", "exists", "passing"]).code == 1);
    podman.assert_gone(&id);
}

pub fn images_and_pruning(podman: &Podman) {
    let id = podman.start_container("source", "--network none", REST);
    podman.inside("source", "echo made >/made");
    assert!(podman.ok(&["diff", "source"]).lines().any(|line| line == "A /made"));
    podman.ok(&["commit", "--quiet", "source", "derived"]);
    let refused = podman.podman(&["container", "checkpoint", "source"]);
    assert!(refused.code != 0 && status(podman, "source") == "running 0", "{}", refused.stderr);
    assert!(podman.podman(&["container", "restore", "source"]).code != 0);
    podman.ok(&["stop", "--time", "60", "source"]);
    assert_eq!(podman.ok(&["run", "--rm", "--network", "none", "derived", "cat", "/made"]), "made");
    assert!(podman.ok(&["system", "prune", "--force"]).contains(&id));
    podman.assert_gone(&id);

    let file = podman.path().join("Containerfile");
    std::fs::write(&file, "FROM localhost/derived\nRUN uname -r >/kernel\n").expect("write a file");
    let (file, dir) = (file.display().to_string(), podman.path().join("etc").display().to_string());
    podman.ok(&["build", "--quiet", "--network", "none", "--tag", "built", "--file", &file, &dir]);
    let kernel = podman.ok(&["run", "--rm", "--network", "none", "built", "cat", "/kernel"]);
    assert!(!kernel.is_empty() && kernel != podman.outside("uname -r").text().trim_end(), "{kernel}");
    podman.ok(&["rmi", "built", "derived"]);
}

/// Nothing is there any more but what is on disks.
pub fn reboot(podman: &Podman) {
    let (lives, goes) = ("survivor", "victim");
    for name in [lives, goes] {
        let id = podman.start_container(name, "--network none", REST);
        podman.inside(name, "touch /stays");
        podman.reboot(&id);
    }
    podman.ok(&["start", lives]);
    assert_eq!(podman.inside(lives, "ls /stays"), "/stays");
    podman.ok(&["rm", goes]);
    podman.ok(&["rm", "--force", "--time", "0", lives]);
}

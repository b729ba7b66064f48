//! What Docker does by itself for a container: it asks how it does, starts it again, forgets it, and finds it again.

use std::fs;

use integration::docker::Docker;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{REST, Way, state, wait_for_log};

pub fn health(docker: &Docker, _way: Way) {
    let options = "--network none --health-interval 1s --health-retries 1 --health-cmd ";
    // One word for Docker, which runs it by the container's shell.
    let id = docker.start_container("health", &format!("{options}ls${{IFS}}/well"), REST);
    let health = |wanted: &str| {
        docker.wait_for(wanted, || docker.inspect("health", "{{.State.Health.Status}}") == wanted);
    };
    health("unhealthy");
    docker.inside("health", "touch /well");
    health("healthy");
    docker.remove(&[id]);
}

pub fn restarts(docker: &Docker, _way: Way) {
    let fails = docker.start_container("fails", "--network none --restart on-failure:2", "exit 3");
    let count = |name: &str| docker.inspect(name, "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}");
    docker.wait_for("two more tries", || count("fails") == "2 exited 3");

    let always = docker.start_container("always", "--network none --restart always", REST);
    wait_for_log(docker, "always", |log| log == "began");
    let pid = docker.inspect("always", "{{.State.Pid}}").parse().expect("a number");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
    docker.wait_for("its next life", || count("always") == "1 running 0");
    wait_for_log(docker, "always", |log| log == "began\nbegan");
    // The container may end before this does, which ends with it then.
    docker.docker(&["exec", "always", "sh", "-c", "kill -TERM 1"]);
    docker.wait_for("one more life", || count("always") == "2 running 0");
    assert_eq!(docker.inside("always", "echo lives"), "lives\n");

    let forgotten = docker.start_container("forgotten", "--network none --rm", "exit 0");
    docker.wait_for("its removal", || docker.docker(&["inspect", "forgotten"]).code != 0);
    docker.assert_gone(&[forgotten]);
    docker.remove(&[fails, always]);
}

/// A daemon that is away for a while finds all as it is by then.
pub fn outlive_the_daemon(docker: &Docker, _way: Way) {
    let dir = docker.path().join("outlive");
    fs::create_dir(&dir).expect("make a folder");
    let options = format!("--network none -v {}:/told", dir.display());
    let until = |file: &str| format!("until [ -e /told/{file} ]; do sleep 0.1; done");
    let counts = "i=0; until [ -e /told/last ]; do echo $i; i=$((i+1)); sleep 0.1; done; exit 6";
    let lives = docker.start_container("lives", &options, counts);
    let ends = docker.start_container("ends", &options, &format!("{}; exit 4", until("ends")));
    let server =
        docker.start_container("server", "-p 127.0.0.1:8081:80", "echo served >/name; exec httpd -f -p 80");
    let pid = |name: &str| docker.inspect(name, "{{.State.Pid}}");
    let process = pid("lives");
    wait_for_log(docker, "lives", |log| !log.is_empty());

    docker.stop_daemon();
    fs::write(dir.join("ends"), "").expect("write a file");
    let tasks = format!("ctr --address {}/c.sock --namespace moby task ls", docker.path().display());
    let has_ended = |line: &str| line.starts_with(&ends) && line.contains("STOPPED");
    docker.wait_for("its end", || docker.outside(&tasks).text().lines().any(has_ended));
    docker.start_daemon();

    docker.wait_for("what it is told of an end", || state(docker, "ends") == "exited 4");
    assert_eq!((state(docker, "lives").as_str(), pid("lives")), ("running 0", process));
    let before = docker.ok(&["logs", "lives"]);
    wait_for_log(docker, "lives", |log| log.len() > before.len());
    let log = docker.ok(&["logs", "lives"]);
    assert!(log.lines().enumerate().all(|(at, line)| line == at.to_string()), "{log}");
    assert_eq!(docker.inside("lives", "echo in"), "in\n");
    fs::write(dir.join("last"), "").expect("write a file");
    docker.wait_for("its end", || state(docker, "lives") == "exited 6");
    let fetch = "printf 'GET /name HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 5 127.0.0.1 8081 | tail -n 1";
    docker.wait_for("the published port", || docker.outside(fetch).text() == "served\n");
    docker.remove(&[lives, ends, server]);
}

//! Real Docker daemons, three releases, with our runtime by its path and by its shim's name: what users do with containers.
//!
//! The daemons are set up as `docs/docker.md` says, and the page's own commands are run too.

mod engine;
mod files;
mod life;
mod limits;
mod page;
mod supervision;

use std::time::{Instant, UNIX_EPOCH};

use integration::{docker::Docker, environment::Environment};

/// Says that it has begun, and ends with 9 when it is asked to end.
const REST: &str = "trap 'exit 9' TERM; echo began; while :; do sleep 1 & wait $!; done";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `kata-runtime`, in runc's place. Whether the VM has a cgroup of its own on the host is as it is there.
    Path { group: bool },
    /// The shim, known to containerd.
    Name,
}

type Scenario = (&'static str, fn(&Docker, Way));

/// With each release and way.
const EACH: [Scenario; 4] = [
    ("life", life::life),
    ("want of memory", limits::want_of_memory),
    ("restarts", supervision::restarts),
    ("the daemon's restart", supervision::outlive_the_daemon),
];

/// With one release for each way: what does not depend on the release.
const ONCE: [Scenario; 8] = [
    ("terminals", life::terminals),
    ("logs", life::logs),
    ("files", files::files),
    ("volumes", files::volumes),
    ("limits and rights", limits::limits_and_rights),
    ("health", supervision::health),
    ("prune and export", engine::prune_and_export),
    ("the page", page::run),
];

fn lives(release: &str, way: Way, more: &[Scenario]) {
    let Some(env) = Environment::find() else { return };
    let dir = tempfile::tempdir().expect("make a folder");
    let settings = page::settings(&env, dir.path(), way);
    let Some(docker) = Docker::start_with(&env, release, &settings) else { return };
    for (name, scenario) in EACH.iter().chain(more) {
        let began = Instant::now();
        scenario(&docker, way);
        eprintln!("docker {release}, {way:?}, {name}: {:.1?}", began.elapsed());
    }
    assert_eq!(docker.ok(&["ps", "-aq"]), "");
}

#[test]
fn containers_live_with_docker_20_by_path() {
    lives("20", Way::Path { group: false }, &ONCE);
}

#[test]
fn containers_live_with_docker_26_by_path() {
    // The first that can be told what BuildKit is to use.
    lives("26", Way::Path { group: false }, &[("BuildKit", engine::buildkit)]);
}

#[test]
fn containers_live_with_docker_26_by_name() {
    lives("26", Way::Name, &ONCE);
}

#[test]
fn containers_live_with_docker_of_debian_sid_by_path() {
    lives("sid", Way::Path { group: true }, &[]);
}

#[test]
fn containers_live_with_docker_of_debian_sid_by_name() {
    lives("sid", Way::Name, &[]);
}

/// Waits until a container's log says it.
#[track_caller]
fn wait_for_log(docker: &Docker, name: &str, fact: impl Fn(&str) -> bool) {
    docker.wait_for("the log", || fact(&docker.ok(&["logs", name])));
}

/// How a container is and how it ended.
fn state(docker: &Docker, name: &str) -> String {
    docker.inspect(name, "{{.State.Status}} {{.State.ExitCode}}")
}

/// Seconds since the epoch, as Docker counts them.
fn seconds() -> u64 {
    UNIX_EPOCH.elapsed().expect("a clock that goes").as_secs()
}

//! A real Podman over `kata-runtime`: a container's life, what it is given, what is done to it, its network, pods, and users.

mod given;
mod groups;
mod life;
mod network;
mod page;
mod pods;
mod states;
mod users;

use std::time::Instant;

use integration::{environment::Environment, podman::Podman};

const REST: &str = "trap 'exit 9' TERM; echo began; while :; do sleep 1 & wait $!; done";
const SERVE: &str = "mkdir -p /tmp/www && echo served >/tmp/www/name && exec httpd -f -p 80 -h /tmp/www";
/// What the server at that address and port says.
const FETCH: &str = "printf 'GET /name HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 5 ADDRESS | tail -n 1";

type Scenario = (&'static str, fn(&Podman));

const EACH: [Scenario; 9] = [
    ("life", life::life),
    ("files", given::files),
    ("limits and rights", given::limits_and_rights),
    ("the VM's group", groups::group_of_the_vm),
    ("pause and restart", life::pause_and_restart),
    ("terminals", life::terminals),
    ("network", network::network),
    ("shared namespaces", pods::shared_namespaces),
    ("pods", pods::pods),
];

/// What need not be done twice.
const CURRENT: [Scenario; 19] = [
    ("attach, wait, kill", life::attach_wait_kill),
    ("what is seen", life::what_is_seen),
    ("want of memory", groups::killed_for_want_of_memory),
    ("volumes", given::volumes),
    ("settings", given::settings),
    ("choices", given::choices),
    ("privileged", given::privileged),
    ("numbers of users", given::numbers_of_users),
    ("systemd", given::systemd),
    ("what is the host's", given::what_is_the_hosts),
    ("names and ports", network::names_and_ports),
    ("kube", pods::kube),
    ("health", states::health),
    ("restarts", states::restarts),
    ("images and pruning", states::images_and_pruning),
    ("reboot", states::reboot),
    ("a user's", users::somebodys),
    ("a user's with a range", users::tenants),
    ("the page", page::works_when_pasted),
];

#[test]
fn podman_4_runs_containers_in_vms() {
    run("4", &EACH);
}

#[test]
fn podman_5_runs_containers_in_vms() {
    run("5", &EACH);
}

#[test]
fn podman_5_has_all_that_its_users_ask_for() {
    run("5", &CURRENT);
}

fn run(release: &str, scenarios: &[Scenario]) {
    let Some(env) = Environment::find() else { return };
    let Some(podman) = Podman::start(&env, release) else { return };
    for (name, scenario) in scenarios {
        let began = Instant::now();
        scenario(&podman);
        eprintln!("podman {release}, {name}: {:.1?}", began.elapsed());
    }
    assert_eq!(podman.ok(&["ps", "-aq"]), "");
}

//! The group that a spec names, in which engines read what a container uses: who is in it, and what becomes of it.

use std::{fs, process::Command};

use integration::{
    cgroups::{MemoryGroup, Parent},
    containerd::processes,
    oci_cli::Cli,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::WAITS;

fn start(cli: &Cli, name: &str, parent: &Parent, change: impl FnOnce(&mut Value)) -> (String, i32) {
    let id = cli.id(name);
    let bundle = cli.bundle(name, WAITS, |config| {
        config["linux"]["cgroupsPath"] = json!(format!("/{}/{name}", parent.name));
        change(config);
    });
    cli.leave(&["run", "--detach", "--bundle", &bundle.display().to_string(), &id], name).good();
    let pid = cli.state(&id)["pid"].as_i64().unwrap();
    (id, i32::try_from(pid).unwrap())
}

/// The process with both words in its command line.
fn process(program: &str, id: &str) -> i32 {
    let is_it = |line: &str| line.contains(program) && line.contains(id);
    let (pid, _) = processes().into_iter().find(|(_, line)| is_it(line)).expect("it runs");
    i32::try_from(pid).unwrap()
}

fn start_in(cli: &Cli, name: &str, parent: &Parent, pid: i32) -> (String, i32) {
    start(cli, name, parent, |config| {
        config["linux"]["namespaces"][1]["path"] = json!(format!("/proc/{pid}/ns/net"));
    })
}

#[test]
fn the_vm_is_in_the_group_of_its_first_container_and_each_stand_in_in_its_own() {
    let Some(cli) = Cli::ours() else { return };
    let parent = Parent::make();
    let (first, pid) = start(&cli, "first", &parent, |_| ());
    let inside = parent.members("first");
    assert!(inside.contains(&pid) && inside.contains(&process("qemu-system", &first)), "{pid} {inside:?}");

    let (second, joined) = start_in(&cli, "second", &parent, pid);
    assert_eq!(parent.members("second"), [joined]);
    cli.run(&["delete", "--force", &second]).good();
    assert!(!parent.has("second"));
    assert_eq!(parent.members("first"), inside);
    cli.run(&["delete", "--force", &first]).good();
    cli.assert_clean();
    assert!(!parent.has("first"));
}

#[test]
fn groups_go_when_whoever_made_them_was_killed() {
    let Some(cli) = Cli::ours() else { return };
    let parent = Parent::make();
    let (first, pid) = start(&cli, "first", &parent, |_| ());
    let (second, _) = start_in(&cli, "second", &parent, pid);
    kill(Pid::from_raw(process(" serve ", &first)), Signal::SIGKILL).unwrap();
    for id in [&first, &second] {
        cli.run(&["delete", "--force", id]).good();
    }
    cli.assert_clean();
    assert!(!parent.has("first") && !parent.has("second"));
}

#[test]
fn below_a_limit_of_memory_is_only_the_stand_in() {
    let Some(cli) = Cli::ours() else { return };
    let parent = Parent::make();
    MemoryGroup::at(parent.memory()).limit_to(100 << 20);
    let (id, pid) = start(&cli, "limited", &parent, |_| ());
    assert_eq!(parent.members("limited"), [pid]);
    cli.run(&["delete", "--force", &id]).good();
    cli.assert_clean();
    assert!(!parent.has("limited"));
}

#[test]
fn a_group_in_which_others_are_is_left_alone() {
    let Some(cli) = Cli::ours() else { return };
    let parent = Parent::make();
    let group = parent.memory().join("others");
    fs::create_dir(&group).unwrap();
    let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
    fs::write(group.join("cgroup.procs"), other.id().to_string()).unwrap();
    let members = || fs::read_to_string(group.join("cgroup.procs")).unwrap();
    let only_the_other = format!("{}\n", other.id());
    let (id, _) = start(&cli, "others", &parent, |_| ());
    assert_eq!(members(), only_the_other);
    cli.run(&["delete", "--force", &id]).good();
    cli.assert_clean();
    assert_eq!(members(), only_the_other);
    other.kill().and_then(|()| other.wait()).unwrap();
    fs::remove_dir(group).unwrap();
}

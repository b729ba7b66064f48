//! What differs from runc, and why. A difference that is gone fails as much as a new one. docs/cli.md tells of them.

/// Reasons, and the facts that differ for each.
const DIFFERENCES: &[(&str, &[&str])] = &[
    (
        "runc 1.1 runs poststart hooks at create; the spec has them after start",
        &[
            "hooks: at create",
            "hooks: at start",
            "hooks: poststart's status",
            "a startContainer hook fails: hooks at create",
            "a startContainer hook fails: hooks at start",
            "a poststop hook fails: hooks at create",
            "a poststop hook fails: hooks at start",
            "a poststart hook fails: hooks at create",
        ],
    ),
    (
        "runc 1.1 gives the number that the container's process has in its namespace",
        &["hooks: createContainer's pid is the container's"],
    ),
    (
        "runc 1.1 takes a container away whose poststart hook fails; by the spec it lives on",
        &[
            "a poststart hook fails: create",
            "a poststart hook fails: state after it",
            "a poststart hook fails: start",
            "a poststart hook fails: hooks at start",
            "a poststart hook fails: hooks in the container",
            "a poststart hook fails: status after it",
            "a poststart hook fails: delete",
            "a poststart hook fails: hooks at delete",
            "a poststart hook fails: state at last",
        ],
    ),
    (
        "runc 1.1 runs no poststop hook after one that fails; by the spec the others run",
        &["a poststop hook fails: hooks at delete"],
    ),
    (
        "numbers of devices are asked for, and the guest has such a device or the container is refused",
        &[
            "devices that cannot be: without a path",
            "devices that cannot be: without a number",
            "devices that cannot be: that nobody has",
        ],
    ),
    (
        "what runc says of its mounts depends on those of the host, and it cannot make an unbindable root",
        &["root's propagation: shared", "root's propagation: rshared", "root's propagation: unbindable"],
    ),
    (
        "a share is one mount in the guest, with what is mounted below it on the host, and flags hold for all of it",
        &["mounts below a mount: ro"],
    ),
    ("the numbers of throttled disks are the host's", &["limits of disks: a throttle"]),
    (
        "the guest has CPUs of its own; those of the host that it has not are left out",
        &["limits that cannot be: processors nobody has"],
    ),
    (
        "on the host stands the stand-in, whose namespaces but that of the network are its own affair",
        &[
            "namespaces of its own: ipc is the caller's, on the host",
            "namespaces of its own: uts is the caller's, on the host",
            "namespaces of the caller: pid is the caller's, on the host",
            "namespaces by path: ipc",
            "namespaces by path: uts",
        ],
    ),
    (
        "mappings mean nothing without a user namespace; runc 1.1 takes them",
        &["user namespace: mappings without the namespace"],
    ),
    (
        "the host's name may be longer than the kernel's 64 bytes, as that of a pod's node, and is cut",
        &["host and domain name: one that is too long"],
    ),
    (
        "policies and labels are the host's; the guest's kernel has none",
        &["labels: AppArmor profile", "labels: SELinux label", "labels: mount label"],
    ),
];

/// Why a fact differs, if it may.
pub fn reason(title: &str) -> Option<&'static str> {
    DIFFERENCES.iter().find(|(_, facts)| facts.contains(&title)).map(|(reason, _)| *reason)
}

#[test]
fn every_difference_is_one_of_a_scenario() {
    for title in DIFFERENCES.iter().flat_map(|(_, facts)| *facts) {
        let name = title.split(": ").next();
        assert!(super::all().any(|scenario| Some(scenario.name) == name), "{title}");
    }
}

//! The list of the spec's own tests, and where each one's question is asked.

use super::all;

/// `validation/` of runtime-tools. `…_relative_…` is the same by a relative `cgroupsPath`.
const LIST: [&str; 56] = [
    "config_updates_without_affect",
    "create",
    "default",
    "delete",
    "delete_only_create_resources",
    "delete_resources",
    "hooks",
    "hooks_stdin",
    "hostname",
    "kill",
    "kill_no_effect",
    "killsig",
    "linux_cgroups_blkio",
    "linux_cgroups_cpus",
    "linux_cgroups_devices",
    "linux_cgroups_hugetlb",
    "linux_cgroups_memory",
    "linux_cgroups_network",
    "linux_cgroups_pids",
    "linux_cgroups_relative_blkio",
    "linux_cgroups_relative_cpus",
    "linux_cgroups_relative_devices",
    "linux_cgroups_relative_hugetlb",
    "linux_cgroups_relative_memory",
    "linux_cgroups_relative_network",
    "linux_cgroups_relative_pids",
    "linux_devices",
    "linux_gid_mappings",
    "linux_masked_paths",
    "linux_mount_label",
    "linux_ns_itype",
    "linux_ns_nopath",
    "linux_ns_path",
    "linux_ns_path_type",
    "linux_process_apparmor_profile",
    "linux_readonly_paths",
    "linux_rootfs_propagation",
    "linux_seccomp",
    "linux_sysctl",
    "linux_uid_mappings",
    "misc_props",
    "mounts",
    "mounts_recursive",
    "pidfile",
    "poststart",
    "poststart_fail",
    "poststop",
    "poststop_fail",
    "prestart",
    "prestart_fail",
    "process",
    "process_capabilities",
    "process_capabilities_fail",
    "process_oom_score_adj",
    "process_rlimits",
    "process_rlimits_fail",
];

/// The rest of it.
const REST: [&str; 4] = ["process_user", "root_readonly_true", "start", "state"];

#[test]
fn every_question_of_the_list_is_asked() {
    let asked: Vec<_> = all().flat_map(|scenario| scenario.covers).copied().collect();
    let listed = || LIST.into_iter().chain(REST);
    let missing: Vec<_> = listed().filter(|name| !asked.contains(name)).collect();
    assert!(missing.is_empty(), "no scenario asks {missing:?}");
    let unknown: Vec<_> = asked.iter().filter(|name| !listed().any(|one| one == **name)).collect();
    assert!(unknown.is_empty(), "the list has no {unknown:?}");
}

#[test]
fn scenarios_have_names_of_their_own() {
    let names: Vec<_> = all().map(|scenario| scenario.name).collect();
    for name in &names {
        assert_eq!(names.iter().filter(|one| one == &name).count(), 1, "{name}");
    }
}

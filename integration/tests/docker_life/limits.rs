//! What a container may use and do.

use integration::docker::Docker;

use crate::{REST, Way, state};

pub fn limits_and_rights(docker: &Docker, _way: Way) {
    let options = "--network none --memory 256m --memory-swap 256m --cpus 1 --pids-limit 50 \
                   --user 1000:7 --group-add 8 --cap-drop all --cap-add NET_BIND_SERVICE";
    let id = docker.start_container("limits", options, REST);
    let said = docker.inside("limits", "id -u; id -g; id -G; grep CapBnd /proc/1/status");
    assert_eq!(said, "1000\n7\n7 8\nCapBnd:\t0000000000000400\n");
    let limits = || docker.inside("limits", "cd /sys/fs/cgroup && cat memory.max cpu.max pids.max");
    assert_eq!(limits(), "268435456\n100000 100000\n50\n");
    let more = ["--memory", "300m", "--memory-swap", "300m", "--cpus", "2", "--pids-limit", "60"];
    docker.ok(&[&["update"], &more[..], &["limits"]].concat());
    assert_eq!(limits(), "314572800\n200000 100000\n60\n");
    docker.remove(&[id]);
}

/// Its own group in the guest ends it, and no other; by path, Docker learns that from the host's.
pub fn want_of_memory(docker: &Docker, _way: Way) {
    let greedy = docker.start_container("greedy", "--network none --memory 64m", "exec tail /dev/zero");
    docker.wait_for("its end", || state(docker, "greedy") == "exited 137");
    docker.wait_for("its reason", || docker.inspect("greedy", "{{.State.OOMKilled}}") == "true");
    docker.remove(&[greedy]);
}

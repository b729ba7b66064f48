//! Docker in a container: its daemon finds in the guest what it finds on a host.

use std::os::unix::fs::symlink;

use integration::{compare::spec::mount, environment::Environment};
use serde_json::json;

use crate::bench::{Bench, administers, assert_facts, bring_programs, push};

/// As images with a Docker of their own begin: processes leave the root of the hierarchy, so that it can be divided.
const BEGIN: &str = "export PATH=/docker/sbin:/docker/bin:/usr/sbin:/usr/bin:/sbin:/bin; cd /sys/fs/cgroup; mkdir init; \
    for pid in $(cat cgroup.procs); do echo $pid > init/cgroup.procs; done 2> /dev/null; \
    sed 's/ / +/g; s/^/+/' cgroup.controllers > cgroup.subtree_control; cd /; \
    dockerd --data-root /var/lib/docker > /tmp/log 2>&1 & \
    for n in $(seq 60); do docker version > /dev/null 2>&1 && break; sleep 0.5; done; ";
/// A container with a limit and a port, which serves its own name.
const NEST: &str = "docker info 2> /dev/null | grep -E 'Storage Driver|Cgroup Version' || tail /tmp/log; \
    mkdir -p /tmp/root/bin /tmp/root/www; cat /bin/busybox > /tmp/root/bin/sh; chmod 755 /tmp/root/bin/sh; \
    for name in httpd cat; do ln -s sh /tmp/root/bin/$name; done; tar -C /tmp/root -c . | docker import - small > /dev/null; \
    docker run -d --name web -p 8080:80 --memory 32m small \
        sh -c 'echo nested > /www/index.html; exec httpd -f -p 80 -h /www' > /dev/null; \
    docker exec web cat /sys/fs/cgroup/memory.max; \
    for n in $(seq 5); do (printf 'GET / HTTP/1.0\\r\\n\\r\\n'; sleep 1) | /bin/busybox nc 127.0.0.1 8080 | grep nested && break; done; \
    docker rm -f web; true";

#[test]
fn docker_runs_in_a_container() {
    let Some(docker) = Environment::find().and_then(|env| env.docker("26")) else { return };
    let Some(bench) = Bench::open(&[]) else { return };
    for name in ["iptables", "ip6tables"] {
        symlink(format!("/usr/sbin/{name}-nft"), bench.rootfs.join("bin").join(name)).unwrap();
    }
    let facts = bench.facts(&format!("{BEGIN}{NEST}"), |spec| {
        administers(spec);
        spec["linux"]["maskedPaths"] = json!([]);
        spec["linux"]["readonlyPaths"] = json!([]);
        spec["linux"]["resources"] = json!({"devices": [{"allow": true, "access": "rwm"}]});
        bring_programs(spec);
        let usr = docker.join("usr").display().to_string();
        push(&mut spec["mounts"], mount("/docker", "bind", &usr, &["rbind", "ro"]));
        push(&mut spec["mounts"], mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rw", "nosuid", "nodev"]));
        for place in ["/tmp", "/var/lib/docker"] {
            push(&mut spec["mounts"], mount(place, "tmpfs", "tmpfs", &[]));
        }
    });
    assert_facts(&facts, &["Storage Driver: overlay2", "Cgroup Version: 2", "33554432", "nested", "web"]);
}

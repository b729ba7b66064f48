//! What of the OCI spec a process finds, seen from inside.

use serde_json::{Value, json};

use crate::compare::{
    row::{INIT, Row, Step, add, exec_with, row, run, run_with, running, steps},
    spec::{Change, mount},
    streams::Wiring,
};

const GROUP: &str = "details";

pub fn rows() -> Vec<Row> {
    [of_the_process(), of_files(), of_mounts(), of_devices(), of_namespaces(), of_limits()]
        .into_iter()
        .flatten()
        .collect()
}

fn with(name: &'static str, script: &'static str, changes: impl Into<Vec<Change>>) -> Row {
    row(GROUP, name, run_with(script, changes))
}

fn of_the_process() -> Vec<Row> {
    let status = "grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups|Uid|Gid|Umask)' /proc/self/status";
    let all_capabilities = json!([
        "CAP_SYS_ADMIN",
        "CAP_NET_ADMIN",
        "CAP_SYS_TIME",
        "CAP_MKNOD",
        "CAP_BPF",
        "CAP_PERFMON",
        "CAP_CHECKPOINT_RESTORE"
    ]);
    vec![
        with("status of a plain process", status, []).quick(),
        with("environment", "env | sort", [Change("/process/env/-", json!("GREETING=hello  world")), Change("/process/env/-", json!("PATH=/bin"))]).quick(),
        with("working directory", "pwd", [Change("/process/cwd", json!("/etc"))]),
        with("working directory that is missing", "pwd; stat -c '%a %u' .", [Change("/process/cwd", json!("/not/there"))]),
        with(
            "user, groups and files",
            "id -u; id -g; id -G; touch /root/x; cd /tmp && touch mine && stat -c '%u %g' mine; grep '^Cap' /proc/self/status; echo $HOME",
            [Change("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6]})), Change("/mounts/-", mount("/tmp", "tmpfs", "tmpfs", &["mode=1777"]))],
        ),
        with("user known by name has a home", "echo $HOME; id -un", []),
        with("umask", "umask; touch /x; stat -c %a /x", [Change("/process/user/umask", json!(0o027))]),
        with("limits", "ulimit -a", [Change("/process/rlimits", json!([
            {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            {"type": "RLIMIT_NPROC", "soft": 1000, "hard": 2000}, {"type": "RLIMIT_STACK", "soft": 4_194_304, "hard": 8_388_608},
            {"type": "RLIMIT_MEMLOCK", "soft": 65536, "hard": 65536}, {"type": "RLIMIT_SIGPENDING", "soft": 1000, "hard": 1000},
        ]))]),
        with("capabilities: none", status, [Change("/process/capabilities", json!({}))]),
        with("capabilities: left out", status, [Change("/process/capabilities", Value::Null)]),
        with("capabilities: many", status, [Change("/process/capabilities", json!({"bounding": all_capabilities, "effective": all_capabilities, "permitted": all_capabilities}))]),
        with("capabilities: ambient for a user", status, [
            Change("/process/user", json!({"uid": 1000, "gid": 1000})),
            Change("/process/capabilities", json!({"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"], "inheritable": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"]})),
        ]),
        with("new privileges allowed", status, [Change("/process/noNewPrivileges", json!(false))]),
        with("oom score", "cat /proc/self/oom_score_adj", [Change("/process/oomScoreAdj", json!(500))]),
        with("seccomp", "mkdir /made; echo $?; grep '^Seccomp:' /proc/self/status", [Change("/linux/seccomp", json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 42}],
        }))]),
        with("hostname", "hostname; cat /proc/sys/kernel/hostname", [Change("/hostname", json!("named"))]),
        with("sysctls", "cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced", [
            Change("/linux/sysctl", json!({"kernel.msgmax": "12345", "net.ipv4.ip_unprivileged_port_start": "80", "kernel.shm_rmid_forced": "1"})),
        ]).quick(),
        with("descriptors that are open", "ls /proc/self/fd | tr '\\n' ' '; readlink /proc/self/fd/0 | cut -d: -f1", []),
        with("its own process ids", "echo $$ $PPID; cut -d' ' -f4-6 /proc/1/stat", []),
        with("personality and scheduling", "cat /proc/self/personality; cut -d' ' -f18,19 /proc/self/stat", []),
        with("arguments as they are", "", [Change("/process/args", json!(["printf", "%s|", "a b", "", "$HOME", "*", "ü\n"]))]),
    ]
}

fn of_files() -> Vec<Row> {
    vec![
        with("masked paths", "ls /hidden 2>&1 | wc -l; cat /etc/group | wc -c; echo x > /etc/group; stat -c %t:%T /etc/group; wc -c < /proc/kcore; ls /sys/firmware", [
            Change("/linux/maskedPaths/-", json!("/etc/group")),
            Change("/linux/maskedPaths/-", json!("/hidden")),
            Change("/linux/maskedPaths/-", json!("/not/there")),
        ]),
        with("read-only paths", "echo 1 > /proc/sys/kernel/msgmax; touch /etc/x; touch /tmp/x; echo done", [Change("/linux/readonlyPaths/-", json!("/etc"))]),
        with("read-only root", "touch /x; touch /tmp/x; touch /run/x && echo run; touch /dev/shm/x && echo shm; awk '$5 == \"/\" {print substr($6, 1, 2)}' /proc/self/mountinfo", [Change("/root/readonly", json!(true))]).quick(),
        with("root is writable and empty of the host", "ls /; echo x > /x; cat /x; ls -ld / | awk '{print $1, $3, $4}'", []),
        with("owners and modes kept", "ls -ln /bin/busybox /etc/passwd | awk '{print $1, $3, $4, $5}'; mkdir /d; chmod 1777 /d; chown 5:6 /d; stat -c '%a %u %g' /d; ln -s a /l; readlink /l; mkfifo /f; stat -c %F /f; mknod /n c 1 3 && echo > /n && stat -c '%F %t %T' /n", []),
        with("files: locks, sparse, append, rename, unlinked", "cd /tmp; truncate -s 1M s; stat -c '%s %b' s; echo a > f; echo b >> f; mv f g; exec 3<g; rm g; cat <&3; ln s t; stat -c %h t; fallocate -l 4096 h; stat -c %s h; flock 2>&1 | head -c 0", []),
        with("extended attributes of the root", "cd /; cp /bin/busybox /bb; chmod 4755 /bb; stat -c %a /bb; chown 1:1 /bb; stat -c %a /bb", []),
        with("standard links in /dev", "for l in fd stdin stdout stderr core ptmx; do echo $l $(readlink /dev/$l); done", []),
    ]
}

fn of_mounts() -> Vec<Row> {
    let list = "awk '{t=$9; for (i=7; i<NF; i++) if ($i == \"-\") t=$(i+1); if ($5 == \"/\") t=\"\"; print $5, $6, t}' /proc/self/mountinfo | sort";
    vec![
        with("mounts and their options", list, []),
        with("a tmpfs with a size and a mode", "df -k /t | tail -n 1 | awk '{print $2}'; stat -c '%a %u' /t; head -c 2000000 /dev/zero > /t/f; echo $?", [Change("/mounts/-", mount("/t", "tmpfs", "tmpfs", &["size=1024k", "mode=700", "uid=7", "nosuid"]))]),
        with("options of many kinds", "awk '$5 ~ \"^/m\" {print $5, $6}' /proc/self/mountinfo | sort", [
            Change("/mounts/-", mount("/m1", "tmpfs", "tmpfs", &["ro", "noexec", "nodev", "nosuid", "noatime"])),
            Change("/mounts/-", mount("/m2", "tmpfs", "tmpfs", &["rw", "relatime", "nodiratime", "sync", "dirsync"])),
            Change("/mounts/-", mount("/m3/deep/down", "tmpfs", "tmpfs", &["strictatime"])),
        ]).quick(),
        with("a mount over a link", "ls -d /to; readlink /to; awk '$5 ~ \"^/(to|var)\" {print $5}' /proc/self/mountinfo", [Change("/mounts/-", mount("/bin/../to", "tmpfs", "tmpfs", &[]))]),
        with("propagation is private", "awk '{print $7}' /proc/self/mountinfo | sort | uniq -c | awk '{print $2}'", []),
        with("cgroup", "ls /sys/fs/cgroup | head -n 1 | wc -l; touch /sys/fs/cgroup/x; awk '$5 == \"/sys/fs/cgroup\" {print $6}' /proc/self/mountinfo", [Change("/mounts/-", mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]))])
            .differs("the host has cgroups of version 1, where runc mounts a writable tmpfs above them; the guest has version 2"),
        with("a file of the host, read-only", "wc -l < /h > /dev/null && echo read; echo x > /h; awk '$5 == \"/h\" {print $6}' /proc/self/mountinfo | cut -d, -f1", [Change("/mounts/-", mount("/h", "bind", "/etc/hostname", &["rbind", "ro"]))]),
        with("a folder of the host, with options", "ls /h > /dev/null && echo read; touch /h/compared; awk '$5 == \"/h\" {print $6}' /proc/self/mountinfo", [Change("/mounts/-", mount("/h", "bind", "/etc/apt", &["rbind", "ro", "nosuid", "nodev", "noexec"]))]),
        with("shm of another size", "df -k /dev/shm | tail -n 1 | awk '{print $2}'", [Change("/mounts/3/options/4", json!("size=1024k"))]),
    ]
}

fn of_devices() -> Vec<Row> {
    let list = "cd /dev; ls -ln | awk 'NR > 1 {print $1, $3, $4, $5, $6, $NF}' | grep '^c'";
    let device = json!({"path": "/dev/compared", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7, "gid": 8});
    vec![
        with("devices by default", list, []).quick(),
        with(
            "a device of one's own",
            "ls -ln /dev/compared | awk '{print $1, $3, $4, $5, $6}'; echo x > /dev/compared; echo $?",
            [
                Change("/linux/devices", json!([device])),
                Change(
                    "/linux/resources/devices/-",
                    json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}),
                ),
            ],
        ),
        with(
            "what is not allowed",
            "mknod /tmp/kmsg c 1 11; head -c 1 /tmp/kmsg; mknod /tmp/zero c 1 5 && head -c 2 /tmp/zero | od -An -tx1; mknod /tmp/disk b 8 0; head -c 1 /tmp/disk",
            [],
        ),
        with(
            "reading what may only be written",
            "head -c 1 /dev/compared; echo x > /dev/compared && echo written",
            [
                Change(
                    "/linux/devices",
                    json!([{"path": "/dev/compared", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666}]),
                ),
                Change(
                    "/linux/resources/devices/-",
                    json!({"allow": true, "type": "c", "major": 1, "minor": 11, "access": "w"}),
                ),
            ],
        ),
    ]
}

fn of_namespaces() -> Vec<Row> {
    let namespaces = |kinds: &[&str]| {
        let list: Vec<_> = kinds.iter().map(|kind| json!({"type": kind})).collect();
        Change("/linux/namespaces", json!(list))
    };
    vec![
        with(
            "its network has only a loopback, down",
            "ls /sys/class/net; cat /sys/class/net/lo/flags; ip route | wc -l",
            [],
        ),
        with("its processes are all there are", "set -- /proc/[0-9]*; echo $*", []),
        with(
            "cgroup namespace",
            "cut -d: -f3 /proc/self/cgroup | sort -u",
            [namespaces(&["pid", "ipc", "uts", "mount", "network", "cgroup"])],
        ),
        with(
            "process namespace not of its own",
            "[ $$ = 1 ] || echo another; [ -d /proc/$$ ] && echo seen",
            [namespaces(&["ipc", "uts", "mount", "network"])],
        )
        .differs("there are no processes of the host in a VM to be among: it gets its own"),
        with(
            "user namespace",
            "cat /proc/self/uid_map | tr -s ' '; id -u; touch /tmp/x && stat -c %u /tmp/x",
            [
                namespaces(&["pid", "ipc", "uts", "mount", "network", "user"]),
                Change("/linux/uidMappings", json!([{"containerID": 0, "hostID": 0, "size": 65536}])),
                Change("/linux/gidMappings", json!([{"containerID": 0, "hostID": 0, "size": 65536}])),
            ],
        ),
        with(
            "none shared with the parent's",
            "for n in ipc mnt pid uts net; do readlink /proc/self/ns/$n | cut -d: -f1; done",
            [],
        ),
    ]
}

fn of_limits() -> Vec<Row> {
    let ten =
        "n=0; for i in $(seq 40); do sleep 1000 >/dev/null 2>&1 & n=$((n+1)); done 2>/dev/null; echo $n";
    let limited =
        |name, script, resources: Value| with(name, script, [Change("/linux/resources/pids", resources)]);
    vec![
        limited("process limit that is too small", ten, json!({"limit": 30})),
        limited("process limit that is enough", ten, json!({"limit": 100})),
        with(
            "memory limit that is enough",
            "head -c 10000000 /dev/zero | tail -c 9999999 | wc -c",
            [Change("/linux/resources/memory", json!({"limit": 67_108_864}))],
        ),
        with(
            "CPU shares, quota, set",
            "echo $(nproc)",
            [Change(
                "/linux/resources/cpu",
                json!({"shares": 256, "quota": 50_000, "period": 100_000, "cpus": "0"}),
            )],
        ),
        row(
            GROUP,
            "an exec is within the limit too",
            steps([
                vec![
                    crate::compare::row::create_with(
                        "echo ready; read x",
                        Wiring::Pipes,
                        [Change("/linux/resources/pids", json!({"limit": 30}))],
                    ),
                    Step::Start(INIT),
                    Step::Expect(INIT, "ready"),
                ],
                vec![exec_with("e", ten, Wiring::Pipes, [])],
                vec![Step::Start("e"), Step::Wait("e")],
            ]),
        ),
        row(
            GROUP,
            "an exec sees init's processes and files",
            steps([
                running("echo mine > /tmp/mine; echo ready; read x").to_vec(),
                vec![Step::Expect(INIT, "ready")],
                add("cat /tmp/mine; ps -o pid,args | grep -c '[r]ead x'; echo $PPID"),
            ]),
        ),
        row(
            GROUP,
            "two programs of one container share no environment",
            run("A=1 sh -c 'echo $A'; echo \"<$A>\""),
        ),
    ]
}

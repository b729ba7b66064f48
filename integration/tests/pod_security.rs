//! Who the processes of a pod are and what they may, as the kubelet asks for it, with the reference first.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::{MetadataExt, chown},
};

use integration::kubelet::{KATA, KATA_SANDBOX, KATA_WITH_DEVICES, Kubelet, RUNC, namespaces};
use k8s_cri::v1::{
    Capability, ContainerConfig, IdMapping, Int64Value, LinuxContainerSecurityContext, Mount, NamespaceMode,
    NamespaceOption, PodSandboxConfig, SecurityProfile, UserNamespace, security_profile::ProfileType,
};

/// What the kubelet closes in every container that is not privileged.
const MASKED: [&str; 4] = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/acpi"];
const READ_ONLY: [&str; 3] = ["/proc/sys", "/proc/sysrq-trigger", "/proc/bus"];

fn context(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    let linux = config.linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap()
}

fn number(value: i64) -> Option<Int64Value> {
    Some(Int64Value { value })
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| word.to_string()).collect()
}

/// The last line of a script's output, which waits then: of what ends at once, containerd 1.6 may lose what was said.
const LAST: &str = "this was all\n";

/// A container whose script is the only thing that runs, made as the kubelet makes one without a word on security.
fn script(kubelet: &Kubelet, name: &str, script: &str) -> ContainerConfig {
    let mut config =
        kubelet.script(name, &format!("exec 2> /dev/null; {script}\necho {LAST}exec sleep 1000"));
    context(&mut config).masked_paths = words(&MASKED);
    context(&mut config).readonly_paths = words(&READ_ONLY);
    config
}

/// What a container of [`script`] says, which is taken away then.
fn said(
    kubelet: &Kubelet,
    pod: &str,
    pod_config: &PodSandboxConfig,
    config: &ContainerConfig,
) -> Vec<String> {
    let id = kubelet.run(pod, config, pod_config).unwrap();
    kubelet.containerd.wait_for("a script's last line", || kubelet.log(config).ends_with(LAST));
    let log = kubelet.log(config);
    fs::remove_file(kubelet.containerd.dir().join("logs").join(&config.log_path)).unwrap();
    kubelet.remove_container(&id).unwrap();
    log.trim_end_matches(LAST).lines().map(str::to_owned).collect()
}

/// The five sets of capabilities.
const CAPABILITIES: &str = "awk '/^Cap/ {print $2}' /proc/self/status";
/// Those that a container has if nothing is said.
const DEFAULT: &str = "00000000a80425fb";

#[test]
fn users_groups_and_capabilities_are_those_of_the_context() {
    let Some(kubelet) = Kubelet::start("") else { return };
    for handler in [RUNC, KATA] {
        let pod_config = kubelet.pod("users");
        let pod = kubelet.run_pod(handler, &pod_config).unwrap();
        let check = |what: &str,
                     text: &str,
                     change: &dyn Fn(&mut LinuxContainerSecurityContext),
                     expected: &[&str]| {
            let mut config = script(&kubelet, "main", text);
            change(context(&mut config));
            assert_eq!(said(&kubelet, &pod, &pod_config, &config), expected, "{handler}: {what}");
        };
        let plain = &|_: &mut LinuxContainerSecurityContext| ();
        check(
            "nothing said",
            &format!("id -u; id -g; {CAPABILITIES}; grep -E 'NoNew|Seccomp:' /proc/self/status"),
            plain,
            &[
                "0",
                "0",
                "0000000000000000",
                DEFAULT,
                DEFAULT,
                DEFAULT,
                "0000000000000000",
                "NoNewPrivs:\t0",
                "Seccomp:\t0",
            ],
        );
        check(
            "numbers",
            &format!(
                "id -u; id -g; id -G; {CAPABILITIES}; touch /root/x || echo no; echo $HOME; grep NoNew /proc/self/status"
            ),
            &|context| {
                context.run_as_user = number(1000);
                context.run_as_group = number(3000);
                context.supplemental_groups = vec![2000, 4000];
                context.no_new_privs = true;
            },
            &[
                "1000",
                "3000",
                "3000 2000 4000",
                "0000000000000000",
                "0000000000000000",
                "0000000000000000",
                DEFAULT,
                "0000000000000000",
                "no",
                "/",
                "NoNewPrivs:\t1",
            ],
        );
        check(
            "capabilities",
            &format!("{CAPABILITIES}; chown 7 /tmp || echo no; hostname x && echo named"),
            &|context| {
                context.capabilities = Some(Capability {
                    add_capabilities: words(&["SYS_ADMIN"]),
                    drop_capabilities: words(&["CHOWN", "NET_RAW"]),
                    ..Default::default()
                });
            },
            &[
                "0000000000000000",
                "00000000a82405fa",
                "00000000a82405fa",
                "00000000a82405fa",
                "0000000000000000",
                "no",
                "named",
            ],
        );
        check(
            "all but one dropped",
            CAPABILITIES,
            &|context| {
                context.capabilities = Some(Capability {
                    add_capabilities: words(&["NET_BIND_SERVICE"]),
                    drop_capabilities: words(&["ALL"]),
                    ..Default::default()
                });
            },
            &[
                "0000000000000000",
                "0000000000000400",
                "0000000000000400",
                "0000000000000400",
                "0000000000000000",
            ],
        );
        check(
            "a closed root",
            "touch /x || echo root; touch /tmp/x || echo tmp; touch /dev/shm/x && echo shm; touch /dev/x && echo dev; \
             head -c1 /proc/kcore | wc -c; ls /proc/acpi | wc -l; cat /proc/timer_list | wc -c; \
             echo 1 > /proc/sys/kernel/panic || echo sys; echo h > /proc/sysrq-trigger || echo sysrq; touch /sys/x || echo sysfs; \
             mount -t tmpfs t /mnt || echo mount; mknod /dev/d b 7 0 && head -c1 /dev/d || echo device",
            &|context| context.readonly_rootfs = true,
            &["root", "tmp", "shm", "dev", "0", "0", "0", "sys", "sysrq", "sysfs", "mount", "device"],
        );
        check(
            "paths of its own",
            "cat /etc/passwd | wc -c; touch /home/x || echo home; echo 1 > /proc/sys/net/ipv4/ip_forward || echo sys",
            &|context| {
                context.masked_paths = words(&["/etc/passwd"]);
                context.readonly_paths = words(&["/home", "/proc/sys"]);
            },
            &["0", "home", "sys"],
        );
        kubelet.remove_pod(&pod).unwrap();
        kubelet.containerd.assert_gone(&pod);
    }
}

fn profile(kind: ProfileType, reference: &str) -> Option<SecurityProfile> {
    Some(SecurityProfile { profile_type: kind as i32, localhost_ref: reference.into() })
}

#[test]
fn system_call_filters_are_those_of_the_profile() {
    let changes = [("disable_guest_seccomp", "disable_guest_seccomp = false".to_owned())];
    let Some(kubelet) = Kubelet::start_with("", &changes) else { return };
    let path = kubelet.containerd.dir().join("profile.json");
    let own = serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    });
    fs::write(&path, own.to_string()).unwrap();
    let reference = format!("localhost/{}", path.display());
    for handler in [RUNC, KATA] {
        let mut pod_config = kubelet.pod("filters");
        let of_pod = pod_config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).unwrap();
        of_pod.seccomp = profile(ProfileType::RuntimeDefault, "");
        let pod = kubelet.run_pod(handler, &pod_config).unwrap();
        let text = "grep Seccomp: /proc/self/status; unshare -U true || echo no; exec 2>&1; mkdir /tmp/x && echo made";
        for (kind, reference, expected) in [
            (ProfileType::RuntimeDefault, "", ["Seccomp:\t2", "no", "made"]),
            (
                ProfileType::Localhost,
                &reference,
                ["Seccomp:\t2", "", "mkdir: can't create directory '/tmp/x': No space left on device"],
            ),
            (ProfileType::Unconfined, "", ["Seccomp:\t0", "", "made"]),
        ] {
            let mut config = script(&kubelet, "main", text);
            context(&mut config).seccomp = profile(kind, reference);
            let expected: Vec<&str> = expected.into_iter().filter(|line| !line.is_empty()).collect();
            assert_eq!(said(&kubelet, &pod, &pod_config, &config), expected, "{handler}: {kind:?}");
        }
        kubelet.remove_pod(&pod).unwrap();
    }
}

#[test]
fn settings_of_the_kernel_are_the_pods() {
    let Some(kubelet) = Kubelet::start("") else { return };
    for handler in [RUNC, KATA] {
        let mut pod_config = kubelet.pod("sysctls");
        let settings = [
            ("kernel.shm_rmid_forced", "1"),
            ("kernel.shmmax", "123456789"),
            ("kernel.msgmax", "9000"),
            ("net.ipv4.ip_local_port_range", "40000 50000"),
            ("net.ipv4.ip_unprivileged_port_start", "80"),
            ("net.core.somaxconn", "777"),
        ];
        let linux = pod_config.linux.as_mut().unwrap();
        linux.sysctls = HashMap::from(settings.map(|(key, value)| (key.to_owned(), value.to_owned())));
        let pod = kubelet.run_pod(handler, &pod_config).unwrap();
        let files = settings.map(|(key, _)| format!("/proc/sys/{}", key.replace('.', "/"))).join(" ");
        let found = said(
            &kubelet,
            &pod,
            &pod_config,
            &script(&kubelet, "main", &format!("cat {files} | tr '\\t' ' '")),
        );
        assert_eq!(found, settings.map(|(_, value)| value), "{handler}");
        kubelet.remove_pod(&pod).unwrap();

        let mut pod_config = kubelet.pod("sysctls");
        let linux = pod_config.linux.as_mut().unwrap();
        linux.sysctls = HashMap::from([("kernel.panic".to_owned(), "1".to_owned())]);
        let refused = kubelet.run_pod(handler, &pod_config).unwrap_err();
        let reason = "\"kernel.panic\" is not in a separate kernel namespace";
        assert!(refused.message().contains(reason), "{handler}: {refused}");
    }
}

#[test]
fn a_privileged_container_has_all_of_the_guest_and_nothing_of_the_host() {
    let Some(kubelet) = Kubelet::start("") else { return };
    for handler in [KATA, KATA_WITH_DEVICES] {
        let mut pod_config = kubelet.pod("privileged");
        let of_pod = pod_config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).unwrap();
        of_pod.privileged = true;
        let pod = kubelet.run_pod(handler, &pod_config).unwrap();
        let mut config = script(
            &kubelet,
            "main",
            "awk '/^CapEff/ {print $2}' /proc/self/status; mount -t tmpfs t /tmp && echo mount; \
             echo 9 > /proc/sys/kernel/panic && echo sys; [ -d /proc/acpi ] && echo open; \
             awk '$5 == \"/sys\" || $5 == \"/sys/fs/cgroup\" {print $5, substr($6, 1, 2)}' /proc/self/mountinfo; \
             mknod /dev/own c 1 11 && [ -c /dev/own ] && head -c1 /dev/own > /dev/null && echo log; \
             for node in /dev/*; do [ ! -b $node ] || echo block $node; done; \
             stat -Lc '%n %t %T %F' /dev/* /dev/net/* | while read -r node major minor kind; do \
             [ \"$kind\" != 'character special file' ] || [ $major = 88 ] || \
             [ -e /sys/dev/char/$((0x$major)):$((0x$minor)) ] || (: < $node) || echo no driver $node; done; \
             for facts in /sys/dev/char/*/uevent; do while read -r line; do case $line in (DEVNAME=console) ;; \
             (DEVNAME=*) [ -e /dev/${line#DEVNAME=} ] || echo lacks $line;; esac; done < $facts; done; echo all; \
             ls -d /dev/kmsg",
        );
        context(&mut config).privileged = true;
        context(&mut config).masked_paths.clear();
        context(&mut config).readonly_paths.clear();
        let found = said(&kubelet, &pod, &pod_config, &config);
        // containerd names its own, which are all that there are but where it is confined itself.
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim();
        let all = [capabilities, "mount", "sys", "open", "/sys rw", "/sys/fs/cgroup rw"];
        assert_eq!(found, [&all[..], &["log", "all", "/dev/kmsg"]].concat(), "{handler}");
        kubelet.remove_pod(&pod).unwrap();
    }
}

/// The numbers of a pod's users on the host.
const USERS: u32 = 100_000;

fn mapping() -> Vec<IdMapping> {
    vec![IdMapping { host_id: USERS, container_id: 0, length: 65536 }]
}

fn with_users(options: &mut NamespaceOption) {
    options.userns_options =
        Some(UserNamespace { mode: NamespaceMode::Pod as i32, uids: mapping(), gids: mapping() });
}

#[test]
fn users_of_a_pod_have_other_numbers_and_own_their_files_all_the_same() {
    // containerd 2 takes all options for runc's where users are mapped; this handler has none.
    for (release, handler) in [("1.7", KATA), ("2", KATA_SANDBOX)] {
        let Some(kubelet) = Kubelet::start(release) else { continue };
        // containerd 1.7 refuses volumes with mapped owners: a volume's owners have to be the pod's numbers there.
        let volumes = if release == "2" { mapping() } else { Vec::new() };
        let stored = if release == "2" { 0 } else { USERS };
        let volume = kubelet.containerd.dir().join("volume");
        fs::create_dir(&volume).unwrap();
        chown(&volume, Some(stored), Some(stored)).unwrap();
        for (name, owner) in [("root", 0), ("user", 1000), ("stranger", 70_000)] {
            fs::write(volume.join(name), "").unwrap();
            chown(volume.join(name), Some(stored + owner), Some(stored + owner)).unwrap();
        }
        let mut pod_config = kubelet.pod("users");
        let of_pod = pod_config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).unwrap();
        with_users(of_pod.namespace_options.as_mut().unwrap());
        let pod = kubelet.run_pod(handler, &pod_config).unwrap();
        let mount = |path: &str, readonly| Mount {
            host_path: volume.display().to_string(),
            container_path: path.into(),
            readonly,
            uid_mappings: volumes.clone(),
            gid_mappings: volumes.clone(),
            ..Default::default()
        };
        let container = |name: &str, text: &str| {
            let mut config = script(&kubelet, name, text);
            with_users(context(&mut config).namespace_options.as_mut().unwrap());
            config.mounts = vec![mount("/volume", false), mount("/volume-ro", true)];
            config
        };
        let first = container("first", "sleep 1000");
        let first = kubelet.run(&pod, &first, &pod_config).unwrap();
        let facts = "id -u; tr -s ' ' < /proc/self/uid_map; hostname; stat -c %u /etc/passwd / /volume/*; \
            touch /made /volume/made /volume/mine; chown 7:8 /volume/mine; mkdir /volume/dir && echo dir; \
            stat -c '%u %g' /made /volume/made /volume/mine; touch /volume-ro/x || echo closed; \
            hostname other && hostname pod-host && echo named; \
            chown 70000 /volume/made || echo no such user; head -c1 /dev/zero | wc -c; echo shared > /dev/shm/x; \
            mount -t tmpfs t /mnt || echo no mount";
        let found = kubelet.inside(&first, &format!("exec 2> /dev/null; {facts}"));
        let expected = [
            "0",
            " 0 100000 65536",
            "pod-host",
            "0",
            "0",
            "0",
            "65534",
            "1000",
            "dir",
            "0 0",
            "0 0",
            "7 8",
            "closed",
            "no such user",
            "1",
            "no mount",
        ];
        assert_eq!(found.lines().collect::<Vec<_>>(), expected, "{release} {handler}");
        let owners = ["made", "mine", "dir"].map(|name| fs::metadata(volume.join(name)).unwrap().uid());
        assert_eq!(owners, [stored, stored + 7, stored], "{release} {handler}: as the host sees it");

        // Another container of the pod has the same users, and what belongs to them.
        let mut second = container("second", "sleep 1000");
        context(&mut second).run_as_user = number(1000);
        let second = kubelet.run(&pod, &second, &pod_config).unwrap();
        let namespaces = "for kind in user ipc uts; do readlink /proc/self/ns/$kind; done";
        assert_eq!(kubelet.inside(&first, namespaces), kubelet.inside(&second, namespaces));
        let found = kubelet.inside(
            &second,
            "cat /dev/shm/x; id -u; echo x > /volume/user && echo own; (echo x > /volume/root) 2> /dev/null || echo no",
        );
        assert_eq!(found, "shared\n1000\nown\nno\n", "{release} {handler}");
        kubelet.remove_pod(&pod).unwrap();
        kubelet.containerd.assert_gone(&pod);
    }
}

#[test]
fn users_of_a_pod_that_shares_its_processes_see_them() {
    let Some(kubelet) = Kubelet::start("2") else { return };
    let mut pod_config = kubelet.pod("users");
    let shared = || {
        let mut options = namespaces(NamespaceMode::Pod);
        with_users(&mut options);
        Some(options)
    };
    let of_pod = pod_config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).unwrap();
    of_pod.namespace_options = shared();
    let pod = kubelet.run_pod(KATA_SANDBOX, &pod_config).unwrap();
    let ids = ["first", "second"].map(|name| {
        let mut config = script(&kubelet, name, "exec sleep 1234");
        context(&mut config).namespace_options = shared();
        kubelet.run(&pod, &config, &pod_config).unwrap()
    });
    assert_eq!(kubelet.inside(&ids[1], "grep -l sleep /proc/[0-9]*/comm | wc -l"), "2\n");
    kubelet.remove_pod(&pod).unwrap();
}

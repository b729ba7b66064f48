//! Where a private Podman is: namespaces and settings of its own, over what was unpacked.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Child};

use crate::{environment::Environment, holder::hold};

/// Users of the place alone, each in no group but their own: one whose own number is all they have, and one with a range of
/// them for their containers, which begins at [`RANGE`].
pub const USERS: [(&str, u32); 2] = [("somebody", 60123), ("tenant", 60124)];
pub const RANGE: u32 = 300_000;

/// Own namespaces for as long as standard input is open, in the folder `$0`, with what was unpacked in `$1` laid over the
/// machine's: a view of `/sys` that belongs to them, and a `/run` in which only what is ours is the machine's. What a user may
/// not reach where it lies, `$1`, `$2` and `$3`, is there under names of its own.
const HOLD: &str = r#"
set -e
view=$0/view
mount -t tmpfs none "$view"
mkdir "$view/cgroup" "$view/upper" "$view/work" "$view/run" "$view/run/vc" "$view/run/kata-containers" "$view/$0"
mkdir -p /run/vc /run/kata-containers
mount --rbind /sys/fs/cgroup "$view/cgroup"
mount -t sysfs none /sys
mount --rbind "$view/cgroup" /sys/fs/cgroup
for dir in /etc /usr/share /usr/lib/x86_64-linux-gnu; do
    lower=$1$dir:$dir
    [ "$dir" != /etc ] || lower=$0/etc:$lower
    [ ! -d "$1$dir" ] || mount -t overlay none -o "lowerdir=$lower" "$dir"
done
mount -t overlay none -o "lowerdir=/var/lib,upperdir=$view/upper,workdir=$view/work" /var/lib
mknod "$view/tun" c 10 200
chmod 666 "$view/tun"
mount --bind "$view/tun" /dev/net/tun
mount --rbind /run/vc "$view/run/vc"
mount --rbind /run/kata-containers "$view/run/kata-containers"
mount --bind "$0" "$view/$0"
mount --bind "$1" "$view/$0/tree"
mount --bind "$2" "$view/$0/programs"
mount --bind "$3" "$view/$0/dev"
mount --rbind "$view/run" /run
ip link set lo up
echo held
read -r _
"#;

/// Writes the settings into `dir`.
pub(super) fn configure(dir: &Path, tree: &Path, env: &Environment) {
    for name in ["view", "etc", "tree", "programs", "dev"] {
        fs::create_dir(dir.join(name)).expect("make a folder");
    }
    let configuration = env.configuration();
    let flags = format!("--root {}/kata --config {}", dir.display(), configuration.display());
    write_runtime(&dir.join("kata-runtime"), &env.programs(), &flags);
    write_settings(dir, dir, tree, "overlay");
    let known = |name: &str| fs::read_to_string(format!("/etc/{name}")).expect("read the machine's users");
    let add = |name: &str, line: &dyn Fn(&str, u32) -> String| {
        let lines: String = USERS.iter().map(|(user, id)| line(user, *id)).collect();
        fs::write(dir.join("etc").join(name), known(name) + &lines).expect("write the users");
    };
    add("passwd", &|user, id| format!("{user}:x:{id}:{id}::/:/bin/sh\n"));
    add("group", &|user, id| format!("{user}:x:{id}:\n"));
    for name in ["subuid", "subgid"] {
        let (user, _) = USERS[1];
        fs::write(dir.join("etc").join(name), format!("{user}:{RANGE}:65536\n")).expect("write the ranges");
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("open the folder");
}

/// A runtime with flags: Podman's own, and its environment, do not reach the commands that conmon runs when a container ends.
pub(super) fn write_runtime(file: &Path, programs: &Path, flags: &str) {
    let program = programs.join("kata-runtime");
    fs::write(file, format!("#!/bin/sh\nexec {} {flags} \"$@\"\n", program.display()))
        .expect("write the runtime");
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).expect("make it a program");
}

/// Podman's files, in `to`, for programs in `tree` and all else in `dir`.
pub(super) fn write_settings(to: &Path, dir: &Path, tree: &Path, driver: &str) {
    let (path, tree) = (dir.display(), tree.display());
    let engine = format!(
        "[containers]\nlog_driver = \"k8s-file\"\n\
         [network]\nnetwork_backend = \"netavark\"\nfirewall_driver = \"iptables\"\n\
         network_config_dir = \"{path}/networks\"\ndefault_subnet = \"10.208.0.0/24\"\n\
         [engine]\nconmon_path = [\"{tree}/usr/bin/conmon\"]\nhelper_binaries_dir = [\"{tree}/usr/lib/podman\", \"{tree}/usr/libexec/podman\", \"{tree}/usr/bin\"]\n\
         init_path = \"{tree}/usr/bin/catatonit\"\nevents_logger = \"file\"\n\
         events_logfile_path = \"{path}/events\"\ncgroup_manager = \"cgroupfs\"\nlock_type = \"file\"\n"
    );
    let storage =
        format!("[storage]\ndriver = \"{driver}\"\ngraphroot = \"{path}/root\"\nrunroot = \"{path}/run\"\n");
    fs::write(to.join("containers.conf"), engine).expect("write the configuration");
    fs::write(to.join("storage.conf"), storage).expect("write the configuration");
}

/// Namespaces with all that is laid over the machine's there.
pub(super) fn held(dir: &Path, tree: &Path, env: &Environment) -> Child {
    hold(HOLD, [dir, tree, &env.programs(), env.root()])
}

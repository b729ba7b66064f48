//! Podman without root: the VM is a user's.

use integration::podman::{Podman, User};

use crate::REST;

/// With no engine, and streams of their own.
const BARE: &str = "set -e; cd; mkdir -p bundle/rootfs; tar -xf \"$2\" -C bundle/rootfs; \"$1\" spec --bundle bundle; \
                    sed -i 's/\"terminal\": true/\"terminal\": false/; s/\"sh\"$/\"uname\", \"-r\"/' bundle/config.json; \
                    \"$1\" run --bundle bundle bare 2>&1 || echo refused; \
                    unshare --map-root-user --mount \"$1\" run --bundle bundle bare </dev/null 2>&1 | cat";

pub fn somebodys(podman: &Podman) {
    let Some(user) = User::of(podman) else { return };
    let image = integration::docker::IMAGE;
    let host = podman.outside("uname -r").text();
    let ran =
        user.podman(&["run", "--rm", "--network", "none", image, "sh", "-c", "uname -r; id -u; exit 3"]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.text().ends_with("\n0\n") && !ran.text().starts_with(host.trim_end()), "{}", ran.text());
    let id = user.ok(&["run", "-d", "--name", "theirs", image, "sh", "-c", REST]);
    let kept = user.run_dir().join("vc");
    assert!(kept.join("sbs").join(&id).exists() && kept.join("vm/template").exists());
    assert_eq!(user.ok(&["exec", "theirs", "sh", "-c", "ip -o link | grep -vc ': lo:'"]), "1");
    user.ok(&["cp", "/etc/group", "theirs:/tmp/group"]);
    assert!(user.ok(&["exec", "theirs", "cat", "/tmp/group"]).contains("somebody"));
    podman.wait_for("the trap", || user.ok(&["logs", "theirs"]) == "began");
    user.ok(&["stop", "--time", "60", "theirs"]);
    assert_eq!(user.ok(&["inspect", "--format", "{{.State.ExitCode}}", "theirs"]), "9");
    user.ok(&["rm", "theirs"]);
    podman.assert_gone(&id);

    let bare = user.script(BARE);
    let text = bare.text();
    let (refused, ran) = text.split_once("refused\n").expect("one line for each try");
    assert!(refused.contains("needs root"), "{refused}");
    let is_a_release = ran.lines().count() == 1 && ran.starts_with(|first: char| first.is_ascii_digit());
    assert!(is_a_release && ran != host, "{ran}{}", bare.stderr);
}

/// Numbers of the container's own are the user's on the host, and files keep them.
pub fn tenants(podman: &Podman) {
    let Some((user, range)) = User::with_range(podman) else { return };
    let image = integration::docker::IMAGE;
    user.ok(&["volume", "create", "kept"]);
    let run = ["run", "--rm", "--network", "none", "-v", "kept:/kept"];
    let as_root = "touch /kept/roots; chown 7:8 /kept; stat -c %u:%g /kept/roots";
    assert_eq!(user.ok(&[&run[..], &[image, "sh", "-c", as_root]].concat()), "0:0");
    let as_other =
        "echo written >/kept/file; stat -c %u:%g /kept /kept/file; id -u; rm /kept/roots && touch /kept/x";
    let said = user.ok(&[&run[..], &["--user", "7:8", image, "sh", "-c", as_other]].concat());
    assert_eq!(said, "7:8\n7:8\n7");
    let path = user.ok(&["volume", "inspect", "--format", "{{.Mountpoint}}", "kept"]);
    let owners = podman.outside(&format!("stat -c %u:%g {path}/file")).text();
    assert_eq!(owners, format!("{}:{}\n", range + 6, range + 7));

    let id = user.ok(&["run", "-d", "--name", "theirs", "--user", "7", image, "sh", "-c", REST]);
    assert_eq!(user.ok(&["exec", "theirs", "id", "-u"]), "7");
    assert_eq!(user.ok(&["exec", "--user", "0", "theirs", "id", "-u"]), "0");
    user.ok(&["cp", "/etc/group", "theirs:/tmp/group"]);
    podman.wait_for("the trap", || user.ok(&["logs", "theirs"]) == "began");
    user.ok(&["stop", "--time", "60", "theirs"]);
    assert_eq!(user.ok(&["inspect", "--format", "{{.State.ExitCode}}", "theirs"]), "9");
    user.ok(&["rm", "theirs"]);
    user.ok(&["volume", "rm", "kept"]);
    podman.assert_gone(&id);
}

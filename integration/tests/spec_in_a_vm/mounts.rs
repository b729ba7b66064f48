//! What is mounted, and what is closed.

use std::fs;

use integration::compare::spec::mount;
use serde_json::json;

use crate::bench::{Bench, assert_facts, push};

#[test]
fn mounts_of_each_kind_are_made_and_paths_are_closed() {
    let Some(bench) = Bench::open(&[]) else { return };
    let volume = bench.containerd.dir().join("volume");
    fs::create_dir_all(volume.join("below")).unwrap();
    fs::write(volume.join("file"), "content").unwrap();
    let (volume, file, below) =
        (volume.display().to_string(), volume.join("file").display().to_string(), volume.join("below"));
    let script = "ls -ld /t | cut -c1-10; df -k /t | awk 'END{print $2}'; touch /ro/x || echo ro; touch /rro/x || echo rro; \
        cat /new/file; echo; ls -d /home/x; cat /plain/file; echo; touch /x || echo root ro; touch /vol/x || echo vol ro; \
        touch /etc/new && cut -d: -f1 /etc/passwd; pwd; ls /home/u | wc -l; touch /plain/below/y && echo writable; \
        awk '$5 ~ /^\\/(t|ro|etc|proc|proc.sys|dev.pts|dev.mqueue)$/ {print $5, $6}' /proc/self/mountinfo";
    let facts = bench.facts(script, |spec| {
        let mounts = &mut spec["mounts"];
        push(mounts, mount("/t", "tmpfs", "tmpfs", &["size=4m", "mode=1711", "noexec", "nosuid"]));
        push(mounts, mount("/ro", "bind", &volume, &["rbind", "ro", "nosuid"]));
        push(mounts, mount("/rro", "bind", &volume, &["rbind", "rro"]));
        push(mounts, mount("/new/file", "bind", &file, &["bind", "rprivate"]));
        push(mounts, mount("/link/x", "bind", &below.display().to_string(), &["rbind", "rslave"]));
        push(mounts, mount("/etc", "tmpfs", "tmpfs", &["size=1m", "tmpcopyup", "rprivate", "nosuid"]));
        push(mounts, mount("/plain", "none", &volume, &["bind", "rshared"]));
        spec["root"]["readonly"] = json!(true);
        spec["linux"]["rootfsPropagation"] = json!("rslave");
        push(&mut spec["linux"]["maskedPaths"], json!("/private"));
        spec["process"]["cwd"] = json!("/plain/made/here");
        push(&mut spec["linux"]["maskedPaths"], json!("/home/u"));
        push(&mut spec["linux"]["maskedPaths"], json!("/not/there"));
        push(&mut spec["linux"]["readonlyPaths"], json!("/vol"));
        push(&mut spec["linux"]["readonlyPaths"], json!("/proc/sys"));
    });
    assert_facts(
        &facts,
        &[
            "drwx--x--t",
            "4096",
            "ro",
            "rro",
            "content",
            "/home/x",
            "root ro",
            "vol ro",
            "root",
            "/plain/made/here",
            "0",
            "writable",
            "/t rw,nosuid,noexec,relatime",
            "/ro ro,nosuid,relatime",
            "/etc rw,nosuid,relatime",
            "/proc rw,nosuid,nodev,noexec,relatime",
            "/proc/sys ro,nosuid,nodev,noexec,relatime",
            "/dev/pts rw,nosuid,noexec,relatime",
            "/dev/mqueue rw,nosuid,nodev,noexec,relatime",
        ],
    );
    for (bad, words) in [
        (mount("/x", "bind", &volume, &["rbind", "idmap"]), "idmap without any uidMappings"),
        (mount("/x", "tmpfs", "tmpfs", &["bogus=1"]), "bogus=1"),
        (mount("/x", "bind", "/no/such/source", &["bind"]), "/no/such/source on /x"),
        (mount("/dev", "bind", "/dev", &["rbind"]), "name the devices"),
    ] {
        let refused = bench.refusal(|spec| push(&mut spec["mounts"], bad));
        assert!(refused.contains(words), "{words}: {refused}");
    }
}

#[test]
fn a_mount_that_cannot_be_made_is_told_in_runcs_words() {
    let Some(bench) = Bench::open(&[]) else { return };
    let file = bench.containerd.dir().join("a file").display().to_string();
    fs::write(&file, "").expect("write a file");
    let dir = bench.containerd.dir().display().to_string();
    let bound = |source: &str, destination: &str| {
        format!("error mounting {source:?} to rootfs at {destination:?}: options rbind: not a directory")
    };
    for (source, destination, kind, options, words) in [
        (&*file, "/bin", "bind", json!(["rbind"]), &*bound(&file, "/bin")),
        (&*dir, "/bin/data", "bind", json!(["rbind"]), &*bound(&dir, "/bin/data")),
        ("from", "/x", "nosuchfs", json!([]), "error mounting \"from\" to rootfs at \"/x\": no such device"),
        (
            "from",
            "/x",
            "tmpfs",
            json!(["size=much"]),
            "error mounting \"from\" to rootfs at \"/x\": options size=much: invalid argument",
        ),
        (
            "from",
            "/bin/data/x",
            "tmpfs",
            json!([]),
            "error mounting \"from\" to rootfs at \"/bin/data/x\": not a directory",
        ),
    ] {
        let refused = bench.refusal(|spec| {
            let mounts = spec["mounts"].as_array_mut().unwrap();
            mounts.push(
                json!({"destination": destination, "type": kind, "source": source, "options": options}),
            );
        });
        assert!(refused.contains(&format!("error during container init: {words}: unknown")), "{refused}");
    }
}

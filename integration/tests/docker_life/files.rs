//! What a container has of files: its own, which Docker copies and compares, and volumes.

use std::fs;

use integration::docker::Docker;

use crate::{REST, Way, state};

/// Both ways, of a container that runs, stands still or has ended, also below a volume.
pub fn files(docker: &Docker, _way: Way) {
    let dir = docker.path().join("files");
    fs::create_dir(&dir).expect("make a folder");
    fs::write(dir.join("file"), "of the host\n").expect("write a file");
    let (file, back) = (dir.join("file").display().to_string(), dir.join("back").display().to_string());
    let id = docker.start_container("files", "--network none -v kept:/data", REST);
    docker.inside("files", "echo of the guest >/made; echo of the volume >/data/made");
    let copy_back = |name: &str| {
        docker.ok(&["cp", &format!("files:{name}"), &back]);
        fs::read_to_string(&back).expect("read what was copied")
    };
    for to in ["/running", "/data/running"] {
        docker.ok(&["cp", &file, &format!("files:{to}")]);
        assert_eq!(docker.inside("files", &format!("cat {to}")), "of the host\n");
    }
    docker.ok(&["pause", "files"]);
    assert_eq!([copy_back("/made"), copy_back("/data/made")], ["of the guest\n", "of the volume\n"]);
    docker.ok(&["unpause", "files"]);
    docker.ok(&["kill", "files"]);
    docker.wait_for("its end", || state(docker, "files") == "exited 137");
    for to in ["/ended", "/data/ended"] {
        docker.ok(&["cp", &file, &format!("files:{to}")]);
    }
    assert_eq!([copy_back("/made"), copy_back("/data/made")], ["of the guest\n", "of the volume\n"]);
    docker.ok(&["start", "files"]);
    assert_eq!(docker.inside("files", "cat /ended /data/ended /running"), "of the host\n".repeat(3));
    docker.remove(&[id]);
    docker.ok(&["volume", "rm", "kept"]);
}

pub fn volumes(docker: &Docker, _way: Way) {
    let dir = docker.path().join("bound");
    fs::create_dir(&dir).expect("make a folder");
    fs::write(dir.join("file"), "of the host").expect("write a file");
    let options = format!(
        "--network none --read-only --tmpfs /scratch:size=1m -v named:/named -v {}:/bound -v {0}:/fixed:ro",
        dir.display()
    );
    let id = docker.start_container("volumes", &options, REST);
    let script = "cat /bound/file; echo back >/bound/new; echo kept >/named/file; touch /scratch/x; \
                  grep -c ' /scratch tmpfs.*size=1024k' /proc/mounts; touch /x /fixed/x";
    let said = docker.docker(&["exec", "volumes", "sh", "-c", script]);
    assert_eq!((said.code, said.text().as_str()), (1, "of the host1\n"), "{}", said.stderr);
    for file in ["/x", "/fixed/x"] {
        assert!(said.stderr.contains(&format!("{file}: Read-only file system")), "{}", said.stderr);
    }
    assert_eq!(fs::read_to_string(dir.join("new")).expect("read a file"), "back\n");
    // What one has written the other reads.
    let other = docker.run("--network none --volumes-from volumes", "cat /named/file /bound/new");
    assert_eq!(other.text(), "kept\nback\n", "{}", other.stderr);
    docker.remove(&[id]);
    let later = docker.run("--network none -v named:/again", "cat /again/file");
    assert_eq!(later.text(), "kept\n", "{}", later.stderr);
    docker.ok(&["volume", "rm", "named"]);
}

//! `docs/docker.md`: what it gives `daemon.json`, and the commands that it shows.

use std::path::Path;

use integration::{
    docker::{Docker, IMAGE},
    environment::Environment,
    page::Page,
};
use serde_json::Value;

use crate::Way;

const BY_PATH: &str = "By path";
const BY_NAME: &str = "By the shim's name";
/// Where the page has things, which are elsewhere here.
const PROGRAM: &str = "/usr/local/bin/kata-runtime";
const CONFIGURATION: &str = "/etc/kata-containers/configuration.toml";

/// The page's settings for a way.
pub fn settings(env: &Environment, dir: &Path, way: Way) -> Value {
    let configuration = match way {
        Way::Path { group: true } => {
            let line = "sandbox_cgroup_only = true".to_owned();
            env.configuration_with(dir, "grouped", &[("sandbox_cgroup_only", line)])
        }
        _ => env.configuration(),
    };
    let program = env.programs().join("kata-runtime");
    let page = Page::read("docker.md");
    let mut settings = serde_json::Map::new();
    for block in page.blocks("json", None).into_iter().filter(|block| is_for(&block.heading, way)) {
        let text = block.text.replace(PROGRAM, &program.display().to_string());
        let text = text.replace(CONFIGURATION, &configuration.display().to_string());
        settings.extend(serde_json::from_str::<serde_json::Map<_, _>>(&text).expect("a block of JSON"));
    }
    settings.into()
}

fn is_for(heading: &str, way: Way) -> bool {
    heading != if way == Way::Name { BY_PATH } else { BY_NAME }
}

/// Runs its commands.
pub fn run(docker: &Docker, way: Way) {
    docker.ok(&["tag", IMAGE, "busybox"]);
    let kernel = docker.run("--network none", "uname -r").text();
    let page = Page::read("docker.md");
    let mut in_a_vm = 0;
    for block in page.blocks("sh", None).into_iter().filter(|block| is_for(&block.heading, way)) {
        let dir = tempfile::tempdir().expect("make a folder");
        let script = format!("cd {} && set -eu\n{}", dir.path().display(), block.text);
        let ran = docker.outside(&script);
        let said = ran.text();
        assert_eq!(ran.code, 0, "{}:\n{said}{}\n{}", block.text, ran.stderr, docker.log());
        assert_eq!(docker.ok(&["ps", "-aq"]), "", "{}", block.text);
        assert_eq!(docker.ok(&["network", "ls", "-q", "--filter", "type=custom"]), "", "{}", block.text);
        in_a_vm += said.lines().filter(|line| line.trim_end() == kernel.trim_end()).count();
        if block.text.contains("nslookup") {
            assert_eq!(said.matches("Address: 10.202.").count(), 2, "{said}");
        }
    }
    // Directly, from a build, and by name.
    assert_eq!(in_a_vm, if way == Way::Name { 3 } else { 2 });
    docker.ok(&["rmi", "busybox"]);
}

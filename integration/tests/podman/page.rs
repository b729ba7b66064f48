//! The commands of `docs/podman.md`, as they stand there.

use std::path::Path;

use integration::{docker::IMAGE, page::Page, podman::Podman};

/// Of the page's program, configuration and image: what they are here.
fn here(podman: &Podman, runtime: &Path, text: &str) -> String {
    let path = podman.path().display();
    text.replace("/usr/local/bin/kata-runtime", &runtime.display().to_string())
        .replace("/usr/local/bin/", &format!("{path}/page/"))
        .replace("/etc/kata-containers/other.toml", &podman.configuration().display().to_string())
        .replace("docker.io/library/busybox", &format!("localhost/{IMAGE}:latest"))
}

pub fn works_when_pasted(podman: &Podman) {
    let page = Page::read("podman.md");
    let dir = podman.path().join("page");
    let (configured, program) = (podman.path().join("kata-runtime"), podman.program());
    std::fs::create_dir(&dir).expect("make a folder");
    for settings in page.blocks("toml", None) {
        podman.configure(&here(podman, &configured, &settings.text));
    }
    for pod in page.blocks("yaml", None) {
        std::fs::write(dir.join("pod.yaml"), here(podman, &configured, &pod.text)).expect("write a file");
    }
    let host = podman.outside("uname -r").text();
    for commands in page.blocks("sh", None) {
        let ran = podman.paste(&dir, &here(podman, &program, &commands.text));
        assert_eq!(ran.code, 0, "{}\n{}", commands.text, ran.stderr);
        assert!(ran.text() != host, "{}", commands.text);
    }
}

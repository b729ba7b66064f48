//! Small OCI images of a static busybox, as one archive that `ctr images import` takes. Deterministic.
//!
//! Contract: the OCI image spec's layout, manifest and config; `tar`'s ustar format by the system's program.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const NAME: &str = "docker.io/library/kata-busybox:latest";
/// What CRI runs beside a pod's containers: it sleeps.
const PAUSE_NAME: &str = "docker.io/library/kata-pause:latest";

const SEARCH_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Writes the images' archive.
pub fn make(busybox: &Path, out: &Path) -> Result<()> {
    let work = out.with_extension("work");
    let _ = fs::remove_dir_all(&work); // Left by a run that was broken off.
    let made = make_in(&work, busybox, out);
    let _ = fs::remove_dir_all(&work); // Ours alone.
    made
}

fn make_in(work: &Path, busybox: &Path, out: &Path) -> Result<()> {
    let (root, layout) = (work.join("root"), work.join("layout"));
    fill_root(&root, busybox)?;
    fs::create_dir_all(layout.join("blobs/sha256"))?;
    let layer = work.join("layer.tar");
    tar(&root, &layer)?;
    let layer = add_blob(&layout, &fs::read(layer)?)?;
    let shell = add_image(&layout, NAME, &layer, json!({"Cmd": ["sh"], "Env": [SEARCH_PATH]}))?;
    let pause = json!({"Entrypoint": ["/pause"], "Env": [SEARCH_PATH]});
    let pause = add_image(&layout, PAUSE_NAME, &layer, pause)?;
    let index = json!({"schemaVersion": 2, "manifests": [shell, pause]});
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    tar(&layout, out)
}

/// Adds an image of one layer; returns its entry in the index.
fn add_image(layout: &Path, name: &str, layer: &Blob, config: Value) -> Result<Value> {
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
    });
    let config = add_blob(layout, &serde_json::to_vec(&config)?)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.described("application/vnd.oci.image.config.v1+json"),
        "layers": [layer.described("application/vnd.oci.image.layer.v1.tar")],
    });
    let mut entry = add_blob(layout, &serde_json::to_vec(&manifest)?)?
        .described("application/vnd.oci.image.manifest.v1+json");
    entry["annotations"] =
        json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": "latest"});
    Ok(entry)
}

fn fill_root(root: &Path, busybox: &Path) -> Result<()> {
    for dir in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::copy(busybox, root.join("bin/busybox")).with_context(|| format!("copy {}", busybox.display()))?;
    let listed = Command::new(busybox).arg("--list").output().context("ask busybox for its commands")?;
    ensure!(listed.status.success(), "{} is no busybox", busybox.display());
    for applet in String::from_utf8(listed.stdout)?.lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    let pause = root.join("pause");
    fs::write(&pause, "#!/bin/sh\ntrap 'exit 0' INT TERM\nwhile :; do sleep 2147483647 & wait; done\n")?;
    fs::set_permissions(&pause, fs::Permissions::from_mode(0o755))?;
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    Ok(())
}

/// Packs a folder, with nothing in it that depends on when or where.
fn tar(dir: &Path, out: &Path) -> Result<()> {
    let status = Command::new("tar")
        .args([
            "--sort=name",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "--mtime=@0",
            "--format=ustar",
            "-C",
        ])
        .arg(dir)
        .arg("-cf")
        .arg(out)
        .arg(".")
        .status()
        .context("run tar")?;
    if !status.success() {
        bail!("tar: {status}");
    }
    Ok(())
}

struct Blob {
    digest: String,
    size: usize,
}

impl Blob {
    fn described(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest, "size": self.size})
    }
}

fn add_blob(layout: &Path, data: &[u8]) -> Result<Blob> {
    let hash = Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let path: PathBuf = layout.join("blobs/sha256").join(&hash);
    fs::write(&path, data).with_context(|| format!("write {}", path.display()))?;
    Ok(Blob { digest: format!("sha256:{hash}"), size: data.len() })
}

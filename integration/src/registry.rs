//! A registry of images: Debian's `docker-registry`, in the network namespace that plays the host, gone when dropped.

use std::{
    fs,
    io::{Read, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::{environment::Environment, place::dial_in};

/// containerd speaks HTTP without TLS to what is on the loopback.
const ADDRESS: &str = "127.0.0.1:5000";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const READY: Duration = Duration::from_secs(60);
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A registry that runs, and its folder.
pub struct Registry {
    process: Child,
    host: String,
    dir: TempDir,
}

impl Registry {
    /// `None`, with a word, where there is no such program. `host` is the name of the network namespace.
    pub fn start(env: &Environment, host: &str) -> Option<Self> {
        let program = env.registry()?;
        let dir = tempfile::tempdir().expect("make a temporary folder");
        let config = json!({
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": dir.path().join("data")}},
            "http": {"addr": ADDRESS},
        });
        let path = dir.path().join("config.yml");
        // JSON is YAML.
        fs::write(&path, config.to_string()).expect("write the registry's configuration");
        let log = fs::File::create(dir.path().join("log")).expect("make the registry's log");
        let process = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{host}"))
            .arg(program)
            .arg("serve")
            .arg(path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("start the registry");
        let registry = Self { process, host: host.into(), dir };
        let began = Instant::now();
        while dial_in(host, ADDRESS).is_err() {
            assert!(began.elapsed() < READY, "the registry does not listen: {}", registry.log());
            thread::sleep(Duration::from_millis(20));
        }
        Some(registry)
    }

    /// What an image of that name is called by those who pull it.
    pub fn name(&self, image: &str) -> String {
        format!("{ADDRESS}/{image}")
    }

    /// Puts an image there with the root file system of the tests' image and a configuration of its own; its digest.
    pub fn push(&self, env: &Environment, name: &str, tag: &str, config: &Value) -> String {
        let layout = Layout::unpack(env, self.dir.path().join("layout"));
        let manifest = layout.json(&layout.index()["manifests"][0]);
        let mut whole = layout.json(&manifest["config"]);
        whole["config"] = config.clone();
        let layer = &manifest["layers"][0];
        let whole = self.upload(name, whole.to_string().as_bytes(), CONFIG);
        let layer = self.upload(name, &layout.blob(layer), layer["mediaType"].as_str().unwrap_or(LAYER));
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": whole, "layers": [layer]})
            .to_string();
        let path = format!("/v2/{name}/manifests/{tag}");
        self.ask("PUT", &path, MANIFEST, manifest.as_bytes());
        digest(manifest.as_bytes())
    }

    /// Puts a blob there; its description.
    fn upload(&self, name: &str, data: &[u8], kind: &str) -> Value {
        let began = self.ask("POST", &format!("/v2/{name}/blobs/uploads/"), "", b"");
        let location = began.lines().find_map(|line| line.strip_prefix("Location: "));
        let place = location.unwrap_or_else(|| panic!("no place to upload to: {began}")).trim();
        let place = place.strip_prefix(&format!("http://{ADDRESS}")).unwrap_or(place);
        let digest = digest(data);
        self.ask("PUT", &format!("{place}&digest={digest}"), "application/octet-stream", data);
        json!({"mediaType": kind, "digest": digest, "size": data.len()})
    }

    /// One request, which is to succeed; the head of its answer.
    fn ask(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> String {
        let mut stream = dial_in(&self.host, ADDRESS).expect("connect to the registry");
        stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        stream.set_write_timeout(Some(PATIENCE)).expect("a deadline");
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {ADDRESS}\r\nConnection: close\r\nContent-Type: {kind}\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).expect("ask the registry");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("hear the registry");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 2"), "{method} {path}: {answer}\n{}", self.log());
        answer
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill(); // It may have ended.
        let _ = self.process.wait();
    }
}

/// The tests' image, unpacked.
struct Layout(PathBuf);

impl Layout {
    fn unpack(env: &Environment, dir: PathBuf) -> Self {
        if !dir.exists() {
            fs::create_dir(&dir).expect("make a folder");
            let unpacked = Command::new("tar").arg("-xf").arg(env.image()).arg("-C").arg(&dir).status();
            assert!(unpacked.expect("run tar").success(), "the image cannot be unpacked");
        }
        Self(dir)
    }

    fn index(&self) -> Value {
        let text = fs::read(self.0.join("index.json")).expect("read the index");
        serde_json::from_slice(&text).expect("the index is JSON")
    }

    fn blob(&self, description: &Value) -> Vec<u8> {
        let digest = description["digest"].as_str().expect("a digest");
        fs::read(self.0.join("blobs").join(digest.replace(':', "/"))).expect("read a blob")
    }

    fn json(&self, description: &Value) -> Value {
        serde_json::from_slice(&self.blob(description)).expect("a blob of JSON")
    }
}

fn digest(data: &[u8]) -> String {
    let bytes: String = Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{bytes}")
}

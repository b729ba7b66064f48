//! A folder with all that one life needs, and the programs that are run in it.

use std::{
    fs,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::json;
use tempfile::TempDir;

use super::{
    host::{GUEST_MARK, Leftovers},
    plan::Plan,
};
use crate::remains;

/// The container, and its sandbox.
pub const ID: &str = "c1";

/// The folder; gone when dropped, with everything that is mounted in it.
pub struct Place {
    dir: TempDir,
    program: PathBuf,
    /// The sandbox's cgroup.
    group: String,
}

impl Place {
    /// With a bundle and a configuration for containers of `program`, whose shared tree `virtiofsd` serves.
    pub fn make(program: &Path, virtiofsd: &str) -> Self {
        // The paths of sockets are short.
        let dir = tempfile::Builder::new().prefix("kf.").tempdir_in("/run").expect("make a folder");
        let root = dir.path();
        let group = root.file_name().expect("it has a name").to_string_lossy().into_owned();
        let bundle = root.join("bundle");
        for made in ["bundle/rootfs", "volume", "faults", "image"] {
            fs::create_dir_all(root.join(made)).expect("make a folder");
        }
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": {
                "args": ["sh", "-c", "exec sleep 1000"], "cwd": "/", "user": {"uid": 0, "gid": 0},
                "env": ["PATH=/usr/bin:/bin", format!("{GUEST_MARK}={}", root.display())],
            },
            "root": {"path": "rootfs"},
            "mounts": [{
                "destination": "/volume", "type": "bind", "source": root.join("volume"), "options": ["rbind", "ro"],
            }],
            "hooks": {"createRuntime": [{"path": "/bin/true"}], "poststop": [{"path": "/bin/true"}]},
            "linux": {"namespaces": [{"type": "mount"}], "cgroupsPath": format!("/{group}")},
        });
        fs::write(bundle.join("config.json"), spec.to_string()).expect("write config.json");
        let config = format!(
            "[hypervisor.qemu]\npath = \"/bin/true\"\nkernel = \"/bin/true\"\ninitrd = \"/bin/true\"\n\
             shared_fs = \"virtio-fs\"\nvirtio_fs_daemon = \"{virtiofsd}\"\n\
             [runtime]\nsandbox_cgroup_only = true\n"
        );
        fs::write(root.join("configuration.toml"), config).expect("write the configuration");
        Self { dir, program: program.into(), group }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// What goes wrong here.
    pub fn plan(&self) -> Plan {
        Plan::in_dir(self.faults())
    }

    /// Starts the shim. Its socket takes connections already.
    pub fn serve(&self) -> Child {
        let socket = self.socket();
        let _ = fs::remove_file(&socket); // A killed shim left it.
        let listener = UnixListener::bind(&socket).expect("bind the shim's socket");
        let mut command = self.command("serve");
        command.stdin(Stdio::from(OwnedFd::from(listener)));
        command.spawn().expect("start the shim")
    }

    /// The command that cleans up after a dead shim.
    pub fn delete(&self) -> Command {
        self.command("delete")
    }

    pub fn socket(&self) -> PathBuf {
        self.path().join("s")
    }

    /// What is on the host of all this.
    pub fn leftovers(&self) -> Leftovers {
        Leftovers::end_guest(self.path());
        Leftovers::of(self.path(), &self.group)
    }

    fn command(&self, what: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(what).arg(self.path()).arg(ID).env("KATA_FAULTS", self.faults());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(self.log());
        command
    }

    /// What the programs say.
    pub fn said(&self) -> String {
        fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    fn log(&self) -> Stdio {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path().join("log"));
        log.expect("open the log").into()
    }

    fn faults(&self) -> PathBuf {
        self.path().join("faults")
    }
}

impl Drop for Place {
    /// A run that failed leaves its mounts, which would keep the folder.
    fn drop(&mut self) {
        Leftovers::end_guest(self.path());
        remains::unmount(self.path());
    }
}

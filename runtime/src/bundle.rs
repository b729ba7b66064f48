//! An OCI bundle as an engine hands it over, and the part its container plays.
//!
//! Contract: the OCI runtime spec's bundle and config documents; the marks of sandbox and container are those of
//! containerd's CRI plugin, CRI-O and dockershim.

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, Process, Spec};
use protocols::sysctl;

use crate::{
    error::{Context, Error, Result},
    ids::{ContainerId, SandboxId},
};

/// A larger config.json is refused: it would not pass the agent's 4 MiB message limit anyway.
const CONFIG_LIMIT: u64 = 3 << 20;

/// A bundle whose config.json was read and checked for what every container needs.
#[derive(Debug, Clone)]
pub struct Bundle {
    pub dir: PathBuf,
    pub spec: Spec,
    pub role: Role,
    /// The process that stands for the container on the host, if the engine made one: its pid is told as the
    /// container's, and a network namespace that the spec wants new is the one that it is in.
    pub stand_in: Option<u32>,
    /// The name of a new sandbox, where the container's own is not free.
    pub sandbox_name: Option<SandboxId>,
}

/// What a container is to its sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Alone in a sandbox of its own.
    Single,
    /// The first of a pod: its id is the sandbox's.
    PodSandbox,
    /// Joins the sandbox of a pod.
    PodContainer { sandbox: SandboxId },
}

/// (key of the type, values for sandbox and container, key of the sandbox's id)
const MARKS: [(&str, [&str; 2], &str); 3] = [
    ("io.kubernetes.cri.container-type", ["sandbox", "container"], "io.kubernetes.cri.sandbox-id"),
    ("io.kubernetes.cri-o.ContainerType", ["sandbox", "container"], "io.kubernetes.cri-o.SandboxID"),
    ("io.kubernetes.docker.type", ["podsandbox", "container"], "io.kubernetes.sandbox.id"),
];

impl Bundle {
    /// Reads `<dir>/config.json`. Faults name the field.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let mut text = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(CONFIG_LIMIT + 1).read_to_end(&mut text))
            .map_err(|error| Error::invalid(format!("bundle {}: config.json: {error}", dir.display())))?;
        if text.len() as u64 > CONFIG_LIMIT {
            return Err(Error::invalid(format!("{}: larger than {CONFIG_LIMIT} bytes", path.display())));
        }
        let (spec, unknown) = protocols::oci::spec_from_json(&text)
            .map_err(|error| Error::invalid(format!("{}: {error}", path.display())))?;
        mention(&unknown);
        Self::of(dir.to_path_buf(), spec).with_context(|| path.display().to_string())
    }

    fn of(dir: PathBuf, spec: Spec) -> Result<Self> {
        let process = spec.process().as_ref().ok_or_else(|| Error::invalid("process: is missing"))?;
        if process.args().as_ref().is_none_or(Vec::is_empty) {
            return Err(Error::invalid("process.args: names no program"));
        }
        if !process.cwd().is_absolute() {
            return Err(Error::invalid(format!("process.cwd: {:?} is not absolute", process.cwd())));
        }
        if spec.root().is_none() {
            return Err(Error::invalid("root: is missing"));
        }
        if spec.linux().is_none() {
            return Err(Error::invalid("linux: is missing"));
        }
        check_environment(process)?;
        check_namespaces(&spec)?;
        let bundle = Self { dir, role: Role::of(&spec)?, spec, stand_in: None, sandbox_name: None };
        bundle.check_pods_sysctls(|kind| bundle.namespace(kind).is_some())?;
        Ok(bundle)
    }

    /// The bundle of a sandbox that is made before anybody wants a container in it.
    pub fn of_nobody() -> Self {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(LinuxNamespaceType::Network);
        let mut linux = Linux::default();
        linux.set_namespaces(Some(vec![namespace]));
        let mut spec = Spec::default();
        spec.set_linux(Some(linux)).set_hostname(None);
        Self { dir: PathBuf::new(), spec, role: Role::PodSandbox, stand_in: None, sandbox_name: None }
    }

    /// The sandbox of this bundle's container: the pod's, or one of its own, named after the container as a rule.
    pub fn sandbox_id(&self, container: &ContainerId) -> Result<SandboxId> {
        match &self.role {
            Role::PodContainer { sandbox } => Ok(sandbox.clone()),
            Role::Single | Role::PodSandbox => {
                self.sandbox_name.clone().map_or_else(|| SandboxId::new(container.as_str()), Ok)
            }
        }
    }

    /// The root file system's directory on the host.
    pub fn rootfs(&self) -> PathBuf {
        let path = self.spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
        self.dir.join(path)
    }

    /// The path of a namespace: outer `None` if the container shares the host's, inner `None` if it wants a new one.
    pub fn namespace(&self, kind: LinuxNamespaceType) -> Option<Option<PathBuf>> {
        let namespaces = self.spec.linux().as_ref()?.namespaces().as_ref()?;
        let named = namespaces.iter().find(|namespace| namespace.typ() == kind)?.path().clone();
        Some(named.or_else(|| match (kind, self.stand_in) {
            (LinuxNamespaceType::Network, Some(pid)) => Some(format!("/proc/{pid}/ns/net").into()),
            _ => None,
        }))
    }

    /// Whether this is a pod's own container with nothing to do: it would only wait for its end, as the VM does.
    pub fn only_waits(&self) -> bool {
        let args =
            self.spec.process().as_ref().and_then(|process| process.args().as_deref()).unwrap_or_default();
        let pauses = matches!(args, [program] if Path::new(program).file_name() == Some("pause".as_ref()));
        let in_guest = self.spec.hooks().as_ref().and_then(|hooks| hooks.start_container().as_ref());
        self.role == Role::PodSandbox && pauses && in_guest.is_none_or(Vec::is_empty)
    }

    /// The settings of a pod that has no process of its own to make them: its first container brings them along.
    pub fn pods_sysctls(&self) -> HashMap<String, String> {
        let has_process = self.spec.process().is_some() && !self.only_waits();
        let sysctls = self.spec.linux().as_ref().and_then(|linux| linux.sysctl().clone());
        match self.role {
            Role::PodSandbox if !has_process => sysctls.unwrap_or_default(),
            _ => HashMap::new(),
        }
    }

    /// Refuses those that no container could set, which the guest would do with the first container: an engine tells what
    /// is wrong with a pod when it is made. `has` says which namespaces the pod's containers have.
    pub(crate) fn check_pods_sysctls(&self, has: impl Fn(LinuxNamespaceType) -> bool) -> Result<()> {
        let has = |namespace| match namespace {
            sysctl::Namespace::Network => true,
            sysctl::Namespace::Ipc => has(LinuxNamespaceType::Ipc),
            sysctl::Namespace::Uts => has(LinuxNamespaceType::Uts),
            sysctl::Namespace::User => has(LinuxNamespaceType::User),
        };
        self.pods_sysctls()
            .keys()
            .try_for_each(|key| sysctl::namespace_of(key, has).map(drop).map_err(Error::invalid))
    }

    /// Adds settings; the container's own stay.
    pub fn add_sysctls(&mut self, more: HashMap<String, String>) {
        if let Some(linux) = self.spec.linux_mut().as_mut().filter(|_| !more.is_empty()) {
            let own = linux.sysctl().clone().unwrap_or_default();
            linux.set_sysctl(Some(more.into_iter().chain(own).collect()));
        }
    }

    /// Whether the container comes with settings for the network, which may be about an interface.
    pub fn sets_network(&self) -> bool {
        let sysctls = self.spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
        sysctls.is_some_and(|sysctls| sysctls.keys().any(|key| key.starts_with("net")))
    }
}

/// Reads the OCI process that an engine adds to a container.
pub fn read_process(text: &[u8]) -> Result<Process> {
    let (process, unknown) =
        protocols::oci::process_from_json(text).map_err(|error| Error::invalid(error.to_string()))?;
    mention(&unknown);
    Ok(process)
}

fn mention(unknown_capabilities: &[String]) {
    if !unknown_capabilities.is_empty() {
        // So does runc.
        tracing::warn!(?unknown_capabilities, "ignored");
    }
}

fn check_environment(process: &Process) -> Result<()> {
    match process.env().iter().flatten().find(|entry| entry.starts_with('=')) {
        Some(entry) => Err(Error::invalid(format!("process.env: {entry:?}: a variable must have a name"))),
        None => Ok(()),
    }
}

fn check_namespaces(spec: &Spec) -> Result<()> {
    let namespaces =
        spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    for (index, namespace) in namespaces.iter().enumerate() {
        if namespaces[..index].iter().any(|earlier| earlier.typ() == namespace.typ()) {
            return Err(Error::invalid(format!("linux.namespaces: {} is named twice", namespace.typ())));
        }
    }
    Ok(())
}

impl Role {
    fn of(spec: &Spec) -> Result<Self> {
        let Some(annotations) = spec.annotations() else {
            return Ok(Self::Single);
        };
        for (type_key, [sandbox, container], id_key) in MARKS {
            match annotations.get(type_key) {
                None => {}
                Some(kind) if kind == sandbox => return Ok(Self::PodSandbox),
                Some(kind) if kind == container => {
                    let id = annotations.get(id_key).ok_or_else(|| {
                        Error::invalid(format!("annotations: {id_key} is missing from a pod's container"))
                    })?;
                    return Ok(Self::PodContainer { sandbox: SandboxId::new(id)? });
                }
                Some(kind) => {
                    return Err(Error::invalid(format!(
                        "annotations: {type_key} is {kind:?}, not {sandbox} or {container}"
                    )));
                }
            }
        }
        Ok(Self::Single)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Bundle> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        Bundle::load(dir.path())
    }

    fn with_annotations(annotations: &str) -> Result<Role> {
        load(&format!(
            r#"{{"ociVersion":"1.0.2","process":{{"args":["sh"],"cwd":"/","user":{{"uid":0,"gid":0}}}},
                "root":{{"path":"rootfs"}},"linux":{{}},"annotations":{{{annotations}}}}}"#
        ))
        .map(|bundle| bundle.role)
    }

    #[test]
    fn every_engines_marks_are_understood() {
        let member = |id: &str| Role::PodContainer { sandbox: SandboxId::new(id).unwrap() };
        for (annotations, role) in [
            ("", Role::Single),
            (r#""io.kubernetes.cri.container-type":"sandbox""#, Role::PodSandbox),
            (
                r#""io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-id":"s1""#,
                member("s1"),
            ),
            (
                r#""io.kubernetes.cri-o.ContainerType":"container","io.kubernetes.cri-o.SandboxID":"s2""#,
                member("s2"),
            ),
            (r#""io.kubernetes.docker.type":"podsandbox""#, Role::PodSandbox),
        ] {
            assert_eq!(with_annotations(annotations).unwrap(), role, "{annotations}");
        }
        assert!(with_annotations(r#""io.kubernetes.cri.container-type":"container""#).is_err());
        assert!(with_annotations(r#""io.kubernetes.cri.container-type":"x""#).is_err());
    }

    #[test]
    fn what_a_pod_cannot_set_is_named_when_it_is_made() {
        let pod = |namespaces: &str, key: &str| {
            load(&format!(
                r#"{{"ociVersion":"1.0.2","process":{{"args":["/pause"],"cwd":"/","user":{{"uid":0,"gid":0}}}},
                    "root":{{"path":"r"}},"annotations":{{"io.kubernetes.cri.container-type":"sandbox"}},
                    "linux":{{"namespaces":[{namespaces}],"sysctl":{{"{key}":"1"}}}}}}"#
            ))
        };
        assert!(pod(r#"{"type":"ipc"}"#, "kernel.shmmax").is_ok());
        for (namespaces, key, words) in [
            ("", "kernel.shmmax", "not allowed in the hosts ipc namespace"),
            (r#"{"type":"ipc"}"#, "kernel.panic", "\"kernel.panic\" is not in a separate kernel namespace"),
        ] {
            let error = pod(namespaces, key).unwrap_err().to_string();
            assert!(error.contains(words), "{key}: {error}");
        }
    }

    #[test]
    fn a_new_network_namespace_is_that_of_the_stand_in() {
        let text = r#"{"ociVersion":"1.0.2","process":{"args":["sh"],"cwd":"/","user":{"uid":0,"gid":0}},
            "root":{"path":"r"},"linux":{"namespaces":[{"type":"network"NET},{"type":"pid"}]}}"#;
        for (net, stand_in, path) in [
            ("", None, None),
            ("", Some(7), Some("/proc/7/ns/net")),
            (r#","path":"/run/netns/n""#, Some(7), Some("/run/netns/n")),
        ] {
            let bundle = Bundle { stand_in, ..load(&text.replace("NET", net)).unwrap() };
            assert_eq!(bundle.namespace(LinuxNamespaceType::Network), Some(path.map(PathBuf::from)));
            assert_eq!(bundle.namespace(LinuxNamespaceType::Pid), Some(None));
            assert_eq!(bundle.namespace(LinuxNamespaceType::Ipc), None);
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let process = r#""process":{"args":["sh"],"cwd":"/","user":{"uid":0,"gid":0}}"#;
        for (text, words) in [
            ("", "EOF"),
            ("{", "EOF"),
            (r#"{"ociVersion":"1.0.2"}"#, "process: is missing"),
            (
                r#"{"ociVersion":"1.0.2","process":{"args":[],"cwd":"/","user":{"uid":0,"gid":0}}}"#,
                "process.args",
            ),
            (
                r#"{"ociVersion":"1.0.2","process":{"args":["sh"],"cwd":"x","user":{"uid":0,"gid":0}}}"#,
                "process.cwd",
            ),
            (&format!(r#"{{"ociVersion":"1.0.2",{process}}}"#), "root: is missing"),
            (&format!(r#"{{"ociVersion":"1.0.2",{process},"root":{{"path":"r"}}}}"#), "linux: is missing"),
            (
                &format!(
                    r#"{{"ociVersion":"1.0.2",{process},"root":{{"path":"r"}},
                        "linux":{{"namespaces":[{{"type":"pid"}},{{"type":"uts"}},{{"type":"pid"}}]}}}}"#
                ),
                "pid is named twice",
            ),
            (
                r#"{"ociVersion":"1.0.2","process":{"args":["sh"],"cwd":"/","user":{"uid":0,"gid":0},"env":["A=","=x"]},
                    "root":{"path":"r"},"linux":{}}"#,
                "process.env: \"=x\"",
            ),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains("config.json") && error.contains(words), "{text}: {error}");
        }
        let missing = Bundle::load(Path::new("/nonexistent")).unwrap_err().to_string();
        assert_eq!(missing, "bundle /nonexistent: config.json: No such file or directory (os error 2)");
    }
}

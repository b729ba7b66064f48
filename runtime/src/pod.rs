//! A pod whose engine makes no container for the pod itself: what is told of it instead, as a bundle.
//!
//! Contract: containerd's sandbox API, whose options are the pod's configuration in CRI; the marks in the annotations are
//! those that CRI plugins set.

use std::{
    collections::HashMap,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, Spec};
use protobuf::Message;
use protocols::cri::{LinuxContainerResources, PodSandboxConfig};

use crate::{
    bundle::{Bundle, Role},
    container::sizing::{POD_MEMORY, POD_PERIOD, POD_QUOTA},
    error::{Context, Error, Result},
};

/// What an engine tells of a pod.
#[derive(Debug, Clone, Default)]
pub struct Pod {
    pub id: String,
    /// Where the engine keeps what belongs to it.
    pub dir: PathBuf,
    /// The network namespace; `None` for the host's.
    pub network: Option<PathBuf>,
    pub annotations: HashMap<String, String>,
    /// CRI's `PodSandboxConfig` in its encoding; may be empty.
    pub config: Vec<u8>,
}

impl Pod {
    /// The bundle of a sandbox for it.
    pub fn bundle(self) -> Result<Bundle> {
        let config = PodSandboxConfig::parse_from_bytes(&self.config)
            .map_err(|error| Error::invalid(format!("options: no configuration of a pod: {error}")))?;
        let mut linux = Linux::default();
        let namespaces = self.network.map(|path| {
            let mut namespace = LinuxNamespace::default();
            namespace.set_typ(LinuxNamespaceType::Network).set_path(Some(path));
            namespace
        });
        linux.set_namespaces(Some(namespaces.into_iter().collect()));
        let mut annotations = config.annotations;
        annotations.extend(self.annotations);
        if let Some(config) = config.linux.into_option() {
            if !config.cgroup_parent.is_empty() {
                linux.set_cgroups_path(Some(cgroups_path(&config.cgroup_parent, &self.id)));
            }
            linux.set_sysctl(Some(config.sysctls));
            annotations.extend(marks(&config.resources.unwrap_or_default()));
        }
        let mut spec = Spec::default();
        spec.set_process(None).set_root(None).set_mounts(None);
        spec.set_hostname(Some(config.hostname)).set_annotations(Some(annotations)).set_linux(Some(linux));
        let bundle =
            Bundle { dir: self.dir, spec, role: Role::PodSandbox, stand_in: None, sandbox_name: None };
        // Which namespaces its containers have is told with them.
        bundle.check_pods_sysctls(|_| true).context("linux.sysctls")?;
        Ok(bundle)
    }
}

/// As containerd's CRI plugin calls the group of a pod's own container: below a slice in systemd's words.
fn cgroups_path(parent: &str, id: &str) -> PathBuf {
    let parent = Path::new(parent);
    match parent.file_name().and_then(OsStr::to_str) {
        Some(slice) if slice.ends_with(".slice") => format!("{slice}:cri-containerd:{id}").into(),
        _ => parent.join(id),
    }
}

fn marks(resources: &LinuxContainerResources) -> impl Iterator<Item = (String, String)> {
    let marks = [
        (POD_QUOTA, resources.cpu_quota),
        (POD_PERIOD, resources.cpu_period),
        (POD_MEMORY, resources.memory_limit_in_bytes),
    ];
    marks.into_iter().filter(|(_, value)| *value != 0).map(|(key, value)| (key.to_owned(), value.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shapes_a_vm_is_taken_over() {
        let mut config = PodSandboxConfig { hostname: "host".into(), ..Default::default() };
        config.annotations.insert("a".into(), "b".into());
        let linux = config.linux.mut_or_insert_default();
        linux.sysctls.insert("net.core.somaxconn".into(), "7".into());
        linux.resources.mut_or_insert_default().memory_limit_in_bytes = 5 << 20;
        linux.cgroup_parent = "/kubepods/pod1".into();
        let pod = Pod {
            id: "c1".into(),
            network: Some("/run/netns/x".into()),
            config: config.write_to_bytes().unwrap(),
            ..Pod::default()
        };
        let bundle = pod.bundle().unwrap();
        assert_eq!(bundle.role, Role::PodSandbox);
        assert_eq!(bundle.namespace(LinuxNamespaceType::Network), Some(Some("/run/netns/x".into())));
        assert_eq!(bundle.spec.hostname().as_deref(), Some("host"));
        assert_eq!(bundle.pods_sysctls(), HashMap::from([("net.core.somaxconn".into(), "7".into())]));
        let group = bundle.spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
        assert_eq!(group, Some("/kubepods/pod1/c1".into()));
        let annotations = bundle.spec.annotations().clone().unwrap();
        let expected = HashMap::from([("a", "b"), (POD_MEMORY, "5242880")]);
        assert_eq!(annotations, expected.into_iter().map(|(k, v)| (k.into(), v.into())).collect());
    }

    #[test]
    fn a_group_has_the_name_that_containerd_gives_it() {
        for (parent, expected) in [
            ("/kubepods/burstable/pod1", "/kubepods/burstable/pod1/c1"),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice",
                "kubepods-burstable-pod1.slice:cri-containerd:c1",
            ),
            ("/", "/c1"),
        ] {
            assert_eq!(cgroups_path(parent, "c1"), Path::new(expected), "{parent}");
        }
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        let error = Pod { config: vec![255; 9], ..Pod::default() }.bundle().unwrap_err();
        assert!(error.to_string().contains("options"), "{error}");
    }
}

//! `configuration.toml`: found, read, merged with its drop-ins, typed and checked once, then immutable.
//!
//! Both upstream dialects' keys are accepted. A key nobody knows is a warning with file and line; a key that is known
//! but not served here is an error unless it stands at a harmless value: nothing is silently ignored.

mod annotations;
mod factory;
mod file;
mod hypervisor;
mod patterns;
mod tables;
mod unserved;

use std::path::{Path, PathBuf};

pub use factory::{FactoryConfig, TemplateMemory, TemplateUse};
pub use hypervisor::{Accelerator, AgentChannel, HypervisorConfig, SharedFs, VirtioFsCache};
pub use tables::{AgentConfig, InternetworkingModel, RuntimeConfig};

use crate::error::{Error, Result};

/// Where a configuration is looked for, best first, when nobody names one.
pub const DEFAULT_PATHS: [&str; 6] = [
    "/etc/kata-containers/configuration.toml",
    "/usr/share/defaults/kata-containers/configuration.toml",
    "/etc/kata-containers/runtime-rs/configuration.toml",
    "/usr/share/defaults/kata-containers/runtime-rs/configuration.toml",
    "/opt/kata/share/defaults/kata-containers/configuration.toml",
    "/opt/kata/share/defaults/kata-containers/runtime-rs/configuration.toml",
];

/// Everything the engine may be told.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The main file, symbolic links resolved.
    pub path: PathBuf,
    pub hypervisor: HypervisorConfig,
    pub agent: AgentConfig,
    pub runtime: RuntimeConfig,
    pub factory: FactoryConfig,
    /// What the operator should know: keys nobody reads. For the log.
    pub warnings: Vec<String>,
    /// Whether the annotations of a sandbox ask for a VM that is not like its clones: a template of it would be for few,
    /// and whoever writes pods could fill the host with them.
    pub template_of_its_own: bool,
    /// `default_vcpus` and `default_memory` of the file.
    sizes: (f64, u64),
}

impl Config {
    /// Finds and loads the configuration: `named` by the caller, else `KATA_CONF_FILE`, else the first of
    /// [`DEFAULT_PATHS`] that exists.
    pub fn find(named: Option<&Path>) -> Result<Self> {
        let from_env = std::env::var_os("KATA_CONF_FILE").filter(|path| !path.is_empty()).map(PathBuf::from);
        match named.map(Path::to_path_buf).or(from_env) {
            Some(path) => Self::load(&path),
            None => match DEFAULT_PATHS.iter().map(Path::new).find(|path| path.is_file()) {
                Some(path) => Self::load(path),
                None => Err(Error::not_found(format!(
                    "no configuration.toml: name one by the runtime's ConfigPath option or KATA_CONF_FILE, or install \
                     one as {}",
                    DEFAULT_PATHS[0]
                ))),
            },
        }
    }

    /// The name of the hypervisor that [`Self::hypervisor`] describes, as in its table.
    pub fn hypervisor_name(&self) -> &'static str {
        "qemu"
    }

    /// Loads `path` and the drop-ins of `config.d/` beside it, in the order of their names.
    pub fn load(path: &Path) -> Result<Self> {
        let path = path
            .canonicalize()
            .map_err(|error| Error::invalid(format!("configuration file {}: {error}", path.display())))?;
        let file::Merged { mut tables, warnings } = file::read_merged(&path)?;
        let agent = &mut tables.agent.kata;
        agent.create_container_timeout =
            agent.create_container_timeout.max(tables.runtime.create_container_timeout);
        let config = Self {
            path,
            template_of_its_own: false,
            sizes: (tables.hypervisor.qemu.default_vcpus, tables.hypervisor.qemu.default_memory),
            factory: FactoryConfig::of(tables.factory, std::mem::take(&mut tables.hypervisor.qemu.factory)),
            hypervisor: tables.hypervisor.qemu,
            agent: tables.agent.kata,
            runtime: tables.runtime,
            warnings,
        };
        let checked = config.hypervisor.check().and_then(|()| config.check_templates());
        checked.map_err(|error| error.context(format!("configuration {}", config.path.display())))?;
        Ok(config)
    }

    /// What templates are made of: a clone grows from the file's size to that of a sandbox's annotations.
    pub fn templates_hypervisor(&self) -> HypervisorConfig {
        let (default_vcpus, default_memory) = self.sizes;
        HypervisorConfig { default_vcpus, default_memory, ..self.hypervisor.clone() }
    }

    /// Refuses what is asked for and cannot be.
    fn check_templates(&self) -> Result<()> {
        let factory = &self.factory;
        if !factory.template_path.is_absolute() {
            return Err(Error::invalid(format!(
                "factory.template_path: {} is no absolute path",
                factory.template_path.display()
            )));
        }
        match (factory.enable_template, self.template_obstacle()) {
            (TemplateUse::Always, Some(why)) => {
                Err(Error::invalid(format!("factory.enable_template: {why}")))
            }
            _ => Ok(()),
        }
    }

    /// Why VMs of this configuration cannot be clones of a template, if they cannot.
    pub fn template_obstacle(&self) -> Option<&'static str> {
        let hypervisor = &self.hypervisor;
        if !hypervisor.image.as_os_str().is_empty() {
            Some("a template needs an initrd: with an image, the guest's first program is not the agent")
        } else if self.factory.template_memory == TemplateMemory::Private
            && (hypervisor.shared_fs == SharedFs::VirtioFs
                || hypervisor.agent_channel == AgentChannel::VhostUserVsock)
        {
            Some(
                "template_memory = \"private\" excludes vhost-user devices, which would see the template's pages: set \
                 shared_fs = \"virtio-9p\", and no vhost-user-vsock",
            )
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../configuration.toml");

    #[test]
    fn the_shipped_file_holds_the_built_in_defaults_and_no_other_key() {
        let file::Merged { tables, warnings } = file::read_merged(Path::new(SHIPPED)).unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        let initrd = "/usr/share/kata-containers/kata-containers-initrd.img".into();
        assert_eq!(tables.hypervisor.qemu, HypervisorConfig { initrd, ..Default::default() });
        assert_eq!(tables.agent.kata, AgentConfig::default());
        assert_eq!(tables.runtime, RuntimeConfig::default());
        assert_eq!(FactoryConfig::of(tables.factory, Default::default()), FactoryConfig::default());
    }

    #[test]
    fn what_no_vm_can_start_with_is_refused_by_key() {
        let file = |name: &str| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name);
        let good = || HypervisorConfig {
            path: file("Cargo.toml"),
            kernel: file("Cargo.toml"),
            initrd: file("Cargo.toml"),
            virtio_fs_daemon: file("Cargo.toml"),
            ..Default::default()
        };
        good().check().unwrap();
        for (key, config) in [
            ("path", HypervisorConfig { path: "/nonexistent".into(), ..good() }),
            ("kernel", HypervisorConfig { kernel: "/nonexistent".into(), ..good() }),
            ("initrd", HypervisorConfig { initrd: PathBuf::new(), ..good() }),
            ("initrd", HypervisorConfig { initrd: "/nonexistent".into(), ..good() }),
            ("initrd", HypervisorConfig { image: file("Cargo.toml"), ..good() }),
            ("virtio_fs_daemon", HypervisorConfig { virtio_fs_daemon: "/nonexistent".into(), ..good() }),
            ("default_memory", HypervisorConfig { default_memory: 1, ..good() }),
            ("default_vcpus", HypervisorConfig { default_vcpus: f64::NAN, ..good() }),
            ("virtio_fs_queue_size", HypervisorConfig { virtio_fs_queue_size: 1000, ..good() }),
            ("msize_9p", HypervisorConfig { msize_9p: 1, ..good() }),
            ("enable_annotations", HypervisorConfig { enable_annotations: vec!["(".into()], ..good() }),
            (
                "valid_hypervisor_paths",
                HypervisorConfig { valid_hypervisor_paths: vec!["[".into()], ..good() },
            ),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.starts_with(&format!("hypervisor.qemu.{key}: ")), "{error}");
        }
    }
}

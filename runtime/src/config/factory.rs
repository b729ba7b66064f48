//! `[factory]`: where VMs come from. Kata's table; its Rust runtime has it below `[hypervisor.qemu]`, and both are read.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};

use crate::paths::in_run_dir;

/// One table as it stands in a file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct FactoryTable {
    enable_template: Option<TemplateUse>,
    template_path: Option<PathBuf>,
    template_memory: Option<TemplateMemory>,
    template_max_age: Option<u64>,
    vm_cache_number: Option<u32>,
    vm_cache_endpoint: Option<PathBuf>,
}

/// Where VMs come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FactoryConfig {
    pub enable_template: TemplateUse,
    /// Root's own directory, with one directory per template.
    pub template_path: PathBuf,
    /// Ours: how a clone gets the template's memory.
    pub template_memory: TemplateMemory,
    /// Ours: older templates are made anew. The kernel's own address layout is one for all clones of a template.
    pub template_max_age: Duration,
    /// VMs that `kata-runtime factory serve` keeps ready; 0: no start asks for one.
    pub vm_cache_number: u32,
    /// Where they are asked for: each listens on this path followed by its pid.
    pub vm_cache_endpoint: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TemplateUse {
    /// Wherever it can be; a VM that cannot be cloned is booted.
    Auto,
    /// As `Auto`, but a configuration that excludes it is an error.
    Always,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TemplateMemory {
    /// Every clone has its own copy of the pages that the template uses.
    Copied,
    /// Clones share the template's pages until they write to them.
    Private,
}

impl Default for FactoryConfig {
    fn default() -> Self {
        Self {
            enable_template: TemplateUse::Auto,
            template_path: "/run/vc/vm/template".into(),
            template_memory: TemplateMemory::Copied,
            template_max_age: Duration::from_secs(24 * 60 * 60),
            vm_cache_number: 0,
            vm_cache_endpoint: "/var/run/kata-containers/cache.sock".into(),
        }
    }
}

impl FactoryConfig {
    /// The settings of `table`, then of `fallback`, then the defaults.
    pub(super) fn of(table: FactoryTable, fallback: FactoryTable) -> Self {
        let default = Self::default();
        let age = table.template_max_age.or(fallback.template_max_age).map(Duration::from_secs);
        Self {
            enable_template: table
                .enable_template
                .or(fallback.enable_template)
                .unwrap_or(default.enable_template),
            template_path: in_run_dir(
                table.template_path.or(fallback.template_path).unwrap_or(default.template_path),
            ),
            template_memory: table
                .template_memory
                .or(fallback.template_memory)
                .unwrap_or(default.template_memory),
            template_max_age: age.unwrap_or(default.template_max_age),
            vm_cache_number: table
                .vm_cache_number
                .or(fallback.vm_cache_number)
                .unwrap_or(default.vm_cache_number),
            vm_cache_endpoint: table
                .vm_cache_endpoint
                .or(fallback.vm_cache_endpoint)
                .unwrap_or(default.vm_cache_endpoint),
        }
    }
}

impl<'de> Deserialize<'de> for TemplateUse {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// Kata's boolean, or our word.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Value {
            Switch(bool),
            Word(String),
        }
        match Value::deserialize(deserializer)? {
            Value::Switch(true) => Ok(Self::Always),
            Value::Switch(false) => Ok(Self::Never),
            Value::Word(word) if word == "auto" => Ok(Self::Auto),
            Value::Word(word) => {
                Err(D::Error::custom(format!("`{word}` is neither \"auto\" nor true or false")))
            }
        }
    }
}

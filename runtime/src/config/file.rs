//! From text to typed tables: every fault is reported with file and line.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml::{Spanned, de::DeTable, de::DeValue};

use super::{AgentConfig, HypervisorConfig, RuntimeConfig, factory::FactoryTable, unserved};
use crate::error::{Context, Error, Result};

/// The tables of a file, as served.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Tables {
    pub hypervisor: Hypervisors,
    pub agent: Agents,
    pub runtime: RuntimeConfig,
    pub factory: FactoryTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Hypervisors {
    pub qemu: HypervisorConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Agents {
    pub kata: AgentConfig,
}

pub(super) struct Merged {
    pub tables: Tables,
    pub warnings: Vec<String>,
}

/// Reads the main file and its drop-ins; tables merge key by key, scalars and arrays are replaced.
pub(super) fn read_merged(main: &Path) -> Result<Merged> {
    let mut merged = toml::Table::new();
    let mut warnings = Vec::new();
    for path in std::iter::once(main.to_path_buf()).chain(drop_ins(main)?) {
        let text = fs::read_to_string(&path)
            .map_err(|error| Error::invalid(format!("read {}: {error}", path.display())))?;
        warnings.extend(check(&path, &text)?);
        let table = text.parse().map_err(|error| fault(&path, &text, &error))?;
        merge(&mut merged, table);
    }
    // Each file was good by itself, so what can fail here is only a value that one file gives as a table.
    let tables = merged.try_into().map_err(|error| {
        Error::invalid(format!("{} with its drop-ins: {}", main.display(), error.message()))
    })?;
    Ok(Merged { tables, warnings })
}

fn drop_ins(main: &Path) -> Result<Vec<PathBuf>> {
    let dir = main.with_file_name("config.d");
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<Vec<_>>>()
        .with_context(|| format!("read {}", dir.display()))?;
    if let Some(path) = paths.iter().find(|path| !path.is_file()) {
        return Err(Error::invalid(format!("{}: drop-ins must be files; move it away", path.display())));
    }
    paths.sort();
    Ok(paths)
}

/// Checks one file by itself, while line numbers are known. Returns the warnings.
fn check(path: &Path, text: &str) -> Result<Vec<String>> {
    let mut unknown = Vec::new();
    let deserializer = toml::Deserializer::parse(text).map_err(|error| fault(path, text, &error))?;
    let _: Tables = serde_ignored::deserialize(deserializer, |key| unknown.push(key.to_string()))
        .map_err(|error: toml::de::Error| fault(path, text, &error))?;
    let tree = DeTable::parse(text).map_err(|error| fault(path, text, &error))?;
    let leaves = unknown.iter().filter_map(|key| find(tree.get_ref(), key)).flat_map(|found| found.leaves());
    let mut warnings = Vec::new();
    for Found { key, start, value } in leaves {
        let line = line_of(text, start);
        match unserved::judge(&key, value) {
            unserved::Verdict::Harmless => {}
            unserved::Verdict::Unknown => {
                warnings.push(format!("{}:{line}: unknown key {key}, ignored", path.display()));
            }
            unserved::Verdict::Refused(why) => {
                return Err(Error::invalid(format!("{}:{line}: {key}: {why}", path.display())));
            }
        }
    }
    Ok(warnings)
}

/// A key as it stands in the file.
struct Found<'t> {
    /// Dotted, from the root.
    key: String,
    start: usize,
    value: &'t DeValue<'t>,
}

impl<'t> Found<'t> {
    /// The keys of a table one by one, or the key itself.
    fn leaves(self) -> Vec<Self> {
        match self.value {
            DeValue::Table(table) if !unserved::is_foreign(&self.key) => table
                .iter()
                .flat_map(|(name, value)| {
                    let key = format!("{}.{}", self.key, name.get_ref());
                    Found { key, start: name.span().start, value: value.get_ref() }.leaves()
                })
                .collect(),
            _ => vec![self],
        }
    }
}

/// Finds a dotted key.
fn find<'t>(root: &'t DeTable<'t>, key: &str) -> Option<Found<'t>> {
    let mut found: Option<(usize, &'t DeValue<'t>)> = None;
    for part in key.split('.') {
        let table = match found {
            None => root,
            Some((_, DeValue::Table(table))) => table,
            Some(_) => return None,
        };
        let (name, value): (_, &Spanned<DeValue<'t>>) =
            table.iter().find(|(name, _)| name.get_ref() == part)?;
        found = Some((name.span().start, value.get_ref()));
    }
    found.map(|(start, value)| Found { key: key.into(), start, value })
}

fn line_of(text: &str, offset: usize) -> usize {
    text[..offset.min(text.len())].matches('\n').count() + 1
}

fn fault(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let message = error.message();
    let Some(span) = error.span() else {
        return Error::invalid(format!("{}: {message}", path.display()));
    };
    let line = line_of(text, span.start);
    let words = text.lines().nth(line - 1).unwrap_or_default().trim();
    Error::invalid(format!("{}:{line}: {message}, in the line `{words}`", path.display()))
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<Merged> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("config.d")).unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        read_merged(&dir.path().join("configuration.toml"))
    }

    #[test]
    fn drop_ins_replace_scalars_and_arrays_in_the_order_of_their_names() {
        let merged = read(&[
            (
                "configuration.toml",
                "[hypervisor.qemu]\ndefault_memory = 512\nvirtio_fs_extra_args = [\"a\", \"b\"]",
            ),
            ("config.d/20-b.toml", "[hypervisor.qemu]\ndefault_vcpus = 3"),
            ("config.d/10-a.toml", "[hypervisor.qemu]\ndefault_vcpus = 2\nvirtio_fs_extra_args = [\"c\"]"),
        ])
        .unwrap();
        let qemu = merged.tables.hypervisor.qemu;
        assert_eq!((qemu.default_memory, qemu.default_vcpus), (512, 3.0));
        assert_eq!(qemu.virtio_fs_extra_args, ["c"]);
    }

    #[test]
    fn faults_name_file_line_and_key() {
        let typo = read(&[("configuration.toml", "[hypervisor.qemu]\n\ndefault_vcpu = 2")]).unwrap();
        assert_eq!(typo.warnings.len(), 1);
        assert!(
            typo.warnings[0]
                .ends_with("configuration.toml:3: unknown key hypervisor.qemu.default_vcpu, ignored")
        );

        for (text, words) in [
            (
                "[hypervisor.qemu]\ndefault_memory = \"lots\"",
                ":2: invalid type: string \"lots\", expected u64, in the line `default_memory = \"lots\"`",
            ),
            ("[hypervisor.qemu]\nshared_fs = \"nfs\"", ":2: unknown variant `nfs`"),
            ("[hypervisor.qemu]\ndefault_memory = -1", ":2: "),
            ("[hypervisor.qemu\n", ":1: "),
            ("[hypervisor.qemu]\nenable_hugepages = true", ":2: hypervisor.qemu.enable_hugepages: "),
            ("[factory]\nenable_template = \"maybe\"", ":2: "),
            ("[factory]\nvm_cache_number = -3", ":2: "),
        ] {
            let error = read(&[("configuration.toml", text)]).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("configuration.toml") && error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_fault_in_a_drop_in_names_the_drop_in() {
        let files = [("configuration.toml", ""), ("config.d/50-x.toml", "[runtime]\nenable_debug = 3")];
        assert!(read(&files).map(|_| ()).unwrap_err().to_string().contains("config.d/50-x.toml:2"));
    }
}

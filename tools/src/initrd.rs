//! The guest's initrd: the agent as `/init`, the directories it mounts over, and the kernel modules it loads.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{compressed, cpio::Archive, on_demand};

const DIRECTORIES: [&str; 13] =
    ["bin", "dev", "etc", "lib", "lib/modules", "n", "proc", "root", "run", "sbin", "sys", "tmp", "usr"];
/// What the agent needs of a modular kernel, the channel to the host first. Each costs boot time.
const MODULES: [&str; 10] = [
    "virtio_pci",
    "virtio_console",
    "virtio_rng",
    "virtio_net",
    "virtio_blk",
    "virtiofs",
    "9pnet_virtio",
    "9p",
    "overlay",
    "vmw_vsock_virtio_transport",
];
/// The agent loads what this file lists, in its order.
const LIST: &str = "etc/kata-modules";
/// And finds in this one what is asked for later.
const INDEX: &str = "etc/kata-modules-on-demand";

/// Writes the initrd. `modules` is the kernel's `lib/modules/VERSION`.
pub fn make(agent: &Path, modules: Option<&Path>, out: &Path) -> Result<()> {
    let mut archive = Archive::default();
    for directory in DIRECTORIES {
        let mode = if directory == "tmp" { 0o1777 } else { 0o755 };
        archive.directory(directory, mode);
    }
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.character_device("dev/null", 0o666, 1, 3);
    let program = fs::read(agent).with_context(|| format!("read {}", agent.display()))?;
    archive.file("init", 0o755, &program);
    archive.link("sbin/modprobe", "/init");
    let (mut list, mut index) = (String::new(), String::new());
    if let Some(modules) = modules {
        let modules = Modules::find(modules)?;
        let at_start = modules.in_order(&MODULES)?;
        for (name, data) in &at_start {
            let path = format!("lib/modules/{name}.ko");
            archive.file(&path, 0o644, data);
            list.push_str(&format!("/{path}\n"));
        }
        let is_later = |(name, _): &(String, _)| at_start.iter().all(|(other, _)| other != name);
        for (name, data) in modules.in_order(&on_demand::MODULES)?.into_iter().filter(is_later) {
            archive.file(&format!("lib/modules/{name}.ko.gz"), 0o644, &on_demand::pack(&data)?);
            index.push_str(&on_demand::line(&name, &dependencies(&data), &data));
        }
    }
    archive.file(LIST, 0o644, list.as_bytes());
    archive.file(INDEX, 0o644, index.as_bytes());
    fs::write(out, archive.finish()).with_context(|| format!("write {}", out.display()))
}

/// The modules of a kernel, by name with underscores.
struct Modules {
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

impl Modules {
    fn find(root: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        collect(&root.join("kernel"), &mut files)?;
        ensure!(!files.is_empty(), "{} holds no kernel modules", root.display());
        let built_in = fs::read_to_string(root.join("modules.builtin")).unwrap_or_default();
        let built_in = built_in.lines().filter_map(|line| name_of(Path::new(line))).collect();
        Ok(Self { files, built_in })
    }

    /// The wanted modules and what they depend on, dependencies first. A name that the kernel has neither as a module
    /// nor built in is left out: configurations differ, and the agent does without.
    fn in_order(&self, wanted: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut ordered = Vec::new();
        for name in wanted {
            self.add(name, &mut ordered)?;
        }
        Ok(ordered)
    }

    fn add(&self, name: &str, ordered: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
        if self.built_in.contains(name) || ordered.iter().any(|(known, _)| known == name) {
            return Ok(());
        }
        let Some(path) = self.files.get(name) else {
            eprintln!("==> this kernel has no module {name}; the guest does without");
            return Ok(());
        };
        let packed = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let data = compressed::unpack(&packed).with_context(|| path.display().to_string())?;
        for dependency in dependencies(&data) {
            self.add(&dependency, ordered)?;
        }
        ordered.push((name.to_owned(), data));
        Ok(())
    }
}

/// The modules that a module names in its information section.
fn dependencies(module: &[u8]) -> Vec<String> {
    let names = on_demand::values(module, "depends").into_iter().next().unwrap_or_default();
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

fn collect(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = name_of(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// `a/virtio-rng.ko.xz` -> `virtio_rng`.
fn name_of(path: &Path) -> Option<String> {
    let (name, rest) = path.file_name()?.to_str()?.split_once(".ko")?;
    matches!(rest, "" | ".xz" | ".zst" | ".gz").then(|| name.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first_and_built_in_ones_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("kernel/drivers");
        fs::create_dir_all(&kernel).unwrap();
        let module = |name: &str, depends: &str| {
            fs::write(kernel.join(name), format!("\0license=GPL\0depends={depends}\0more")).unwrap();
        };
        module("virtio_pci.ko", "virtio,virtio-ring,core");
        module("virtio.ko", "");
        module("virtio-ring.ko", "virtio");
        module("virtio_console.ko", "virtio_ring");
        fs::write(dir.path().join("modules.builtin"), "kernel/lib/core.ko\n").unwrap();
        let modules = Modules::find(dir.path()).unwrap();
        let names: Vec<_> = modules
            .in_order(&["virtio_pci", "virtio_console", "gone"])
            .unwrap()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["virtio", "virtio_ring", "virtio_pci", "virtio_console"]);
    }
}

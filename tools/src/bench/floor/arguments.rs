//! From the command line of one of our QEMUs to that of one driven by hand. Pure.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

/// Sockets in a VM's folder.
pub const AGENT: &str = "agent";
pub const QMP: &str = "qmp";

/// Options that are taken as they are. The rest belongs to what we build around QEMU.
const KEPT: [&str; 6] = ["-machine", "-cpu", "-smp", "-m", "-kernel", "-initrd"];
/// The agent answers on its serial port, wherever ours is served.
const ADDRESS: &str = "agent.server_addr=serial://agent.channel.0";

/// What is the same as in ours.
#[derive(Debug, PartialEq)]
pub struct Given {
    pub program: String,
    kept: Vec<(String, String)>,
    command_line: String,
    memory_id: String,
    pub memory_bytes: u64,
}

/// Where a guest's memory comes from.
#[derive(Debug)]
pub enum Memory {
    Fresh,
    Template { file: PathBuf },
    Private { file: PathBuf },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Start {
    Boot,
    Incoming,
}

impl Given {
    pub fn read(line: &[String]) -> Result<Self> {
        let program = line.first().context("an empty command line")?.clone();
        let option = |name: &str| line.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone());
        let kept = KEPT.iter().filter_map(|name| Some(((*name).to_owned(), option(name)?))).collect();
        let machine = option("-machine").unwrap_or_default();
        let memory_id = machine.split(',').find_map(|word| word.strip_prefix("memory-backend="));
        let memory = option("-m").context("QEMU's command line has no -m")?;
        Ok(Self {
            program,
            kept,
            command_line: option("-append").context("QEMU's command line has no -append")?,
            memory_id: memory_id.context("QEMU's -machine names no memory-backend")?.to_owned(),
            memory_bytes: bytes(&memory).with_context(|| format!("-m {memory}"))?,
        })
    }
}

pub fn line(given: &Given, memory: &Memory, start: Start, dir: &Path) -> Result<Vec<String>> {
    let mut line: Vec<String> = Vec::new();
    let mut add = |option: &str, value: String| line.extend([option.to_owned(), value]);
    for (option, value) in &given.kept {
        add(option, value.clone());
    }
    add("-append", format!("{} {ADDRESS}", given.command_line));
    add("-object", backend(given, memory)?);
    for device in ["virtio-serial-pci,id=serial0", "virtio-rng-pci"] {
        add("-device", device.into());
    }
    let socket = |name: &str| -> Result<String> {
        let path = dir.join(name);
        let path = path.to_str().context("QEMU takes UTF-8 paths only")?.replace(',', ",,");
        Ok(format!("socket,id={name},path={path},server=on,wait=off"))
    };
    add("-chardev", socket(AGENT)?);
    add("-device", format!("virtserialport,bus=serial0.0,chardev={AGENT},name=agent.channel.0"));
    add("-chardev", socket(QMP)?);
    add("-mon", format!("chardev={QMP},mode=control"));
    // The guest writes to the same console, which nobody reads.
    add("-serial", "null".into());
    add("-vga", "none".into());
    if start == Start::Incoming {
        add("-incoming", "defer".into());
    }
    line.extend(["-no-user-config", "-nodefaults", "-nographic", "-no-reboot"].map(str::to_owned));
    Ok(line)
}

fn backend(given: &Given, memory: &Memory) -> Result<String> {
    let mut object = json!({ "id": given.memory_id, "size": given.memory_bytes });
    let (kind, file, share) = match memory {
        Memory::Fresh => ("memory-backend-ram", None, false),
        Memory::Template { file } => ("memory-backend-file", Some(file), true),
        Memory::Private { file } => ("memory-backend-file", Some(file), false),
    };
    object["qom-type"] = json!(kind);
    object["share"] = json!(share);
    if let Some(file) = file {
        object["mem-path"] = json!(file.to_str().context("QEMU takes UTF-8 paths only")?);
    }
    Ok(object.to_string())
}

/// `2048M`, `2G,slots=10,maxmem=8G`; a bare number is MiB.
fn bytes(memory: &str) -> Option<u64> {
    let size = memory.split(',').next()?;
    let size = size.strip_prefix("size=").unwrap_or(size);
    let (number, unit) = match size.char_indices().last()? {
        (at, 'G' | 'g') => (&size[..at], 1 << 30),
        (at, 'M' | 'm') => (&size[..at], 1 << 20),
        (at, 'K' | 'k') => (&size[..at], 1 << 10),
        _ => (size, 1 << 20),
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given() -> Given {
        let ours = "qemu -name s -machine q35,accel=tcg,memory-backend=mem0 -cpu max -smp 1 -m 512M,slots=2 \
                    -object {} -kernel /k -initrd /i -device x -append";
        let mut ours: Vec<String> = ours.split_ascii_whitespace().map(str::to_owned).collect();
        ours.push("quiet panic=-1".into());
        Given::read(&ours).unwrap()
    }

    #[test]
    fn machine_and_kernel_are_ours_and_the_rest_is_not() {
        let line = line(&given(), &Memory::Fresh, Start::Boot, Path::new("/w/1,2")).unwrap().join(" ");
        for words in [
            "-machine q35,accel=tcg,memory-backend=mem0 -cpu max -smp 1 -m 512M,slots=2 -kernel /k -initrd /i",
            "-append quiet panic=-1 agent.server_addr=serial://agent.channel.0",
            r#"-object {"id":"mem0","size":536870912,"qom-type":"memory-backend-ram","share":false}"#,
            "path=/w/1,,2/agent,server=on",
        ] {
            assert!(line.contains(words), "{words:?} is not in {line}");
        }
        assert!(
            !line.contains("-device x") && !line.contains("-name") && !line.contains("-incoming"),
            "{line}"
        );
    }

    #[test]
    fn a_clone_maps_the_template_privately() {
        let memory = Memory::Private { file: "/t/memory".into() };
        let line = line(&given(), &memory, Start::Incoming, Path::new("/w")).unwrap().join(" ");
        assert!(line.contains(r#""share":false,"mem-path":"/t/memory""#), "{line}");
        assert!(line.contains("-incoming defer"), "{line}");
    }

    #[test]
    fn sizes_are_understood() {
        for (text, size) in
            [("2048M", 2 << 30), ("2G,slots=10", 2 << 30), ("size=64m", 64 << 20), ("128", 128 << 20)]
        {
            assert_eq!(bytes(text), Some(size), "{text}");
        }
        assert_eq!(bytes("much"), None);
    }
}

//! One device as QEMU is told of it. The JSON object that stands behind `-device` is the one that `device_add` takes,
//! so a device is described once, whether it is there at boot or plugged later. Pure.

use std::{os::fd::RawFd, path::Path};

use runtime::{
    error::{Error, Result},
    vm::Device,
};
use serde_json::{Value, json};

use crate::arch;

/// The controller of virtio consoles and of the agent's port.
const SERIAL_BUS: &str = "serial0";

/// What a device needs on the host side, and the device itself.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Described {
    pub backend: Option<Backend>,
    pub device: Value,
}

/// A back end. QEMU takes JSON for some, and its older notation only for others.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Backend {
    Object(Value),
    Blockdev(Value),
    Chardev(String),
    Fsdev(String),
    /// The taps of a network card.
    Netdev {
        id: String,
        /// Numbers or names of the queues' descriptors.
        fds: Vec<String>,
        vhost: bool,
    },
}

impl Backend {
    /// The option of QEMU's command line and its argument.
    pub(crate) fn option(&self) -> (&'static str, String) {
        match self {
            Self::Object(object) => ("-object", object.to_string()),
            Self::Blockdev(node) => ("-blockdev", node.to_string()),
            Self::Chardev(text) => ("-chardev", text.clone()),
            Self::Fsdev(text) => ("-fsdev", text.clone()),
            Self::Netdev { id, fds, vhost } => {
                let vhost = if *vhost { ",vhost=on" } else { "" };
                ("-netdev", format!("tap,id={id},fds={}{vhost}", fds.join(":")))
            }
        }
    }
}

/// Describes the `index`-th device of the VM; `console` is the descriptor behind [`Device::Console`].
pub(crate) fn describe(index: usize, device: &Device, console: RawFd) -> Result<Described> {
    Ok(match device {
        Device::Rng { source } => Described {
            backend: Some(Backend::Object(json!({
                "qom-type": "rng-random",
                "id": format!("rng{index}"),
                "filename": utf8(source)?,
            }))),
            device: json!({
                "driver": "virtio-rng-pci",
                "id": format!("rng-device{index}"),
                "rng": format!("rng{index}"),
            }),
        },
        Device::Console => Described {
            backend: Some(Backend::Chardev(format!("socket,id=console{index},fd={console}"))),
            device: arch::console(
                &format!("console-device{index}"),
                &format!("console{index}"),
                &format!("{SERIAL_BUS}.0"),
            ),
        },
        Device::VirtioFs { tag, socket, queue_size } => Described {
            backend: Some(Backend::Chardev(format!("socket,id=fs{index},path={}", option_value(socket)?))),
            device: json!({
                "driver": "vhost-user-fs-pci",
                "id": format!("fs-device{index}"),
                "chardev": format!("fs{index}"),
                "tag": tag,
                "queue-size": queue_size,
            }),
        },
        // `none` is `passthrough` that goes on when an owner cannot be set: with QEMU being root both store what
        // the guest says, and on a file system without owners only the former can create a file. The shared tree
        // spans many file systems, whose inode numbers `remap` keeps apart.
        Device::NineP { tag, path } => Described {
            backend: Some(Backend::Fsdev(format!(
                "local,id=fs{index},path={},security_model=none,multidevs=remap",
                option_value(path)?
            ))),
            device: json!({
                "driver": "virtio-9p-pci",
                "id": format!("fs-device{index}"),
                "fsdev": format!("fs{index}"),
                "mount_tag": tag,
            }),
        },
    })
}

/// A network card. Its queues' descriptors are known by number on the command line, and by name later.
pub(crate) fn nic(number: usize, mac: [u8; 6], fds: Vec<String>, vhost: bool) -> Described {
    let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut device = json!({
        "driver": "virtio-net-pci",
        "id": nic_name(number),
        "netdev": netdev_name(number),
        "mac": mac.join(":"),
        // Behind a bridge of the older kind it would speak the older dialect as well.
        "disable-legacy": "on",
        // Nothing boots from it.
        "romfile": "",
    });
    if fds.len() > 1 {
        device["mq"] = true.into();
        // One for each direction of a queue pair, the control queue and the configuration.
        device["vectors"] = (2 * fds.len() + 2).into();
    }
    Described { backend: Some(Backend::Netdev { id: netdev_name(number), fds, vhost }), device }
}

pub(crate) fn nic_name(number: usize) -> String {
    format!("nic{number}")
}

pub(crate) fn netdev_name(number: usize) -> String {
    format!("net{number}")
}

/// A disk of the host's behind the set of descriptors of its number. Others may have the device open as well, as on a
/// host: who shares a disk sees to it.
pub(crate) fn disk(number: usize, read_only: bool) -> Described {
    Described {
        backend: Some(Backend::Blockdev(json!({
            "driver": "raw",
            "node-name": disk_node(number),
            "read-only": read_only,
            "discard": "unmap",
            "file": {
                "driver": "host_device",
                "filename": format!("/dev/fdset/{number}"),
                "read-only": read_only,
                "locking": "off",
                "discard": "unmap",
            },
        }))),
        device: json!({
            "driver": "virtio-blk-pci",
            "id": disk_name(number),
            "drive": disk_node(number),
            "share-rw": true,
            "disable-legacy": "on",
        }),
    }
}

pub(crate) fn disk_name(number: usize) -> String {
    format!("disk{number}")
}

pub(crate) fn disk_node(number: usize) -> String {
    format!("disk-node{number}")
}

/// The bridge whose slots are the VM's ports.
const BRIDGE: &str = "ports";
/// A place that the devices before it leave free.
const BRIDGE_SLOT: &str = "0x10";

/// The ports for devices that come later, all behind one bridge, which takes QEMU 1 ms: a PCIe port for each would take
/// it half a millisecond more for each at every start, and does not let a device go before the guest agrees. Where
/// plugging raises no event in the guest, which takes a general-purpose kernel 0.2 s, the guest is asked to look; so
/// nothing may have to be switched on first.
pub(crate) fn ports() -> Described {
    Described {
        backend: None,
        device: json!({ "driver": "pci-bridge", "id": BRIDGE, "addr": BRIDGE_SLOT, "chassis_nr": 1, "shpc": true }),
    }
}

/// Puts a device into the port `port`.
pub(crate) fn plug(device: &mut Value, port: usize) {
    device["bus"] = BRIDGE.into();
    // The bridge's own controller is in slot 0.
    device["addr"] = format!("{:#x}", port + 1).into();
}

/// Where the guest finds what is in the port `port`, in Kata's notation: the slots of the bridge and in the bridge.
pub(crate) fn guest_address(port: usize) -> String {
    format!("{}/{:02x}", BRIDGE_SLOT.trim_start_matches("0x"), port + 1)
}

/// A number that differs between clones; a guest's kernel that knows the device reseeds when it changes.
pub(crate) fn generation_id(driver: &str) -> Described {
    Described { backend: None, device: json!({ "driver": driver, "id": "generation", "guid": "auto" }) }
}

/// The controller itself.
pub(crate) fn serial_bus() -> Described {
    Described { backend: None, device: json!({ "driver": "virtio-serial-pci", "id": SERIAL_BUS }) }
}

/// A virtio-serial port called `name` in the guest; QEMU accepts connections on the inherited `listener`.
pub(crate) fn serial_port(name: &str, listener: RawFd) -> Described {
    Described {
        backend: Some(Backend::Chardev(format!("socket,id=port,fd={listener},server=on,wait=off"))),
        device: json!({
            "driver": "virtserialport",
            "id": "port-device",
            "bus": format!("{SERIAL_BUS}.0"),
            "chardev": "port",
            "name": name,
        }),
    }
}

/// The host kernel's vsock.
pub(crate) fn vhost_vsock(vhost: RawFd, cid: u32) -> Described {
    Described {
        backend: None,
        device: json!({
            "driver": "vhost-vsock-pci",
            "id": "agent-device",
            "vhostfd": vhost.to_string(),
            "guest-cid": cid,
        }),
    }
}

/// A vsock served by a vhost-user helper at the other end of `connection`.
pub(crate) fn vhost_user_vsock(connection: RawFd) -> Described {
    Described {
        backend: Some(Backend::Chardev(format!("socket,id=agent,fd={connection}"))),
        device: json!({ "driver": "vhost-user-vsock-pci", "id": "agent-device", "chardev": "agent" }),
    }
}

/// The guest's own root file system as a disk. Read-only, so that all VMs can use one image.
pub(crate) fn root_disk(image: &Path) -> Result<Described> {
    Ok(Described {
        backend: Some(Backend::Blockdev(json!({
            "driver": "raw",
            "node-name": "rootfs",
            "read-only": true,
            "file": { "driver": "file", "filename": utf8(image)?, "read-only": true },
        }))),
        device: json!({ "driver": "virtio-blk-pci", "id": "rootfs-device", "drive": "rootfs" }),
    })
}

/// A path inside of QEMU's comma-separated notation.
fn option_value(path: &Path) -> Result<String> {
    Ok(utf8(path)?.replace(',', ",,"))
}

pub(crate) fn utf8(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::invalid(format!("{}: QEMU takes UTF-8 paths only", path.display())))
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    use super::*;

    #[test]
    fn a_path_cannot_add_options_and_must_be_text() {
        let nine_p = |path: &Path| describe(1, &Device::NineP { tag: "t".into(), path: path.into() }, 0);
        let backend = nine_p(Path::new("/a,b\"c")).unwrap().backend.unwrap();
        assert!(backend.option().1.contains("path=/a,,b\"c,security_model"), "{backend:?}");
        let rng = describe(0, &Device::Rng { source: "/x\",\"id\":\"y".into() }, 0).unwrap();
        let Some(Backend::Object(object)) = rng.backend else { panic!() };
        assert_eq!(object["filename"], "/x\",\"id\":\"y");
        assert!(nine_p(Path::new(OsStr::from_bytes(b"/\xff"))).is_err());
    }
}

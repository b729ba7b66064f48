//! The guest kernel's command line. Pure.

use runtime::{
    error::{Error, Result},
    vm::{Boot, Device, GuestRootfs, Origin, VmSpec},
};

use crate::{accelerator::Accelerator, arch};

/// Where the kernel finds the image's first partition; the image is the first and only disk at boot.
const ROOT_DEVICE: &str = "/dev/vda1";

/// All words in the order in which the kernel reads them; later ones win, so the caller's come last.
pub(crate) fn command_line(spec: &VmSpec, accelerator: Accelerator, debug: bool) -> Result<String> {
    let Boot::Kernel { rootfs, parameters, .. } = &spec.boot;
    let mut words: Vec<String> = arch::KERNEL_PARAMETERS.iter().map(ToString::to_string).collect();
    if accelerator == Accelerator::Tcg {
        words.extend(arch::KERNEL_PARAMETERS_TCG.iter().map(ToString::to_string));
    }
    if spec.devices.contains(&Device::Console) {
        words.push(format!("console={}", arch::CONSOLE));
    }
    // A guest whose kernel has panicked restarts at once, which ends QEMU.
    words.push("panic=-1".into());
    words.push(format!("nr_cpus={}", spec.size.max_vcpus));
    if spec.origin != Origin::Boot {
        words.push(arch::QUIET_PORTS_KERNEL_PARAMETER.into());
    }
    if spec.size.max_vcpus > spec.size.vcpus {
        words.push(format!("maxcpus={}", spec.size.vcpus));
    }
    if spec.size.max_memory > spec.size.memory {
        words.push("memhp_default_state=online".into());
    }
    if !debug {
        words.push("quiet".into());
    }
    if let GuestRootfs::Image { fstype, .. } = rootfs {
        words.extend(image_words(fstype));
    }
    words.extend(parameters.iter().cloned());
    let line = words.join(" ");
    if line.len() > arch::COMMAND_LINE_LIMIT {
        return Err(Error::invalid(format!(
            "the guest's kernel command line has {} bytes, the kernel reads {}: shorten kernel_params",
            line.len(),
            arch::COMMAND_LINE_LIMIT
        )));
    }
    Ok(line)
}

/// What an image needs: where it is, and the one systemd target that starts the agent.
fn image_words(fstype: &str) -> Vec<String> {
    let flags = match fstype {
        "ext4" => "data=ordered,errors=remount-ro",
        _ => "ro",
    };
    vec![
        format!("root={ROOT_DEVICE}"),
        format!("rootflags={flags}"),
        "ro".into(),
        format!("rootfstype={fstype}"),
        "systemd.unit=kata-containers.target".into(),
        "systemd.mask=systemd-networkd.service".into(),
        "systemd.mask=systemd-networkd.socket".into(),
    ]
}

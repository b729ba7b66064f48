//! x86-64.

mod ticks;
mod trial;

use serde_json::{Value, json};

pub(crate) use ticks::clock_parameter;
pub(crate) use trial::kvm_trial;

/// Machine types that this backend can describe.
pub(crate) const MACHINE_TYPES: &[&str] = &["q35", "pc"];
/// Properties of the machine: no VMware port, which no guest of ours uses.
pub(crate) const MACHINE_PROPERTIES: &str = "vmport=off";
/// The kernel cuts a longer command line without a word.
pub(crate) const COMMAND_LINE_LIMIT: usize = 2047;

/// Kernel parameters that make a guest of this machine boot faster: nothing is calibrated that is known, no port is
/// probed behind which nothing is.
pub(crate) const KERNEL_PARAMETERS: &[&str] = &[
    "tsc=reliable",
    "no_timer_check",
    "rcupdate.rcu_expedited=1",
    "i8042.direct=1",
    "i8042.dumbkbd=1",
    "i8042.nopnp=1",
    "i8042.noaux=1",
    "noreplace-smp",
    "reboot=k",
    "cryptomgr.notests",
    // An interface nobody asked for, whose random address all clones would share.
    "dummy.numdummies=0",
    "net.ifnames=0",
    "random.trust_cpu=on",
];
/// Under emulation there is no speculation to guard against.
pub(crate) const KERNEL_PARAMETERS_TCG: &[&str] = &["mitigations=off"];

/// Emulated, an instruction that copies byte by byte takes as long as it says: without these promises that it is fast, the
/// guest copies eight or more bytes at a time, in half the time.
pub(crate) const CPU_FEATURES_TCG: &str = "erms=off,fsrm=off";
/// Plugging into a port must raise no event in the guest, see [`crate::device::ports`]: neither by ACPI nor, with the
/// kernel parameter, by the bridge itself.
pub(crate) const QUIET_PORTS: &[&str] = &["ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"];
pub(crate) const QUIET_PORTS_KERNEL_PARAMETER: &str = "pcie_ports=compat";
/// The device that tells a guest's kernel that it was cloned, so that it reseeds its random numbers by itself.
pub(crate) const GENERATION_ID: Option<&str> = Some("vmgenid");
/// The machine types whose ports can be made quiet.
pub(crate) const QUIET_MACHINE_TYPES: &[&str] = &["q35"];

/// The console is the first serial port: unlike a virtio console it needs no module, so that a kernel's panic before
/// its initrd is seen, too. It costs no time at boot.
pub(crate) const CONSOLE: &str = "ttyS0";
pub(crate) const CONSOLE_IS_VIRTIO: bool = false;

/// The device behind [`CONSOLE`].
pub(crate) fn console(id: &str, chardev: &str, _virtio_bus: &str) -> Value {
    json!({ "driver": "isa-serial", "id": id, "chardev": chardev })
}

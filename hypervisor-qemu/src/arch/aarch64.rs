//! 64-bit ARM: the `virt` machine.

use std::io;

use kvm_ioctls::Kvm;
use serde_json::{Value, json};

/// Machine types that this backend can describe.
pub(crate) const MACHINE_TYPES: &[&str] = &["virt"];
/// Properties of the machine: the best interrupt controller that the accelerator has.
pub(crate) const MACHINE_PROPERTIES: &str = "gic-version=max";
/// The kernel cuts a longer command line without a word.
pub(crate) const COMMAND_LINE_LIMIT: usize = 2047;

/// Kernel parameters of every guest.
pub(crate) const KERNEL_PARAMETERS: &[&str] = &[
    "iommu.passthrough=0",
    "rcupdate.rcu_expedited=1",
    "cryptomgr.notests",
    // An interface nobody asked for, whose random address all clones would share.
    "dummy.numdummies=0",
    "net.ifnames=0",
    "random.trust_cpu=on",
];
/// Under emulation there is no speculation to guard against.
pub(crate) const KERNEL_PARAMETERS_TCG: &[&str] = &["mitigations=off"];
/// None is promised that emulation breaks.
pub(crate) const CPU_FEATURES_TCG: &str = "";

/// Plugging into a port must raise no event in the guest, see [`crate::device::ports`]: ACPI knows nothing of it here.
pub(crate) const QUIET_PORTS: &[&str] = &[];
pub(crate) const QUIET_PORTS_KERNEL_PARAMETER: &str = "pcie_ports=compat";
/// The device that tells a guest's kernel that it was cloned: QEMU has none for this machine.
pub(crate) const GENERATION_ID: Option<&str> = None;
/// The machine types whose ports can be made quiet.
pub(crate) const QUIET_MACHINE_TYPES: &[&str] = MACHINE_TYPES;

/// The console is a virtio one, since the machine's serial port is no device of its own that could be described.
pub(crate) const CONSOLE: &str = "hvc0";
pub(crate) const CONSOLE_IS_VIRTIO: bool = true;

/// The device behind [`CONSOLE`].
pub(crate) fn console(id: &str, chardev: &str, virtio_bus: &str) -> Value {
    json!({ "driver": "virtconsole", "id": id, "bus": virtio_bus, "chardev": chardev })
}

/// The processor says itself how fast its clock runs.
pub(crate) fn clock_parameter() -> Option<String> {
    None
}

/// A KVM without hardware is known on x86 only: here one that makes a vCPU is taken to run it.
pub(crate) fn kvm_trial(_iterations: u32, _give_up: impl Fn() -> bool) -> io::Result<()> {
    let os_error = |error: kvm_ioctls::Error| io::Error::from_raw_os_error(error.errno());
    let kvm = Kvm::new().map_err(os_error)?;
    let vm = kvm.create_vm().map_err(os_error)?;
    vm.create_vcpu(0).map(drop).map_err(os_error)
}

//! hypervisor-qemu

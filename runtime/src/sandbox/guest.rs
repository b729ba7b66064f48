//! What the guest is told of its sandbox.

use protocols::{
    agent::{CreateSandboxRequest, KernelModule, Storage as GuestStorage},
    guest,
};

use super::{Identity, Sandbox, lock};

impl Sandbox {
    pub(super) fn guest_sandbox(&self) -> CreateSandboxRequest {
        let Identity { id, hostname, shm_bytes, .. } = lock(&self.identity).clone();
        let shm = GuestStorage {
            driver: guest::DRIVER_EPHEMERAL.into(),
            source: "shm".into(),
            fstype: "tmpfs".into(),
            options: ["noexec", "nosuid", "nodev", "mode=1777"]
                .map(str::to_owned)
                .into_iter()
                .chain([format!("size={shm_bytes}")])
                .collect(),
            mount_point: guest::SHM_DIR.into(),
            ..Default::default()
        };
        CreateSandboxRequest {
            hostname,
            sandbox_id: id.to_string(),
            storages: vec![self.share.guest_mount(), shm],
            kernel_modules: self
                .setup
                .config
                .agent
                .kernel_modules
                .iter()
                .map(|line| kernel_module(line))
                .collect(),
            ..Default::default()
        }
    }
}

/// A module and its parameters, from one line of the configuration.
fn kernel_module(line: &str) -> KernelModule {
    let mut words = line.split_whitespace().map(str::to_owned);
    KernelModule { name: words.next().unwrap_or_default(), parameters: words.collect(), ..Default::default() }
}

//! `env`: all settings and versions, for people and their reports. Section and key names are Kata's.

use clap::Args;
use runtime::{
    config::{Config, SharedFs},
    error::{Context, Error, Result},
    features,
};
use serde_json::{Value, json};

use super::{
    global::Global,
    host::{self, Distribution},
};
use crate::server::kvm::Verdict;

/// Of this output's form: the one of Kata's Go runtime whose sections these are.
const FORM: &str = "1.0.27";

#[derive(Debug, Args)]
pub struct Env {
    /// As JSON instead of TOML
    #[arg(long)]
    json: bool,
}

impl Env {
    pub fn run(self, global: &Global) -> Result<String> {
        let all = describe(&Config::find(global.config.as_deref())?)?;
        match self.json {
            true => Ok(format!("{all:#}\n")),
            false => toml::to_string(&all)
                .map_err(|error| Error::internal(format!("encode the settings: {error}"))),
        }
    }
}

fn describe(config: &Config) -> Result<Value> {
    let program = std::env::current_exe().context("find this program")?;
    let hypervisor = &config.hypervisor;
    let shared_fs = match hypervisor.shared_fs {
        SharedFs::VirtioFs => "virtio-fs",
        SharedFs::Virtio9p => "virtio-9p",
    };
    let Distribution { name, version } = Distribution::of_host();
    let (vendor, model) = host::processor();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(json!({
        "Kernel": {"Path": hypervisor.kernel, "Parameters": hypervisor.kernel_params},
        "Meta": {"Version": FORM},
        "Image": {"Path": hypervisor.image},
        "Initrd": {"Path": hypervisor.initrd},
        "Hypervisor": {
            "MachineType": hypervisor.machine_type,
            "Version": host::hypervisor_version(hypervisor)?,
            "Path": hypervisor.path,
            "BlockDeviceDriver": "virtio-blk",
            "EntropySource": hypervisor.entropy_source,
            "SharedFS": shared_fs,
            "VirtioFSDaemon": hypervisor.virtio_fs_daemon,
            "SocketPath": "",
            "Msize9p": hypervisor.msize_9p,
            "MemorySlots": hypervisor.memory_slots,
            "HotPlugVFIO": "no-port",
            "ColdPlugVFIO": "no-port",
            "PCIeRootPort": 0,
            "PCIeSwitchPort": 0,
            "Debug": hypervisor.enable_debug,
            "SecurityInfo": {
                "Rootless": false,
                "DisableSeccomp": hypervisor.seccompsandbox.is_empty(),
                "GuestHookPath": "",
                "EnableAnnotations": hypervisor.enable_annotations,
                "ConfidentialGuest": false,
            },
        },
        "Runtime": {
            "Path": program,
            "GuestSeLinuxLabel": "",
            "Experimental": [],
            "Debug": config.runtime.enable_debug,
            "Trace": false,
            "DisableGuestSeccomp": config.runtime.disable_guest_seccomp,
            "DisableNewNetNs": config.runtime.disable_new_netns,
            "SandboxCgroupOnly": config.runtime.sandbox_cgroup_only,
            "Config": {"Path": config.path},
            "Version": {"OCI": features::SPEC, "Version": own_version()},
        },
        "Host": {
            "AvailableGuestProtections": ["noprotection"],
            "Kernel": host::kernel(),
            "Architecture": std::env::consts::ARCH,
            "VMContainerCapable": host::kvm()? == Verdict::Usable,
            "SupportVSocks": host::has_vsock(),
            "Distro": {"Name": name, "Version": version},
            "CPU": {"Vendor": vendor, "Model": model, "CPUs": cpus},
            "Memory": {
                "Total": host::memory("MemTotal"),
                "Free": host::memory("MemFree"),
                "Available": host::memory("MemAvailable"),
            },
        },
        "Agent": {"Debug": config.agent.enable_debug, "Trace": false},
    }))
}

fn own_version() -> Value {
    let version = env!("CARGO_PKG_VERSION");
    let number =
        |at: usize| version.split('.').nth(at).and_then(|part| part.parse::<u32>().ok()).unwrap_or(0);
    json!({
        "Semver": version,
        "Commit": option_env!("KATA_COMMIT").unwrap_or("unknown"),
        "Major": number(0),
        "Minor": number(1),
        "Patch": number(2),
    })
}

//! Keys that upstream knows and this runtime does not serve.
//!
//! Files brought from elsewhere carry them, mostly at values that change nothing. Those pass; any other value would
//! be a promise we do not keep, so it is refused by name.

use toml::de::DeValue;

/// What to do about a key that no table has.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Harmless,
    Refused(String),
    Unknown,
}

/// Which values of a key change nothing.
#[derive(Debug, Clone, Copy)]
enum Harmless {
    /// `false`, 0, `""` or an empty list.
    Off,
    /// These texts, besides the above.
    Texts(&'static [&'static str]),
    /// Every value: the key tunes something that cannot be switched on here, or has no effect upstream either.
    Any,
}
use Harmless::{Any, Off, Texts};

const HYPERVISOR: &[(&str, Harmless)] = &[
    ("block_device_aio", Any),
    ("block_device_cache_direct", Off),
    ("block_device_cache_noflush", Off),
    ("block_device_cache_set", Off),
    ("block_device_driver", Any),
    ("block_device_logical_sector_size", Off),
    ("block_device_physical_sector_size", Off),
    ("boot_from_template", Off),
    ("boot_to_be_template", Off),
    ("cold_plug_vfio", Texts(&["no-port"])),
    ("confidential_guest", Off),
    ("ctlpath", Off),
    ("default_bridges", Any),
    ("default_gpu_model", Off),
    ("default_gpus", Off),
    ("device_state_path", Off),
    ("disable_block_device_use", Any),
    ("disable_guest_selinux", Any),
    ("disable_image_nvdimm", Any),
    ("disable_nesting_checks", Any),
    ("disable_seccomp", Any),
    ("disable_selinux", Any),
    ("disk_rate_limiter_bw_max_rate", Off),
    ("disk_rate_limiter_bw_one_time_burst", Off),
    ("disk_rate_limiter_ops_max_rate", Off),
    ("disk_rate_limiter_ops_one_time_burst", Off),
    ("enable_guest_swap", Off),
    ("enable_hugepages", Off),
    ("enable_iommu", Off),
    ("enable_iommu_platform", Off),
    ("enable_iothreads", Off),
    ("enable_numa", Off),
    ("enable_vhost_user_store", Off),
    ("enable_virtio_mem", Off),
    ("extra_monitor_socket", Off),
    ("dbg_monitor_socket", Off),
    ("file_mem_backend", Off),
    ("firmware_volume", Off),
    ("guest_extension_images", Off),
    ("guest_hook_path", Off),
    ("guest_memory_dump_paging", Off),
    ("guest_memory_dump_path", Off),
    ("guest_swap_create_threshold_secs", Any),
    ("guest_swap_path", Any),
    ("guest_swap_size_percent", Any),
    ("hot_plug_vfio", Texts(&["no-port"])),
    ("hotplug_vfio_on_root_bus", Any),
    ("hugepage_type", Any),
    ("hypervisor_loglevel", Any),
    ("indep_iothreads", Off),
    ("initdata", Off),
    ("jailer_path", Off),
    ("kernel_verity_params", Off),
    ("log_level", Any),
    ("measurement_algo", Any),
    ("memory_offset", Off),
    ("memory_path", Off),
    ("net_rate_limiter_bw_max_rate", Off),
    ("net_rate_limiter_bw_one_time_burst", Off),
    ("net_rate_limiter_ops_max_rate", Off),
    ("net_rate_limiter_ops_one_time_burst", Off),
    ("network_queues", Any),
    ("num_queues", Any),
    ("numa_mapping", Off),
    ("overhead_memory", Any),
    ("overhead_vcpus", Any),
    ("pcie_root_port", Off),
    ("pcie_switch_port", Off),
    ("pflashes", Off),
    ("prefetch_list_path", Off),
    ("queue_size", Any),
    ("reclaim_guest_freed_memory", Off),
    ("remote_hypervisor_socket", Any),
    ("remote_hypervisor_timeout", Any),
    ("rootless", Off),
    ("rx_rate_limiter_max_rate", Off),
    ("selinux_label", Off),
    ("sev_snp_guest", Off),
    ("snp_guest_policy", Any),
    ("snp_id_auth", Off),
    ("snp_id_block", Off),
    ("tdx_quote_generation_service_socket_port", Any),
    ("tx_rate_limiter_max_rate", Off),
    ("use_legacy_serial", Off),
    ("valid_ctlpaths", Any),
    ("valid_jailer_paths", Any),
    ("valid_vhost_user_store_paths", Any),
    ("vhost_user_reconnect_timeout_sec", Any),
    ("vhost_user_store_path", Any),
    ("virtio_fs_cache_size", Off),
    ("virtio_fs_is_dax", Off),
    ("vm_rootfs_driver", Any),
];

const AGENT: &[(&str, Harmless)] = &[
    ("cdh_api_timeout", Any),
    ("cdh_api_timeout_ms", Any),
    ("dial_timeout_ms", Any),
    ("enable_tracing", Off),
    ("launch_process_timeout", Any),
    ("log_port", Any),
    ("mem_agent.enable", Off),
    ("mem_agent.mem_agent_enable", Off),
    ("passfd_listener_port", Any),
    ("policy", Off),
    ("server_port", Texts(&["1024"])),
    ("visible_cdi_devices", Off),
];

const RUNTIME: &[(&str, Harmless)] = &[
    ("agent_name", Texts(&["kata"])),
    ("dan_conf", Any),
    ("disable_guest_empty_dir", Any),
    ("emptydir_mode", Texts(&["shared-fs"])),
    ("enable_pprof", Off),
    ("enable_tracing", Off),
    ("enable_vcpus_pinning", Off),
    ("experimental", Off),
    ("experimental_force_guest_pull", Off),
    ("guest_selinux_label", Off),
    ("hypervisor_name", Texts(&["qemu"])),
    ("jaeger_endpoint", Any),
    ("jaeger_password", Any),
    ("jaeger_user", Any),
    ("keep_abnormal", Off),
    ("kubelet_root_dir", Any),
    ("name", Texts(&["virt_container"])),
    ("passfd_listener_port", Any),
    ("pod_resource_api_sock", Off),
    ("sandbox_bind_mounts", Off),
    ("shared_mounts", Off),
    ("use_passfd_io", Off),
    ("vfio_mode", Any),
];

const FOREIGN_TABLES: [&str; 4] = ["image", "netmon", "proxy", "shim"];

/// Whether `key` is a table of other components or old releases, which nobody reads here, whatever it holds.
pub(super) fn is_foreign(key: &str) -> bool {
    FOREIGN_TABLES.contains(&key)
}

/// Judges a key that no table of ours has.
pub(super) fn judge(key: &str, value: &DeValue<'_>) -> Verdict {
    if is_foreign(key) {
        return Verdict::Harmless;
    }
    let tables = [("hypervisor.qemu.", HYPERVISOR), ("agent.kata.", AGENT), ("runtime.", RUNTIME)];
    let known = tables.iter().find_map(|(prefix, keys)| {
        let name = key.strip_prefix(prefix)?;
        keys.iter().find(|(known, _)| *known == name)
    });
    match known {
        None => Verdict::Unknown,
        Some((_, harmless)) if is_harmless(*harmless, value) => Verdict::Harmless,
        Some(_) => {
            Verdict::Refused("not served by this version; remove the key or set it to its default".into())
        }
    }
}

fn is_harmless(harmless: Harmless, value: &DeValue<'_>) -> bool {
    let off = match value {
        DeValue::Boolean(on) => !on,
        DeValue::Integer(number) => number.as_str() == "0",
        DeValue::Float(number) => number.as_str().parse() == Ok(0.0),
        DeValue::String(text) => text.is_empty(),
        DeValue::Array(array) => array.is_empty(),
        _ => false,
    };
    off || match harmless {
        Off => false,
        Any => true,
        Texts(texts) => match value {
            DeValue::String(text) => texts.contains(&text.as_ref()),
            DeValue::Integer(number) => texts.contains(&number.as_str()),
            _ => false,
        },
    }
}

//! `[agent.kata]` and `[runtime]`: how long to wait for the guest, and how the runtime behaves.

use std::time::Duration;

use serde::Deserialize;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct AgentConfig {
    pub enable_debug: bool,
    pub log_level: String,
    /// Modules that the agent loads, each with its parameters, before the first container.
    pub kernel_modules: Vec<String>,
    /// Seconds in which the agent must answer after the VM was started; Kata's Go name.
    dial_timeout: u64,
    /// Milliseconds for the same; Kata's Rust name. The longer of the two counts.
    reconnect_timeout_ms: u64,
    /// Seconds for one CreateContainer call; Kata's Rust name.
    pub(super) create_container_timeout: u64,
    health_check_request_timeout_ms: u64,
    pub container_pipe_size: u32,
    /// Whether the guest has a shell of its own for `kata-runtime console`.
    pub debug_console_enabled: bool,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            enable_debug: false,
            log_level: "info".into(),
            kernel_modules: Vec::new(),
            dial_timeout: 45,
            reconnect_timeout_ms: 3000,
            create_container_timeout: 60,
            health_check_request_timeout_ms: 90_000,
            container_pipe_size: 0,
            debug_console_enabled: false,
        }
    }
}

impl AgentConfig {
    /// From the start of the VM to the agent's first answer.
    pub fn boot_deadline(&self) -> Duration {
        Duration::from_secs(self.dial_timeout).max(Duration::from_millis(self.reconnect_timeout_ms))
    }

    /// For one CreateContainer call.
    pub fn create_deadline(&self) -> Duration {
        Duration::from_secs(self.create_container_timeout)
    }

    /// For one health check.
    pub fn health_deadline(&self) -> Duration {
        Duration::from_millis(self.health_check_request_timeout_ms)
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct RuntimeConfig {
    pub enable_debug: bool,
    pub log_level: String,
    /// Whether the spec's seccomp filter stays out of the guest.
    pub disable_guest_seccomp: bool,
    /// Whether the hypervisor stays in the caller's network namespace.
    pub disable_new_netns: bool,
    pub internetworking_model: InternetworkingModel,
    /// Whether a pod's VM keeps the size with which it begins.
    pub static_sandbox_resource_mgmt: bool,
    /// Whether the shim and all its processes are in the cgroup that the engine names for the sandbox.
    pub sandbox_cgroup_only: bool,
    /// Seconds for one CreateContainer call; Kata's Go name for the agent's key. The longer of the two counts.
    pub(super) create_container_timeout: u64,
}

/// How host interfaces reach the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InternetworkingModel {
    Tcfilter,
    Macvtap,
    None,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            enable_debug: false,
            log_level: "info".into(),
            disable_guest_seccomp: true,
            disable_new_netns: false,
            internetworking_model: InternetworkingModel::Tcfilter,
            static_sandbox_resource_mgmt: false,
            sandbox_cgroup_only: false,
            create_container_timeout: 0,
        }
    }
}

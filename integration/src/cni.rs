//! A small CNI runtime: calls the distribution's plugins for a list of configurations, as engines do, within a network
//! namespace that plays the host, so that the machine's own bridges and packet filters are never touched.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::place::{ip, unique};

/// Where distributions have them.
const PLUGINS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// The folder with the plugins; `None`, with a word, if there is none.
pub fn plugins() -> Option<PathBuf> {
    let found = PLUGINS.iter().map(PathBuf::from).find(|dir| dir.join("bridge").exists());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "no CNI plugins: tools/dev test installs them");
        eprintln!("skipped: no CNI plugins (containernetworking-plugins)");
    }
    found
}

/// Whether the kernel has links of this kind; says so if not.
pub fn kernel_has(kind: &str) -> bool {
    let script = match kind {
        "dummy" | "bridge" => format!("ip link add x0 type {kind}"),
        _ => format!(
            "ip link add a0 type veth && ip link add link a0 x0 type {kind} {}",
            if kind == "vlan" { "id 5" } else { "" }
        ),
    };
    let tried = Command::new("unshare").args(["-n", "sh", "-c", &script]).output().expect("run unshare");
    if !tried.status.success() {
        eprintln!("skipped: this kernel has no links of the kind {kind}");
    }
    tried.status.success()
}

/// A network namespace that plays the host.
pub struct Host {
    pub name: String,
    /// What plugins keep, gone with the host.
    state: TempDir,
    plugins: PathBuf,
}

impl Host {
    /// `None`, with a word, where there are no plugins.
    pub fn new() -> Option<Self> {
        let plugins = plugins()?;
        let name = format!("kh{}", unique());
        ip(&format!("netns add {name}"));
        let host = Self { name, state: tempfile::tempdir().expect("make a temporary folder"), plugins };
        ip(&format!("-n {} link set lo up", host.name));
        host.run("echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
        Some(host)
    }

    /// Runs a script in it, which is to succeed; what it prints.
    pub fn run(&self, script: &str) -> String {
        let output = self.command(["sh", "-c", script]).output().expect("run a shell");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A command that runs in it.
    pub fn command<const N: usize>(&self, words: [&str; N]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).args(words);
        command
    }

    /// What engines read from a `.conflist`. `plugins` may say `DATA` where a folder is to stand.
    pub fn network(&self, name: &str, plugins: Value) -> Network<'_> {
        let data = self.state.path().display().to_string();
        let plugins = serde_json::from_str(&plugins.to_string().replace("DATA", &data)).expect("still JSON");
        Network { host: self, name: name.into(), plugins }
    }

    /// The addresses that `host-local` keeps for a network's pods.
    pub fn leases(&self, network: &str) -> Vec<String> {
        let entries = fs::read_dir(self.state.path().join(network)).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name != "lock" && !name.starts_with("last_reserved")).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The test has said what is wrong.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// A network namespace for a pod, gone when dropped.
pub struct Pod {
    pub name: String,
}

impl Pod {
    #[expect(clippy::new_without_default, reason = "it makes things on the host")]
    pub fn new() -> Self {
        let name = format!("kp{}", unique());
        ip(&format!("netns add {name}"));
        Self { name }
    }

    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Runs `ip` in it.
    pub fn ip(&self, args: &str) -> String {
        ip(&format!("-n {} {args}", self.name))
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // The test has said what is wrong.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// A network of the host: a list of plugins, called one after the other, each with what the one before it says.
pub struct Network<'a> {
    host: &'a Host,
    name: String,
    plugins: Vec<Value>,
}

impl Network<'_> {
    /// Adds the pod, as interface `interface`; the result of the last plugin.
    pub fn add(&self, pod: &Pod, interface: &str, capabilities: &Value) -> Value {
        self.try_add(pod, interface, capabilities).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// The same where a plugin may refuse.
    pub fn try_add(&self, pod: &Pod, interface: &str, capabilities: &Value) -> Result<Value, String> {
        let mut result = Value::Null;
        for plugin in &self.plugins {
            result = self.call("ADD", plugin, pod, interface, capabilities, &result)?;
        }
        Ok(result)
    }

    /// Removes it, last plugin first.
    pub fn del(&self, pod: &Pod, interface: &str, capabilities: &Value, result: &Value) {
        for plugin in self.plugins.iter().rev() {
            let done = self.call("DEL", plugin, pod, interface, capabilities, result);
            done.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        }
    }

    fn call(
        &self,
        verb: &str,
        plugin: &Value,
        pod: &Pod,
        interface: &str,
        capabilities: &Value,
        previous: &Value,
    ) -> Result<Value, String> {
        let kind = plugin["type"].as_str().expect("a plugin's type");
        let mut config = plugin.clone();
        config["cniVersion"] = json!("0.4.0");
        config["name"] = json!(self.name);
        // What the plugin says it can do of what is asked.
        if let Some(offered) = config.as_object_mut().and_then(|config| config.remove("capabilities")) {
            let wanted = capabilities.as_object().into_iter().flatten();
            let wanted = wanted.filter(|(name, _)| offered[name.as_str()] == true);
            config["runtimeConfig"] = wanted.map(|(name, value)| (name.clone(), value.clone())).collect();
        }
        if !previous.is_null() {
            config["prevResult"] = previous.clone();
        }
        let program = self.host.plugins.join(kind);
        let output = self.run(&program, verb, pod, interface, &config.to_string());
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            return Err(format!("{kind} {verb}: {said}{}", String::from_utf8_lossy(&output.stderr)));
        }
        match verb {
            "ADD" => serde_json::from_str(&said).map_err(|error| format!("{kind}: {error}: {said}")),
            _ => Ok(Value::Null),
        }
    }

    fn run(
        &self,
        program: &Path,
        verb: &str,
        pod: &Pod,
        interface: &str,
        config: &str,
    ) -> std::process::Output {
        let mut child = self
            .host
            .command([&program.display().to_string()])
            .env_clear()
            .envs([("PATH", PATH), ("CNI_COMMAND", verb), ("CNI_IFNAME", interface)])
            .env("CNI_CONTAINERID", &pod.name)
            .env("CNI_NETNS", pod.path())
            .env("CNI_PATH", &self.host.plugins)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run a plugin");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(config.as_bytes()).expect("tell a plugin its configuration");
        drop(stdin);
        child.wait_with_output().expect("a plugin's end")
    }
}

//! [`VmSpec`] -> QEMU's command line. Pure; the golden files in `tests/golden` show what comes out.

use std::os::fd::RawFd;

use runtime::{
    config::HypervisorConfig,
    error::{Error, Result},
    vm::{Boot, Channel, Device, GuestRootfs, MemoryKind, Origin, PORTS, SERIAL_PORT_NAME, VmSize, VmSpec},
};
use serde_json::json;

use crate::{
    accelerator::Accelerator,
    arch,
    device::{self, Described, utf8},
    kernel_parameters,
};

/// Numbers in QEMU of the descriptors that it inherits.
#[derive(Debug, Clone)]
pub(crate) struct Inherited {
    pub qmp: RawFd,
    pub console: RawFd,
    /// The file of [`MemoryKind::File`].
    pub memory: Option<RawFd>,
    /// A listening unix socket behind the serial port of a template or clone.
    pub template: Option<RawFd>,
    /// Of a template only, nothing.
    pub agent: Option<AgentWire>,
    /// The queues of each network card.
    pub nics: Vec<Vec<RawFd>>,
    /// Whether the host's kernel carries their packets.
    pub vhost_net: bool,
}

/// What carries the agent's connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AgentWire {
    /// A listening unix socket.
    Serial { listener: RawFd },
    /// An open `/dev/vhost-vsock` that holds `cid`.
    Vsock { vhost: RawFd, cid: u32 },
    /// A connection to the vhost-user helper.
    VhostUserVsock { connection: RawFd },
}

/// The whole command line, without the program.
pub(crate) fn arguments(
    spec: &VmSpec,
    config: &HypervisorConfig,
    accelerator: Accelerator,
    inherited: &Inherited,
) -> Result<Vec<String>> {
    check(spec, config)?;
    let mut args = Args::default();
    args.add("-name", format!("sandbox-{}", spec.id));
    args.add("-machine", machine(config, accelerator));
    args.add("-cpu", cpu(config, accelerator));
    args.add("-smp", smp(spec.size));
    args.add("-m", memory(spec.size));
    args.add("-object", memory_backend(spec, config, inherited.memory)?);
    for flag in ["-no-user-config", "-nodefaults", "-nographic", "-no-reboot"] {
        args.flag(flag);
    }
    args.add("-vga", "none");
    args.add("-rtc", "base=utc,driftfix=slew,clock=host");
    if !config.seccompsandbox.is_empty() {
        args.add("-sandbox", &config.seccompsandbox);
    }
    if !config.firmware.as_os_str().is_empty() {
        args.add("-bios", utf8(&config.firmware)?);
    }
    if spec.origin != Origin::Boot {
        for global in arch::QUIET_PORTS {
            args.add("-global", *global);
        }
    }
    args.add("-chardev", format!("socket,id=qmp,fd={}", inherited.qmp));
    args.add("-mon", "chardev=qmp,mode=control");
    boot(&mut args, spec, config, accelerator)?;
    for described in devices(spec, inherited)? {
        args.device(&described);
    }
    for described in in_ports(spec, inherited)? {
        match spec.origin {
            Origin::Clone => args.backend(&described),
            Origin::Boot | Origin::Template => args.device(&described),
        }
    }
    if spec.origin == Origin::Clone {
        args.add("-incoming", "defer");
    }
    Ok(args.0)
}

#[derive(Default)]
struct Args(Vec<String>);

impl Args {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.into());
    }

    fn add(&mut self, option: &str, value: impl Into<String>) {
        self.0.push(option.into());
        self.0.push(value.into());
    }

    fn backend(&mut self, described: &Described) {
        if let Some(backend) = &described.backend {
            let (option, value) = backend.option();
            self.add(option, value);
        }
    }

    fn device(&mut self, described: &Described) {
        self.backend(described);
        self.add("-device", described.device.to_string());
    }
}

/// Refuses what QEMU would start with and never work.
fn check(spec: &VmSpec, config: &HypervisorConfig) -> Result<()> {
    if !arch::MACHINE_TYPES.contains(&config.machine_type.as_str()) {
        return Err(Error::invalid(format!(
            "hypervisor.qemu.machine_type: {:?} is not one of {}",
            config.machine_type,
            arch::MACHINE_TYPES.join(", ")
        )));
    }
    let devices = || spec.devices.iter().chain(&spec.added);
    let vhost_user = devices().any(|device| matches!(device, Device::VirtioFs { .. }));
    let private = matches!(spec.memory, MemoryKind::Private | MemoryKind::File { shared: false, .. });
    if private && (vhost_user || spec.channel == Channel::VhostUserVsock) {
        return Err(Error::internal("a vhost-user device needs shared guest memory"));
    }
    Ok(())
}

fn machine(config: &HypervisorConfig, accelerator: Accelerator) -> String {
    // A core dump of QEMU would write the guest's memory, secrets and all, to the host's disk.
    let mut machine = format!(
        "{},accel={},memory-backend=mem0,dump-guest-core=off,{}",
        config.machine_type,
        accelerator.as_str(),
        arch::MACHINE_PROPERTIES,
    );
    append(&mut machine, &config.machine_accelerators);
    machine
}

fn cpu(config: &HypervisorConfig, accelerator: Accelerator) -> String {
    let (model, features) = match accelerator {
        Accelerator::Kvm => ("host", ""),
        Accelerator::Tcg => ("max", arch::CPU_FEATURES_TCG),
    };
    let mut cpu = model.to_owned();
    append(&mut cpu, features);
    append(&mut cpu, &config.cpu_features);
    cpu
}

/// Adds the operator's own comma-separated words.
fn append(options: &mut String, words: &str) {
    let words = words.trim().trim_matches(',');
    if !words.is_empty() {
        options.push(',');
        options.push_str(words);
    }
}

/// All vCPUs that the VM may come to use; its kernel leaves the others off. They are not plugged later, for guests that do
/// not know their hypervisor forget CPUs that are missing when they boot.
fn smp(size: VmSize) -> String {
    size.max_vcpus.to_string()
}

fn memory(size: VmSize) -> String {
    let mut memory = format!("{}M", size.memory.0);
    if size.max_memory > size.memory {
        memory += &format!(",slots={},maxmem={}M", size.memory_slots, size.max_memory.0);
    }
    memory
}

fn memory_backend(spec: &VmSpec, config: &HypervisorConfig, file: Option<RawFd>) -> Result<String> {
    let (kind, shared) = match &spec.memory {
        MemoryKind::Private => ("memory-backend-ram", false),
        MemoryKind::Shared => ("memory-backend-memfd", true),
        MemoryKind::File { shared, .. } => ("memory-backend-file", *shared),
    };
    let mut backend = json!({
        "qom-type": kind,
        "id": "mem0",
        "size": spec.size.memory.bytes(),
        "share": shared,
        "prealloc": config.enable_mem_prealloc,
    });
    if let MemoryKind::File { .. } = spec.memory {
        let file = file.ok_or_else(|| Error::internal("the file of the memory is not passed on"))?;
        backend["mem-path"] = format!("/proc/self/fd/{file}").into();
    }
    Ok(backend.to_string())
}

fn boot(args: &mut Args, spec: &VmSpec, config: &HypervisorConfig, accelerator: Accelerator) -> Result<()> {
    let Boot::Kernel { kernel, rootfs, .. } = &spec.boot;
    args.add("-kernel", utf8(kernel)?);
    match rootfs {
        GuestRootfs::Initrd(initrd) => args.add("-initrd", utf8(initrd)?),
        GuestRootfs::Image { path, .. } => args.device(&device::root_disk(path)?),
    }
    args.add("-append", kernel_parameters::command_line(spec, accelerator, config.enable_debug)?);
    Ok(())
}

/// A clone's devices begin with its template's, in their order, and so are in the same places.
fn devices(spec: &VmSpec, inherited: &Inherited) -> Result<Vec<Described>> {
    let mut all = Vec::new();
    let virtio_console = arch::CONSOLE_IS_VIRTIO && spec.devices.contains(&Device::Console);
    if spec.channel == Channel::Serial || inherited.template.is_some() || virtio_console {
        all.push(device::serial_bus());
    }
    for (index, device) in spec.devices.iter().enumerate() {
        all.push(device::describe(index, device, inherited.console)?);
    }
    if let Some(listener) = inherited.template {
        all.push(device::serial_port(SERIAL_PORT_NAME, listener));
    }
    match spec.origin {
        Origin::Boot => {
            all.extend(inherited.agent.map(agent_wire));
            all.push(device::ports());
        }
        Origin::Template | Origin::Clone => {
            all.push(device::ports());
            all.extend(arch::GENERATION_ID.map(device::generation_id));
        }
    }
    Ok(all)
}

/// What is in the ports from the start, in their order. A clone is given it when it has been restored; the back ends are
/// there by then.
pub(crate) fn in_ports(spec: &VmSpec, inherited: &Inherited) -> Result<Vec<Described>> {
    let mut all = Vec::new();
    for (index, device) in spec.added.iter().enumerate() {
        all.push(device::describe(spec.devices.len() + index, device, inherited.console)?);
    }
    if spec.origin != Origin::Boot {
        all.extend(inherited.agent.map(agent_wire));
    }
    all.extend(nics(spec, inherited));
    if all.len() > PORTS {
        return Err(Error::precondition(format!(
            "{} devices for the {PORTS} ports of a VM: it takes no more of them",
            all.len()
        )));
    }
    for (port, described) in all.iter_mut().enumerate() {
        device::plug(&mut described.device, port);
    }
    Ok(all)
}

fn nics<'a>(spec: &'a VmSpec, inherited: &'a Inherited) -> impl Iterator<Item = Described> + 'a {
    spec.nics.iter().zip(&inherited.nics).map(|(nic, fds)| {
        let fds = fds.iter().map(ToString::to_string).collect();
        device::nic(nic.number, nic.mac, fds, inherited.vhost_net)
    })
}

fn agent_wire(wire: AgentWire) -> Described {
    match wire {
        AgentWire::Serial { listener } => device::serial_port(SERIAL_PORT_NAME, listener),
        AgentWire::Vsock { vhost, cid } => device::vhost_vsock(vhost, cid),
        AgentWire::VhostUserVsock { connection } => device::vhost_user_vsock(connection),
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    use runtime::{
        error::ErrorKind,
        ids::SandboxId,
        vm::{MiB, NetworkNamespace, Nic},
    };

    use super::*;

    const SERIAL: Inherited = Inherited {
        qmp: 4,
        console: 5,
        memory: None,
        template: None,
        agent: Some(AgentWire::Serial { listener: 3 }),
        nics: Vec::new(),
        vhost_net: false,
    };

    fn spec() -> VmSpec {
        VmSpec {
            id: SandboxId::new("s1").unwrap(),
            dir: "/run/vc/vm/s1".into(),
            size: VmSize { vcpus: 1, max_vcpus: 1, memory: MiB(512), max_memory: MiB(512), memory_slots: 10 },
            boot: Boot::Kernel {
                kernel: "/kata/vmlinux".into(),
                rootfs: GuestRootfs::Initrd("/kata/initrd".into()),
                parameters: vec!["agent.server_addr=serial://agent.channel.0".into(), "panic=9".into()],
            },
            origin: Origin::Boot,
            memory: MemoryKind::Private,
            added: Vec::new(),
            nics: Vec::new(),
            devices: vec![
                Device::Console,
                Device::Rng { source: "/dev/urandom".into() },
                Device::NineP { tag: "kataShared".into(), path: "/run/a,b/shared".into() },
            ],
            channel: Channel::Serial,
            network: NetworkNamespace::New,
            journal: Default::default(),
        }
    }

    fn config() -> HypervisorConfig {
        HypervisorConfig { machine_type: arch::MACHINE_TYPES[0].into(), ..Default::default() }
    }

    /// Compares with `tests/golden/<architecture>/<name>`, or writes it when `UPDATE_GOLDEN` is set.
    #[track_caller]
    fn golden(name: &str, args: &[String]) {
        let mut text = String::new();
        for arg in args {
            // An option and its argument on one line.
            let follows = !arg.starts_with('-') && !text.is_empty();
            text += if follows { " " } else { "\n" };
            text += arg;
        }
        let text = format!("{}\n", text.trim_start());
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(env::consts::ARCH).join(name);
        if env::var_os("UPDATE_GOLDEN").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &text).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(text, expected, "{}: set UPDATE_GOLDEN=1 to accept the new text", path.display());
    }

    fn nic() -> Nic {
        Nic { number: 0, mac: [2, 0, 0, 0, 10, 255], queues: std::sync::Arc::new([]) }
    }

    #[test]
    fn command_lines_are_as_recorded() {
        let config = config();
        let kvm = |spec: &VmSpec, config: &HypervisorConfig, inherited| {
            arguments(spec, config, Accelerator::Kvm, inherited).unwrap()
        };
        golden("serial-9p-tcg.args", &arguments(&spec(), &config, Accelerator::Tcg, &SERIAL).unwrap());

        let mut virtiofs = spec();
        virtiofs.memory = MemoryKind::Shared;
        virtiofs.channel = Channel::Vsock;
        virtiofs.devices[2] = Device::VirtioFs {
            tag: "kataShared".into(),
            socket: "/run/vc/vm/s1/virtiofsd.sock".into(),
            queue_size: 1024,
        };
        virtiofs.size.max_vcpus = 8;
        virtiofs.size.max_memory = MiB(16384);
        let vsock = Inherited { agent: Some(AgentWire::Vsock { vhost: 3, cid: 4711 }), ..SERIAL };
        virtiofs.nics.push(nic());
        let vsock = Inherited { nics: vec![vec![5]], ..vsock };
        golden("vsock-virtiofs-kvm-hotplug.args", &kvm(&virtiofs, &config, &vsock));

        virtiofs.channel = Channel::VhostUserVsock;
        virtiofs.boot = Boot::Kernel {
            kernel: "/kata/vmlinux".into(),
            rootfs: GuestRootfs::Image { path: "/kata/kata.img".into(), fstype: "ext4".into() },
            parameters: Vec::new(),
        };
        let everything_set = HypervisorConfig {
            machine_accelerators: "smm=off,".into(),
            cpu_features: "pmu=off,-vmx".into(),
            firmware: "/kata/OVMF.fd".into(),
            seccompsandbox: "on,obsolete=deny,spawn=deny".into(),
            enable_debug: true,
            enable_mem_prealloc: true,
            ..config
        };
        let vhost_user = Inherited { agent: Some(AgentWire::VhostUserVsock { connection: 3 }), ..SERIAL };
        golden("vhost-user-vsock-image-debug.args", &kvm(&virtiofs, &everything_set, &vhost_user));
    }

    #[test]
    fn a_clone_differs_from_its_template_only_in_what_is_not_saved() {
        let memory = |shared| MemoryKind::File {
            file: std::sync::Arc::new(fs::File::open("/dev/null").unwrap()),
            shared,
        };
        let inherited = Inherited { memory: Some(6), template: Some(3), agent: None, ..SERIAL };
        let template = VmSpec { origin: Origin::Template, memory: memory(true), ..spec() };
        let template = arguments(&template, &config(), Accelerator::Tcg, &inherited).unwrap();
        golden("template.args", &template);

        let fs = Device::VirtioFs { tag: "kataShared".into(), socket: "/s".into(), queue_size: 8 };
        let clone = VmSpec {
            origin: Origin::Clone,
            memory: memory(true),
            added: vec![fs],
            nics: vec![nic()],
            channel: Channel::VhostUserVsock,
            ..spec()
        };
        let agent = Some(AgentWire::VhostUserVsock { connection: 7 });
        let inherited = Inherited { agent, nics: vec![vec![8, 9]], vhost_net: true, ..inherited };
        let arguments = arguments(&clone, &config(), Accelerator::Tcg, &inherited).unwrap();
        assert_eq!(arguments[..template.len()], template);
        let backends = [
            ["-chardev", "socket,id=fs3,path=/s"],
            ["-chardev", "socket,id=agent,fd=7"],
            ["-netdev", "tap,id=net0,fds=8:9,vhost=on"],
        ]
        .concat();
        assert_eq!(arguments[template.len()..], [&backends[..], &["-incoming", "defer"]].concat());
        let nic = &in_ports(&clone, &inherited).unwrap()[2].device;
        assert_eq!((nic["mac"].as_str(), nic["vectors"].as_u64()), (Some("02:00:00:00:0a:ff"), Some(6)));
        let added = in_ports(&clone, &inherited).unwrap();
        let places: Vec<_> = added.iter().map(|added| added.device["addr"].as_str().unwrap()).collect();
        assert_eq!(places, ["0x1", "0x2", "0x3"]);
        let many = VmSpec { nics: vec![super::tests::nic(); PORTS - 1], ..clone };
        let inherited = Inherited { nics: vec![vec![8]; PORTS - 1], ..inherited };
        assert!(in_ports(&many, &inherited).unwrap_err().to_string().contains("31 ports"));
    }

    #[test]
    fn what_could_not_work_is_refused() {
        let refused = |spec: &VmSpec, config: &HypervisorConfig| {
            arguments(spec, config, Accelerator::Tcg, &SERIAL).unwrap_err()
        };
        let config = config();

        let microvm = HypervisorConfig { machine_type: "microvm".into(), ..config.clone() };
        let error = refused(&spec(), &microvm);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("hypervisor.qemu.machine_type"), "{error}");

        let mut unshared = spec();
        unshared.channel = Channel::VhostUserVsock;
        assert!(refused(&unshared, &config).to_string().contains("shared guest memory"));

        let mut long = spec();
        let Boot::Kernel { parameters, .. } = &mut long.boot;
        parameters.push("x".repeat(2000));
        assert!(refused(&long, &config).to_string().contains("kernel_params"));
    }
}

//! A VM whose agent also serves raw streams, and links to it over each kind of channel. The VM is the product's: its
//! kernel, initrd, agent and hypervisor; only the shim, which would hold the channel, is not there.

use std::{
    fmt::{self, Display},
    fs::{File, OpenOptions},
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hypervisor_qemu::Qemu;
use protocols::guest::{PARAM_ECHO_PORT, PARAM_SERVER_ADDR, SERIAL_PORT_NAME};
use runtime::{
    agent::{AgentAddr, AgentLink, GuestStream, become_template, wake},
    config::Config,
    ids::SandboxId,
    ledger::{Ledger, ProcessId},
    state::{Record, StateStore},
    vm::{
        Boot, Channel, Device, GuestRootfs, Hypervisor, MemoryKind, MiB, NetworkNamespace, Origin, Vm,
        VmSize, VmSpec,
    },
};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, time::timeout};

use crate::environment::Environment;

/// Where the agent serves raw streams.
pub const PORT: u32 = 1030;
/// For what a guest does at once: a cold VM under emulation on a busy machine that may stand still for a while itself.
const PATIENCE: Duration = Duration::from_secs(90);
const MEMORY: MiB = MiB(512);

/// How a VM came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Booted,
    Cloned,
}

/// The VM; its processes end when it is dropped.
pub struct ChannelVm {
    vm: Arc<dyn Vm>,
    /// Before the folder that it is in.
    first: Option<AgentLink>,
    dir: TempDir,
}

impl ChannelVm {
    /// `None`, after a word, where such a VM cannot be.
    pub async fn start(channel: Channel, start: Start) -> Option<Self> {
        if channel == Channel::Vsock && !Path::new("/dev/vhost-vsock").exists() {
            eprintln!("skipped: the kernel's vsock: this machine has no /dev/vhost-vsock");
            return None;
        }
        let env = Environment::find()?;
        Some(bounded("start the VM", Self::make(&env, channel, start)).await)
    }

    async fn make(env: &Environment, channel: Channel, start: Start) -> Self {
        // The paths of sockets are short.
        let dir = tempfile::Builder::new().prefix("kch.").tempdir_in("/run").expect("make a folder");
        let mut config = Config::load(&env.configuration()).expect("load the configuration");
        if channel == Channel::VhostUserVsock {
            config.hypervisor.vhost_user_vsock_daemon = env.vhost_user_vsock();
        }
        let workbench = Workbench::new(dir.path(), config);
        let (vm, port) = match start {
            Start::Booted => (workbench.boot(channel).await, None),
            Start::Cloned => workbench.clone_of_template(channel).await,
        };
        let first = match port {
            Some(port) => AgentLink::of_clone(vm.agent_address(), port).await,
            None => AgentLink::open(vm.agent_address()).await,
        };
        Self { vm, first: Some(first.expect("reach the agent")), dir }
    }

    /// Where the agent is.
    pub fn address(&self) -> AgentAddr {
        self.vm.agent_address()
    }

    /// A link to the agent; each but the first is a new conversation.
    pub async fn link(&mut self) -> AgentLink {
        match self.first.take() {
            Some(link) => link,
            None => bounded("begin a conversation", AgentLink::open(self.address())).await.expect("reach it"),
        }
    }

    /// Ends the VM.
    pub async fn stop(self) {
        drop(self.first);
        self.vm.stop().await.expect("stop the VM");
        drop(self.dir);
    }
}

/// A raw stream of this mode, see the agent's `channel::echo`.
pub async fn raw(link: &AgentLink, mode: impl Display) -> GuestStream {
    let opened = async {
        let mut stream = link.connect_when_up(PORT).await;
        stream.write_all(format!("{mode}\n").as_bytes()).await.expect("say what the stream is for");
        stream.flush().await.expect("flush");
        stream
    };
    bounded(&format!("open a stream ({mode})"), opened).await
}

/// What is not done in this time is never done.
pub async fn bounded<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// Makes VMs in a folder.
struct Workbench {
    dir: PathBuf,
    config: Config,
    qemu: Qemu,
    ledger: Ledger,
}

impl Workbench {
    fn new(dir: &Path, config: Config) -> Self {
        let owner = ProcessId::of(std::process::id()).expect("this process is there");
        let record = Record::new("channel", owner);
        let store = StateStore::create(&dir.join("sbs"), record).expect("make a record");
        let qemu = Qemu::new(config.hypervisor.clone(), dir);
        Self { dir: dir.into(), config, qemu, ledger: Ledger::new(Arc::new(store)) }
    }

    fn spec(&self, origin: Origin, channel: Channel, memory: MemoryKind) -> VmSpec {
        let hypervisor = &self.config.hypervisor;
        let mut parameters = vec!["cgroup_no_v1=all".to_owned(), format!("{PARAM_ECHO_PORT}={PORT}")];
        if origin != Origin::Boot || channel == Channel::Serial {
            parameters.push(format!("{PARAM_SERVER_ADDR}=serial://{SERIAL_PORT_NAME}"));
        }
        let id = SandboxId::new(format!("channel-{origin:?}")).expect("a good name");
        let dir = self.dir.join(id.as_str());
        std::fs::create_dir(&dir).expect("make the VM's folder");
        VmSpec {
            id,
            dir,
            size: VmSize { vcpus: 1, max_vcpus: 1, memory: MEMORY, max_memory: MEMORY, memory_slots: 0 },
            boot: Boot::Kernel {
                kernel: hypervisor.kernel.clone(),
                rootfs: GuestRootfs::Initrd(hypervisor.initrd.clone()),
                parameters,
            },
            origin,
            memory,
            devices: vec![Device::Console, Device::Rng { source: hypervisor.entropy_source.clone() }],
            added: Vec::new(),
            nics: Vec::new(),
            channel,
            network: NetworkNamespace::New,
            journal: Default::default(),
        }
    }

    async fn boot(&self, channel: Channel) -> Arc<dyn Vm> {
        let memory = match channel {
            Channel::VhostUserVsock => MemoryKind::Shared,
            Channel::Vsock | Channel::Serial => MemoryKind::Private,
        };
        let spec = self.spec(Origin::Boot, channel, memory);
        self.qemu.boot(spec, &self.ledger).await.expect("boot the VM")
    }

    /// The clone, and its serial port, on which it was woken. It goes on in the template's own memory.
    async fn clone_of_template(&self, channel: Channel) -> (Arc<dyn Vm>, Option<tokio::net::UnixStream>) {
        let memory = tempfile::tempfile_in("/dev/shm").expect("make a file for the memory");
        memory.set_len(MEMORY.bytes()).expect("size the memory");
        let memory = MemoryKind::File { file: Arc::new(memory), shared: true };
        let state = self.dir.join("state");
        let create = || OpenOptions::new().write(true).create_new(true).open(&state);

        let spec = self.spec(Origin::Template, Channel::Serial, memory.clone());
        let template = self.qemu.boot(spec, &self.ledger).await.expect("boot the template");
        let port = template.template_port().expect("a template has a port");
        become_template(&port, &self.config.agent).await.expect("become a template");
        template.save(create().expect("make the state")).await.expect("save the template");
        template.stop().await.expect("stop the template");

        let clone = self.spec(Origin::Clone, channel, memory);
        let vm = self.qemu.boot(clone, &self.ledger).await.expect("start the clone");
        vm.restore(File::open(&state).expect("open the state")).await.expect("restore the clone");
        let port = vm.template_port().expect("a clone has a port");
        let woken = wake(&port, &vm.agent_address(), channel != Channel::Serial).await;
        (vm, Some(woken.expect("wake the clone")))
    }
}

impl Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Booted => "booted",
            Self::Cloned => "cloned",
        })
    }
}

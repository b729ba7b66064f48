//! The backend with a real QEMU. Most tests need no guest but a few instructions.

mod tiny_kernel;

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use hypervisor_qemu::Qemu;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use runtime::{
    config::{Accelerator, HypervisorConfig},
    error::{ErrorKind, Result},
    ids::SandboxId,
    ledger::{Ledger, ProcessId, Resource},
    state::{Record, StateStore},
    vm::{
        AgentAddr, Boot, Channel, Device, GuestRootfs, Hypervisor, MemoryKind, MiB, NetworkNamespace, Origin,
        SERIAL_PORT_NAME, Vm, VmExit, VmSize, VmSpec,
    },
};
use tempfile::TempDir;
use tiny_kernel::Guest;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

const SOON: Duration = Duration::from_secs(20);

/// A place for one VM, with its ledger.
struct Bench {
    root: TempDir,
    store: Arc<StateStore>,
    config: HypervisorConfig,
    spec: VmSpec,
}

impl Bench {
    /// `None` without QEMU, after saying so.
    fn new(guest: Guest) -> Option<Self> {
        let name = format!("qemu-system-{}", env::consts::ARCH);
        let path = env::var_os("PATH").unwrap_or_default();
        let path = find(env::split_paths(&path).map(|dir| dir.join(&name)), &name)?;
        let root = tempfile::tempdir().unwrap();
        let kernel = root.path().join("kernel");
        tiny_kernel::write(&kernel, guest);
        let initrd = root.path().join("initrd");
        fs::write(&initrd, "no guest of these tests reads this").unwrap();
        // As long as containerd's longest, and unlike any other on this machine.
        let id =
            format!("{:x<76}", root.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.'));
        let dir = root.path().join(&id);
        fs::create_dir(&dir).unwrap();
        let record = Record::new(&id, ProcessId::of(std::process::id()).unwrap());
        let store = Arc::new(StateStore::create(&root.path().join("sbs"), record).unwrap());
        let config = HypervisorConfig { path, accelerator: Accelerator::Tcg, ..Default::default() };
        let spec = VmSpec {
            id: SandboxId::new(id).unwrap(),
            dir,
            size: VmSize { vcpus: 1, max_vcpus: 1, memory: MiB(128), max_memory: MiB(128), memory_slots: 0 },
            boot: Boot::Kernel { kernel, rootfs: GuestRootfs::Initrd(initrd), parameters: Vec::new() },
            origin: Origin::Boot,
            added: Vec::new(),
            nics: Vec::new(),
            memory: MemoryKind::Private,
            devices: vec![Device::Console, Device::Rng { source: "/dev/urandom".into() }],
            channel: Channel::Serial,
            network: NetworkNamespace::Host,
            journal: Default::default(),
        };
        Some(Self { root, store, config, spec })
    }

    async fn boot(&self) -> Result<Arc<dyn Vm>> {
        let qemu = Qemu::new(self.config.clone(), self.root.path());
        let ledger = Ledger::new(self.store.clone());
        timeout(SOON, qemu.boot(self.spec.clone(), &ledger)).await.expect("booting is bounded")
    }

    fn claimed(&self) -> Vec<Resource> {
        self.store.record().own.ledger
    }

    /// No process of this VM lives and none is claimed.
    #[track_caller]
    fn assert_nothing_is_left(&self) {
        assert_eq!(self.claimed(), []);
        let dir = self.spec.dir.to_str().unwrap();
        let name = format!("sandbox-{}", self.spec.id);
        for process in fs::read_dir("/proc").unwrap() {
            let command = fs::read_to_string(process.unwrap().path().join("cmdline")).unwrap_or_default();
            assert!(!command.contains(dir) && !command.contains(&name), "{command}");
        }
    }
}

/// The first that exists; otherwise says that the test is skipped, which is a failure in CI.
fn find(mut candidates: impl Iterator<Item = PathBuf>, what: &str) -> Option<PathBuf> {
    let found = candidates.find(|path| path.exists());
    if found.is_none() {
        assert!(env::var_os("CI").is_none(), "{what} is missing");
        eprintln!("skipped: {what} is missing");
    }
    found
}

/// The first of these files that is in the environment that `tools/dev test` makes.
fn provided(names: &[&str]) -> Option<PathBuf> {
    let root = env::var_os("KATA_TEST_ENV").map(PathBuf::from);
    let files = root.iter().flat_map(|root| names.iter().map(|name| root.join(name)));
    find(files, &format!("KATA_TEST_ENV with {}", names.join(" or ")))
}

async fn exit_of(vm: &dyn Vm) -> VmExit {
    let mut exited = vm.exited();
    let exit = timeout(SOON, exited.wait_for(Option::is_some)).await.expect("the end is noticed").unwrap();
    exit.clone().unwrap()
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).unwrap();
}

#[tokio::test]
async fn a_vm_runs_until_it_is_stopped_and_can_be_stopped_again() {
    let Some(bench) = Bench::new(Guest::Halts) else { return };
    let vm = bench.boot().await.unwrap();
    let own = bench.claimed();
    assert!(
        matches!(&own[..], [Resource::Process { id, role }] if id.pid == vm.pid() && role == "qemu"),
        "{own:?}"
    );
    let AgentAddr::Serial { socket } = vm.agent_address() else { panic!() };
    UnixStream::connect(&socket).await.unwrap();
    assert_eq!(*vm.exited().borrow(), None);

    let began = Instant::now();
    vm.stop().await.unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "an obedient QEMU quits at once: {:?}",
        began.elapsed()
    );
    assert_eq!(exit_of(&*vm).await.reason, "stopped on request");
    let (again, and_again) = tokio::join!(vm.stop(), vm.stop());
    again.and(and_again).unwrap();
    bench.assert_nothing_is_left();
}

#[tokio::test]
async fn every_setting_of_qemu_s_sandbox_and_memory_boots() {
    let Some(mut bench) = Bench::new(Guest::Halts) else { return };
    bench.config.seccompsandbox =
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into();
    bench.config.enable_mem_prealloc = true;
    bench.spec.memory = MemoryKind::Shared;
    bench.spec.network = NetworkNamespace::New;
    bench.spec.size =
        VmSize { vcpus: 1, max_vcpus: 4, memory: MiB(64), max_memory: MiB(256), memory_slots: 4 };
    bench.spec.devices.push(Device::NineP { tag: "kataShared".into(), path: bench.root.path().into() });
    let vm = bench.boot().await.unwrap();
    let net = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_ne!(net(vm.pid()), net(std::process::id()));
    vm.stop().await.unwrap();
    bench.assert_nothing_is_left();
}

#[tokio::test]
async fn a_qemu_that_ends_at_once_is_an_error_with_its_own_words() {
    let Some(mut bench) = Bench::new(Guest::Halts) else { return };
    let good = bench.config.clone();
    for (config, words) in [
        (HypervisorConfig { machine_accelerators: "nonsense=on".into(), ..good.clone() }, "nonsense"),
        (HypervisorConfig { cpu_features: "pmu=off,nonsense=on".into(), ..good.clone() }, "nonsense"),
        (HypervisorConfig { firmware: "/does/not/exist".into(), ..good.clone() }, "/does/not/exist"),
        (HypervisorConfig { path: "/does/not/exist".into(), ..good.clone() }, "no such program"),
        (HypervisorConfig { path: "/bin/true".into(), ..good.clone() }, "exit status: 0"),
    ] {
        bench.config = config;
        let began = Instant::now();
        let error = bench.boot().await.map(|vm| vm.pid()).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains(bench.spec.id.as_str()), "{words}: {error}");
        assert!(began.elapsed() < Duration::from_secs(10), "{words}: {:?}", began.elapsed());
        bench.assert_nothing_is_left();
        fs::remove_file(bench.spec.dir.join("agent.sock")).unwrap();
    }
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_is_refused_before_anything_starts() {
    let Some(mut bench) = Bench::new(Guest::Halts) else { return };
    bench.spec.dir = bench.spec.dir.join("and/more/and/more");
    let error = bench.boot().await.map(|vm| vm.pid()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("shorter"), "{error}");
    bench.assert_nothing_is_left();
}

#[tokio::test]
async fn a_guest_that_restarts_ends_its_vm() {
    let Some(bench) = Bench::new(Guest::Resets) else { return };
    let vm = bench.boot().await.unwrap();
    let reason = exit_of(&*vm).await.reason;
    assert!(reason.contains("the guest restarted"), "{reason}");
    vm.stop().await.unwrap();
    bench.assert_nothing_is_left();
}

#[tokio::test]
async fn a_killed_qemu_is_noticed() {
    let Some(bench) = Bench::new(Guest::Halts) else { return };
    let vm = bench.boot().await.unwrap();
    send(vm.pid(), Signal::SIGKILL);
    let reason = exit_of(&*vm).await.reason;
    assert!(reason.contains("signal: 9"), "{reason}");
    vm.stop().await.unwrap();
    bench.assert_nothing_is_left();
}

#[tokio::test]
async fn a_qemu_that_does_not_answer_is_stopped_all_the_same() {
    let Some(bench) = Bench::new(Guest::Halts) else { return };
    let vm = bench.boot().await.unwrap();
    send(vm.pid(), Signal::SIGSTOP);
    let began = Instant::now();
    vm.stop().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(exit_of(&*vm).await.reason, "stopped on request");
    bench.assert_nothing_is_left();
}

#[tokio::test]
async fn a_dropped_vm_does_not_live_on() {
    let Some(bench) = Bench::new(Guest::Halts) else { return };
    let vm = bench.boot().await.unwrap();
    let mut exited = vm.exited();
    drop(vm);
    let noticed = timeout(SOON, exited.wait_for(Option::is_some)).await.unwrap().map(drop);
    noticed.unwrap();
    bench.assert_nothing_is_left();
}

/// A program that passes for QEMU: it greets, and then does as `script` says with each `$line` and its `$id`.
fn impostor(bench: &Bench, script: &str) -> PathBuf {
    let text = format!(
        r#"#!/bin/sh
for arg; do case $arg in socket,id=qmp,fd=*) fd=${{arg##*=}};; esac; done
eval "exec <&$fd >&$fd $fd>&-"
echo '{{"QMP": {{"version": {{}}, "capabilities": []}}}}'
while read -r line; do
    id=$(expr "$line" : '.*"id":\([0-9]*\)')
    case $line in {script} esac
done
"#
    );
    let path = bench.root.path().join("impostor");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    path
}

#[tokio::test]
async fn a_guest_that_the_accelerator_cannot_run_is_ended_and_the_remedy_named() {
    let Some(mut bench) = Bench::new(Guest::Halts) else { return };
    bench.config.path = impostor(
        &bench,
        r#"*qmp_capabilities*) echo "{\"return\": {}, \"id\": $id}"; echo '{"event": "STOP"}';;
           *query-status*) echo "{\"return\": {\"status\": \"internal-error\", \"running\": false}, \"id\": $id}";;"#,
    );
    let vm = bench.boot().await.unwrap();
    let reason = exit_of(&*vm).await.reason;
    assert!(reason.contains("internal-error") && reason.contains("accelerator = \"tcg\""), "{reason}");
    vm.stop().await.unwrap();
    bench.assert_nothing_is_left();
}

#[tokio::test]
async fn a_qemu_that_hangs_up_and_lives_on_is_killed() {
    let Some(mut bench) = Bench::new(Guest::Halts) else { return };
    bench.config.path = impostor(
        &bench,
        r#"*qmp_capabilities*) echo "{\"return\": {}, \"id\": $id}"; exec </dev/null >/dev/null sleep 1000;;"#,
    );
    let vm = bench.boot().await.unwrap();
    let reason = exit_of(&*vm).await.reason;
    assert!(reason.contains("gave up its QMP connection"), "{reason}");
    bench.assert_nothing_is_left();
}

#[tokio::test]
async fn the_vsock_helper_lives_and_dies_with_its_vm() {
    let Some(daemon) = provided(&["cargo/bin/vhost-device-vsock"]) else { return };
    let Some(mut bench) = Bench::new(Guest::Halts) else { return };
    bench.config.vhost_user_vsock_daemon = daemon;
    bench.spec.channel = Channel::VhostUserVsock;
    bench.spec.memory = MemoryKind::Shared;

    let vm = bench.boot().await.unwrap();
    let AgentAddr::HybridVsock { socket } = vm.agent_address() else { panic!() };
    UnixStream::connect(&socket).await.unwrap();
    vm.stop().await.unwrap();
    bench.assert_nothing_is_left();

    clear(&bench.spec.dir);
    let vm = bench.boot().await.unwrap();
    let claimed = bench.claimed();
    let [Resource::Process { id: helper, .. }, Resource::Process { .. }] = &claimed[..] else {
        panic!("{claimed:?}")
    };
    send(helper.pid, Signal::SIGKILL);
    let reason = exit_of(&*vm).await.reason;
    assert!(reason.contains("vhost-device-vsock ended"), "{reason}");
    vm.stop().await.unwrap();
    bench.assert_nothing_is_left();

    clear(&bench.spec.dir);
    bench.config.cpu_features = "nonsense=on".into();
    assert!(bench.boot().await.is_err());
    bench.assert_nothing_is_left();

    clear(&bench.spec.dir);
    bench.config.vhost_user_vsock_daemon = "/bin/false".into();
    let error = bench.boot().await.map(|vm| vm.pid()).unwrap_err().to_string();
    assert!(error.contains("vhost-device-vsock ended: exit status: 1"), "{error}");
    bench.assert_nothing_is_left();
}

#[tokio::test]
async fn vms_share_one_image_and_cannot_write_it() {
    let (Some(mut one), Some(mut two)) = (Bench::new(Guest::Halts), Bench::new(Guest::Halts)) else { return };
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    for bench in [&mut one, &mut two] {
        let Boot::Kernel { rootfs, .. } = &mut bench.spec.boot;
        *rootfs = GuestRootfs::Image { path: image.path().into(), fstype: "ext4".into() };
    }
    let vms = [one.boot().await.unwrap(), two.boot().await.unwrap()];
    for (vm, bench) in vms.iter().zip([one, two]) {
        let open = fs::read_dir(format!("/proc/{}/fd", vm.pid())).unwrap().map(|fd| fd.unwrap().path());
        let image = open.filter(|fd| fs::read_link(fd).is_ok_and(|file| file == image.path()));
        let mut opened = 0;
        for fd in image {
            opened += 1;
            let info = fs::read_to_string(fd.to_str().unwrap().replace("/fd/", "/fdinfo/")).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            assert!(flags.trim().ends_with('0'), "opened read-only: {flags}");
        }
        assert!(opened > 0, "the image is open");
        vm.stop().await.unwrap();
        bench.assert_nothing_is_left();
    }
}

fn clear(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
}

#[tokio::test]
async fn a_kernel_that_panics_ends_its_vm_and_says_why() {
    let Some(kernel) = provided(&["guest/vmlinux"]) else { return };
    let Some(mut bench) = Bench::new(Guest::Halts) else { return };
    let Boot::Kernel { rootfs, .. } = bench.spec.boot.clone();
    bench.spec.boot = Boot::Kernel { kernel, rootfs, parameters: Vec::new() };
    let vm = bench.boot().await.unwrap();
    let reason = exit_of(&*vm).await.reason;
    assert!(reason.contains("the guest restarted"), "{reason}");
    assert!(reason.contains("Kernel panic - not syncing: VFS"), "no initrd that it knows: {reason}");
    bench.assert_nothing_is_left();
}

#[tokio::test]
async fn a_real_guest_s_agent_answers_on_the_serial_port() {
    // The initrd belongs to the small kernel where there is one.
    let kernel = provided(&["guest-own/vmlinux", "guest/vmlinux"]);
    let (Some(kernel), Some(initrd)) = (kernel, provided(&["guest/initrd.cpio"])) else {
        return;
    };
    let Some(mut bench) = Bench::new(Guest::Halts) else { return };
    bench.spec.size = VmSize { memory: MiB(512), max_memory: MiB(512), ..bench.spec.size };
    bench.spec.boot = Boot::Kernel {
        kernel,
        rootfs: GuestRootfs::Initrd(initrd),
        parameters: vec![format!("agent.server_addr=serial://{SERIAL_PORT_NAME}")],
    };
    let vm = bench.boot().await.unwrap();
    let AgentAddr::Serial { socket } = vm.agent_address() else { panic!() };
    let mut port = UnixStream::connect(&socket).await.unwrap();
    let hello = b"kata-serial-1 0123456789abcdef\n";
    port.write_all(hello).await.unwrap();
    let mut heard = Vec::new();
    let answer = async {
        while !heard.ends_with(hello) {
            heard.push(port.read_u8().await.unwrap());
        }
    };
    // Emulated on a crowded machine.
    let answered = timeout(Duration::from_secs(60), answer).await;
    vm.stop().await.unwrap();
    assert!(answered.is_ok(), "{}", String::from_utf8_lossy(&heard));
    bench.assert_nothing_is_left();
}

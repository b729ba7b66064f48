//! Too little of what a host has: memory for a VM, room on its disks, and many VMs at once. Containers get the error, the
//! runtime survives, and nothing is left.

use std::{
    path::Path,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use integration::{
    cgroups::{MemoryGroup, Parent},
    containerd::{Containerd, finish, processes},
    environment::Environment,
    event_recorder::EventRecorder,
    factory::Factory,
    kubelet::{KATA, KATA_SANDBOX, Kubelet},
    pressure::{Room, with_own_mounts},
};
use k8s_cri::v1::PodSandboxState;

/// What a VM is left of its limit when it begins to fill its memory.
const LEFT: u64 = 48 << 20;
const FULL: &str = "No space left on device";
const GROUPED: (&str, &str) = ("sandbox_cgroup_only", "true");
const KILLED: &str = "killed for want of memory on the host";

fn vm_of(id: &str) -> u32 {
    let name = format!("sandbox-{id}");
    let vm = processes().into_iter().find(|(_, line)| line.contains("qemu-system") && line.contains(&name));
    vm.expect("the sandbox has a VM").0
}

/// What an exec says, and its code.
fn exec(containerd: &Containerd, id: &str, name: &str, script: &str) -> (i32, String) {
    let finished = finish(containerd.command(containerd.exec_args(id, name, &["sh", "-c", script])), b"");
    (finished.code, finished.text() + &finished.stderr)
}

#[test]
fn a_vm_that_its_host_has_no_memory_for_is_said_to_have_been_killed_for_that() {
    let Some(factory) = Factory::open() else { return };
    let kata = factory.runtime("grouped", &[GROUPED]);
    let containerd = &factory.containerd;
    let events = EventRecorder::intercept(&containerd.dir().join("c.sock.ttrpc"));
    for round in 0..2 {
        let id = factory.id(&format!("want{round}"));
        containerd.run_detached(&kata, &[], &id, &["sleep", "1000"]);
        let group = MemoryGroup::of(vm_of(&id));
        assert!(group.path.ends_with(&id), "{group:?}");
        let limit = group.usage() + LEFT;
        group.limit_to(limit);

        let (code, said) = exec(containerd, &id, "greedy", "exec tail /dev/zero");
        assert_eq!(code, 137, "{said}");
        let told = events.until(&id, |told| told.topic == "exit" && told.detail == " init 137");
        let told: Vec<_> = told.iter().map(|told| format!("{}{}", told.topic, told.detail)).collect();
        let expected = ["create", "start", "exec-added greedy", "exec-started greedy", "oom"];
        assert_eq!(told[..expected.len()], expected);
        assert!(told.contains(&"exit greedy 137".into()), "{told:?}");
        let why = format!("{KILLED} (cgroup {}, limit {} MiB)", group.path.display(), limit >> 20);
        containerd.wait_for("the reason in the log", || {
            let log = containerd.log_of_all();
            log.lines().any(|line| line.contains("level=error") && line.contains(&id) && line.contains(&why))
        });
        containerd.remove(&id);
        containerd.assert_gone(&id);
        assert!(!group.path.exists(), "{group:?}");
    }
    factory.good_start(&kata, "after");
}

#[test]
fn a_limit_that_no_vm_fits_into_refuses_the_container_and_leaves_nothing() {
    let Some(factory) = Factory::open() else { return };
    let kata = factory.runtime("grouped", &[GROUPED]);
    factory.good_start(&kata, "template");
    let containerd = &factory.containerd;
    let parent = Parent::make();
    MemoryGroup::at(parent.memory()).limit_to(64 << 20);
    let id = factory.id("tight");
    let group = format!("/{}/{id}", parent.name);
    let refused = containerd.run(&kata, &["--null-io", "--cgroup", &group], &id, &["true"], b"");
    println!("under a tight limit: {} {:?}", refused.code, refused.stderr);
    assert_ne!(refused.code, 0);
    containerd.assert_gone(&id);
    let why = format!("{KILLED} (cgroup {}/{id}, limit 64 MiB)", parent.memory().display());
    let told = || containerd.log_of_all().lines().any(|line| line.contains(&id) && line.contains(&why));
    containerd.wait_for("the reason in the log", || refused.stderr.contains(&why) || told());
    containerd.wait_for("the end of the group", || !parent.has(&id));
    factory.good_start(&kata, "after");
}

fn ends_for_want_of_memory(release: &str, handler: &str) {
    let changes = [("sandbox_cgroup_only", "sandbox_cgroup_only = true".to_owned())];
    let Some(kubelet) = Kubelet::start_with(release, &changes) else { return };
    let parent = Parent::make();
    let mut pod_config = kubelet.pod("wants");
    pod_config.linux.as_mut().unwrap().cgroup_parent = format!("/{}", parent.name);
    let pod = kubelet.run_pod(handler, &pod_config).unwrap();
    let [first, greedy] = ["first", "greedy"].map(|name| {
        let script = "until [ -e /dev/shm/go ]; do sleep 0.1; done; exec tail /dev/zero";
        kubelet.run(&pod, &kubelet.script(name, script), &pod_config).unwrap()
    });
    let group = MemoryGroup::of(u32::try_from(kubelet.vm_of(&pod)).expect("a pid"));
    group.limit_to(group.usage() + LEFT);
    kubelet.inside(&greedy, "touch /dev/shm/go");
    for container in [&first, &greedy] {
        let status = kubelet.ended(container);
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{release} {handler}");
    }
    let is_ready = || kubelet.pod_status(&pod).unwrap().state == PodSandboxState::SandboxReady as i32;
    kubelet.containerd.wait_for("the pod to be known for dead", || !is_ready());
    assert!(kubelet.containerd.log_of_all().contains(KILLED));
    kubelet.remove_pod(&pod).unwrap();
    kubelet.containerd.assert_gone(&pod);
    kubelet.containerd.wait_for("the end of the group", || !parent.has(&pod));
}

#[test]
fn a_pods_containers_end_as_killed_for_want_of_memory_when_its_vm_was() {
    ends_for_want_of_memory("", KATA);
}

#[test]
fn a_pods_containers_end_as_killed_for_want_of_memory_under_containerd_2() {
    ends_for_want_of_memory("2", KATA_SANDBOX);
}

#[test]
fn a_full_disk_is_its_containers_error_and_passes() {
    with_own_mounts(|| {
        let Some(env) = Environment::find() else { return };
        let mut room = None;
        let containerd = Containerd::start_with(&env, None, None, |dir| {
            let snapshots = dir.join("root/io.containerd.snapshotter.v1.overlayfs");
            room = Some(Room::mount(&snapshots, 32 << 10, 2000));
            String::new()
        });
        let room = room.expect("mounted");
        let factory = Factory { containerd, env };
        let kata = factory.runtime("disk", &[]);
        let containerd = &factory.containerd;
        let writer = factory.id("writer");
        containerd.run_detached(&kata, &[], &writer, &["sleep", "1000"]);

        // By a container itself.
        let (code, said) = exec(containerd, &writer, "fills", "dd if=/dev/zero of=/big bs=64k");
        assert!(code != 0 && said.contains(FULL), "{code} {said}");
        assert_eq!(exec(containerd, &writer, "lives", "echo lives; cat /etc/passwd >/dev/null").0, 0);
        // Whether a snapshot can still be made is containerd's; what is told of it is clear.
        room.fill();
        let late = factory.id("late");
        let started = containerd.run(&kata, &["--null-io"], &late, &["sh", "-c", "echo x >/x"], b"");
        assert_ne!(started.code, 0, "{}", started.stderr);
        println!("on a full disk: {} {:?}", started.code, started.stderr);
        containerd.assert_gone(&late);
        containerd.ctr(["container", "rm", &late]);

        room.clear();
        assert_eq!(exec(containerd, &writer, "clears", "rm /big").0, 0);
        // The daemon behind a share holds what was removed until the guest's kernel has forgotten it.
        let mut tries = 0;
        containerd.wait_for("room for a file", || {
            tries += 1;
            exec(containerd, &writer, &format!("try{tries}"), "echo x >/small && cat /small")
                == (0, "x\n".into())
        });
        factory.good_start(&kata, "after");
        containerd.remove(&writer);
        containerd.assert_gone(&writer);
    });
}

/// With little room below `full`, where the runtime keeps what is its own.
fn outlives_a_full(full: &str) {
    with_own_mounts(|| {
        if Environment::find().is_none() {
            return;
        }
        let room = Room::mount(Path::new(full), 1 << 10, 400);
        let Some(factory) = Factory::open() else { return };
        let kata = factory.runtime("full", &[]);
        let containerd = &factory.containerd;
        let [alive, removed] = ["alive", "removed"].map(|name| {
            let id = factory.id(name);
            containerd.run_detached(&kata, &[], &id, &["sleep", "1000"]);
            id
        });

        room.fill();
        for id in [&alive, &removed] {
            assert_eq!(exec(containerd, id, "lives", "echo lives"), (0, "lives\n".into()));
        }
        let refused = factory.id("refused");
        let started = containerd.run(&kata, &["--null-io"], &refused, &["true"], b"");
        assert!(started.code != 0 && started.stderr.contains(FULL), "{} {}", started.code, started.stderr);
        assert!(started.stderr.contains(full), "it says where: {}", started.stderr);
        containerd.assert_gone(&refused);
        containerd.ctr(["container", "rm", &refused]);

        // What is removed makes room, which others take at once.
        let killed = containerd.ctr(["task", "kill", "--signal", "KILL", &removed]);
        assert_eq!(killed.code, 0, "{}", killed.stderr);
        room.fill();
        containerd.remove(&removed);
        containerd.assert_gone(&removed);
        room.clear();
        room.fill();
        assert_eq!(exec(containerd, &alive, "still", "echo lives"), (0, "lives\n".into()));

        room.clear();
        factory.good_start(&kata, "after");
        containerd.remove(&alive);
        containerd.assert_gone(&alive);
    });
}

#[test]
fn a_container_outlives_a_run_that_is_full_and_is_removed_nevertheless() {
    outlives_a_full("/run/vc");
}

#[test]
fn a_container_outlives_a_full_place_for_shares_and_is_removed_nevertheless() {
    outlives_a_full("/run/kata-containers");
}

#[test]
fn a_full_volume_is_its_containers_error() {
    with_own_mounts(|| {
        let Some(factory) = Factory::open() else { return };
        let kata = factory.runtime("volume", &[]);
        let volume = factory.containerd.dir().join("volume");
        let room = Room::mount(&volume, 1 << 10, 100);
        let mount = format!("type=bind,src={},dst=/v,options=rbind:rw", volume.display());
        let id = factory.id("volume");
        factory.containerd.run_detached(&kata, &["--mount", &mount], &id, &["sleep", "1000"]);
        for (round, fill) in
            ["dd if=/dev/zero of=/v/big bs=16k", "i=0; while echo >/v/$i; do i=$((i+1)); done"]
                .into_iter()
                .enumerate()
        {
            let (_, said) = exec(&factory.containerd, &id, &format!("fills{round}"), fill);
            assert!(said.contains(FULL), "{said}");
            let mut tries = 0;
            factory.containerd.wait_for("room for a file", || {
                tries += 1;
                exec(&factory.containerd, &id, &format!("try{round}-{tries}"), "rm -f /v/*; echo x >/v/x").0
                    == 0
            });
        }
        drop(room);
        factory.containerd.remove(&id);
        factory.containerd.assert_gone(&id);
    });
}

const FLEET: usize = 20;

#[test]
fn twenty_vms_live_at_once() {
    let Some(factory) = Factory::open() else { return };
    let kata = factory.runtime("fleet", &[("default_memory", "256")]);
    factory.start(&kata, "template", &["true"]).assert_ended_well();
    let ids: Vec<String> = (0..FLEET).map(|number| factory.id(&format!("fleet{number}"))).collect();
    let containerd = &factory.containerd;
    let at_once = |what: &str, work: &(dyn Fn(&str) + Sync)| {
        let began = Instant::now();
        thread::scope(|scope| {
            for id in &ids {
                scope.spawn(move || work(id));
            }
        });
        println!("{FLEET} VMs, {what}: {:.1?}", began.elapsed());
    };
    at_once("started", &|id| containerd.run_detached(&kata, &[], id, &["sleep", "1000"]));
    let live = processes()
        .iter()
        .filter(|(_, line)| ids.iter().any(|id| line.contains(&format!("sandbox-{id}"))))
        .count();
    assert_eq!(live, FLEET);
    at_once("an exec in each", &|id| {
        assert_eq!(
            exec(containerd, id, "speaks", "hostname >/dev/null; echo here"),
            (0, "here\n".into()),
            "{id}"
        );
    });
    at_once("removed", &|id| containerd.remove(id));
    for id in &ids {
        containerd.assert_gone(id);
    }
}

/// Keeps all processors busy until it is dropped.
struct Load {
    spinners: Vec<Child>,
}

impl Load {
    fn put() -> Self {
        let spin = |_| Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("run a shell");
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self { spinners: (0..3 * processors).map(spin).collect() }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for spinner in &mut self.spinners {
            let _ = spinner.kill(); // It runs for ever.
            let _ = spinner.wait();
        }
    }
}

#[test]
fn a_guest_that_was_made_while_its_host_was_busy_has_a_clock_that_runs_right() {
    let Some(factory) = Factory::open() else { return };
    let kata = factory.runtime("clock", &[]);
    {
        let _load = Load::put();
        factory.start(&kata, "template", &["true"]).assert_made_a_template();
    }
    let id = factory.id("clock");
    factory.containerd.run_detached(&kata, &[], &id, &["sleep", "1000"]);
    let inside = |name: &str, script: &str| {
        let (code, said) = exec(&factory.containerd, &id, name, script);
        assert_eq!(code, 0, "{script}: {said}");
        said.trim().to_owned()
    };
    let uptime = |name: &str| {
        let before = Instant::now();
        let uptime: f64 = inside(name, "cut -d ' ' -f 1 /proc/uptime").parse().expect("a number");
        (before, uptime, Instant::now())
    };
    let (first, began, first_end) = uptime("first");
    thread::sleep(Duration::from_secs(3));
    let (last, ended, last_end) = uptime("last");
    let least = last.duration_since(first_end).as_secs_f64();
    let most = last_end.duration_since(first).as_secs_f64();
    let guests = ended - began;
    println!("{guests} seconds in the guest, {least} to {most} on the host");
    assert!(guests > least * 0.98 - 0.05 && guests < most * 1.02 + 0.05, "{guests} of {least} to {most}");
    // One that reads the host's counter was told how fast that is.
    let source = inside("source", "cat /sys/devices/system/clocksource/clocksource0/current_clocksource");
    let command_line = inside("words", "cat /proc/cmdline");
    assert_eq!(
        source.starts_with("tsc"),
        command_line.contains(" tsc_early_khz="),
        "{source}: {command_line}"
    );
    factory.containerd.remove(&id);
    factory.containerd.assert_gone(&id);
}

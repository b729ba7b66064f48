//! What is done to a living container, in a real VM: standing still, new limits, figures, its processes, running out of
//! memory; and what containerd is told of it, also when it is restarted meanwhile.

use std::{
    fs::{self, File},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use containerd_shim_protos::{
    api::{KillRequest, PidsRequest, PidsResponse, StatsRequest, UpdateTaskRequest},
    cgroups::metrics as v1,
    cgroups_v2::metrics as v2,
    protobuf::{Message, well_known_types::any::Any},
    shim_async::{Client, TaskClient},
};
use integration::{
    containerd::{Containerd, Finished, Runtime, finish},
    environment::Environment,
    event_recorder::EventRecorder,
};
use ttrpc::context;

const PATIENCE: Duration = Duration::from_secs(60);

/// A containerd with a recorder before its event service.
struct World {
    containerd: Containerd,
    events: EventRecorder,
    kata: Runtime,
}

fn set_up() -> Option<World> {
    let env = Environment::find()?;
    let containerd = Containerd::start(&env, None);
    // A template of its own: what other tests do to theirs must not make this VM one that boots, and cannot grow.
    let template = format!("template_path = \"{}\"", containerd.dir().join("template").display());
    let kata = Runtime::Kata(env.configuration_with(containerd.dir(), "own", &[("template_path", template)]));
    let events = EventRecorder::intercept(&containerd.dir().join("c.sock.ttrpc"));
    Some(World { containerd, events, kata })
}

impl World {
    fn start(&self, options: &[&str], id: &str, script: &str) {
        self.containerd.run_detached(&self.kata, options, id, &["sh", "-c", script]);
    }

    fn good(&self, args: &[&str]) -> Finished {
        let finished = self.containerd.ctr(args);
        assert_eq!(finished.code, 0, "{args:?}: {}\n{}", finished.stderr, self.containerd.log());
        finished
    }

    /// What a script in the container prints.
    fn inside(&self, id: &str, name: &str, script: &str) -> String {
        let command = self.containerd.command(self.containerd.exec_args(id, name, &["sh", "-c", script]));
        let finished = finish(command, b"");
        assert_eq!(finished.code, 0, "{script}: {}", finished.stderr);
        finished.text()
    }

    /// Calls the shim of a container as containerd does.
    fn call<T>(&self, id: &str, call: impl AsyncFnOnce(TaskClient) -> ttrpc::Result<T>) -> ttrpc::Result<T> {
        let state = self.containerd.dir().join("state/io.containerd.runtime.v2.task");
        let address = state.join(self.containerd.namespace()).join(id).join("address");
        let address = fs::read_to_string(address).expect("read the shim's address");
        let executor =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an executor");
        executor.block_on(async {
            let client = Client::connect(&address).await.expect("connect to the shim");
            call(TaskClient::new(client)).await
        })
    }

    fn update(&self, id: &str, resources: &str) {
        let resources = Any { value: resources.as_bytes().into(), ..Default::default() };
        let request =
            UpdateTaskRequest { id: id.into(), resources: Some(resources).into(), ..Default::default() };
        self.call(id, async |task| task.update(context::with_duration(PATIENCE), &request).await)
            .expect("updated");
    }

    fn pids(&self, id: &str) -> PidsResponse {
        let request = PidsRequest { id: id.into(), ..Default::default() };
        self.call(id, async |task| task.pids(context::with_duration(PATIENCE), &request).await).expect("pids")
    }
}

fn unique(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

fn wait_until(what: &str, fact: impl Fn() -> bool) {
    let began = Instant::now();
    while !fact() {
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A container that counts on its output, and the file that this goes to.
struct Counter {
    client: Child,
    output: std::path::PathBuf,
}

impl Counter {
    fn start(world: &World, id: &str) -> Self {
        let output = world.containerd.dir().join(format!("{id}.out"));
        let mut args = world.containerd.run_args(&world.kata, &[], id);
        args.extend(
            ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"].map(str::to_owned),
        );
        let mut command: Command = world.containerd.command(args);
        command.stdin(Stdio::null()).stdout(File::create(&output).expect("make the output"));
        let counter = Self { client: command.spawn().expect("run ctr"), output };
        wait_until("the count", || counter.count() > 5);
        counter
    }

    fn count(&self) -> usize {
        fs::read_to_string(&self.output).unwrap_or_default().lines().count()
    }
}

#[test]
fn a_paused_container_stands_still_until_it_is_resumed_or_killed() {
    let Some(world) = set_up() else { return };
    let id = unique("paused");
    let mut counter = Counter::start(&world, &id);
    world.good(&["task", "pause", &id]);
    assert!(world.good(&["task", "ls"]).text().contains("PAUSED"));
    thread::sleep(Duration::from_millis(500)); // For what was on its way.
    let count = counter.count();
    thread::sleep(Duration::from_secs(1));
    assert_eq!(counter.count(), count, "it counts on");
    let exec = finish(world.containerd.command(world.containerd.exec_args(&id, "e1", &["true"])), b"");
    assert!(exec.stderr.contains("paused state"), "{}", exec.stderr);
    assert!(world.containerd.ctr(["task", "pause", &id]).stderr.contains("cannot pause a paused container"));

    world.good(&["task", "resume", &id]);
    wait_until("it to count on", || counter.count() > count + 5);
    let numbers = fs::read_to_string(&counter.output).expect("read the output");
    assert!(numbers.lines().enumerate().all(|(place, line)| line == (place + 1).to_string()), "{numbers}");
    assert!(world.containerd.ctr(["task", "resume", &id]).stderr.contains("cannot resume a running process"));

    // A signal that it could refuse waits, and so does everything else of it; the last one does not.
    world.good(&["task", "pause", &id]);
    world.good(&["task", "kill", "--signal", "SIGURG", &id]);
    let killed = Instant::now();
    world.good(&["task", "kill", "--signal", "SIGKILL", &id]);
    assert_eq!(counter.client.wait().expect("wait for ctr").code(), Some(137));
    assert!(killed.elapsed() < Duration::from_secs(20));
    world.containerd.remove(&id);
    world.containerd.assert_gone(&id);
    let topics = world.events.topics(&id);
    assert_eq!(
        topics,
        ["create", "start", "paused", "resumed", "paused", "exit init 137", "delete"],
        "in this order, each once"
    );
}

#[test]
fn limits_go_up_down_and_away_and_figures_and_processes_are_told() {
    let Some(world) = set_up() else { return };
    let id = unique("limits");
    let group =
        ["--mount", "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro", "--memory-limit", "134217728"];
    world.start(&group, &id, "dd if=/dev/zero of=/dev/shm/x bs=1M count=20 2>/dev/null; sleep 1000 & wait");
    let read = |name: &str| {
        let files = "memory.max memory.low cpu.max cpu.weight pids.max cpuset.cpus";
        let text =
            world.inside(&id, name, &format!("cd /sys/fs/cgroup; for f in {files}; do echo $(cat $f); done"));
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(read("before")[0], "134217728");
    world.update(
        &id,
        r#"{"memory":{"limit":268435456,"reservation":1048576},"cpu":{"quota":50000,"period":100000,"shares":2048,"cpus":"0-63"},"pids":{"limit":50}}"#,
    );
    let up = read("up");
    assert_eq!(up[..5], ["268435456", "1048576", "50000 100000", "79", "50"]);
    assert!(!up[5].contains("63"), "{}: the guest has no such CPU", up[5]);
    world.update(&id, r#"{"memory":{"limit":104857600},"cpu":{"quota":20000},"pids":{"limit":20}}"#);
    assert_eq!(read("down")[..5], ["104857600", "1048576", "20000 100000", "79", "20"]);
    world.update(&id, r#"{"memory":{"limit":-1},"cpu":{"quota":-1},"pids":{"limit":-1}}"#);
    assert_eq!(read("none")[..5], ["max", "1048576", "max 100000", "79", "max"]);
    world.update(&id, r#"{"unified":{"memory.high":"209715200"}}"#);
    assert_eq!(world.inside(&id, "high", "cat /sys/fs/cgroup/memory.high").trim(), "209715200");

    // The processes: the init's number is the task's, all others' are of no process of this host.
    let sleep = world.containerd.exec_args(&id, "napper", &["sleep", "1000"]);
    let mut napper = world.containerd.command(sleep).stdin(Stdio::null()).spawn().expect("run ctr");
    let listed = || world.pids(&id).processes;
    wait_until("the exec", || listed().iter().any(|process| process.info.is_some()));
    let listed = listed();
    assert!(listed.len() >= 3, "init, its child, the exec: {listed:?}");
    assert!(
        fs::exists(format!("/proc/{}", listed[0].pid)).expect("look into /proc"),
        "the first is the hypervisor"
    );
    assert!(listed[1..].iter().all(|process| process.pid > 1_000_000_000), "{listed:?}");
    let details: Vec<_> = listed.iter().filter_map(|process| process.info.as_ref()).collect();
    assert_eq!(details.len(), 1);
    assert_eq!(details[0].type_url, "containerd.runc.v1.ProcessDetails");
    assert_eq!(details[0].value, b"\x0a\x06napper");
    assert!(world.good(&["task", "ps", &id]).text().contains("napper"));

    // The figures, in the terms of this host.
    let request = StatsRequest { id: id.clone(), ..Default::default() };
    let stats = world.call(&id, async |task| task.stats(context::with_duration(PATIENCE), &request).await);
    let stats = stats.expect("stats").stats.into_option().expect("metrics");
    let (memory, cpu, pids) = if stats.type_url == "io.containerd.cgroups.v1.Metrics" {
        let metrics = v1::Metrics::parse_from_bytes(&stats.value).expect("metrics");
        (metrics.memory.usage.usage, metrics.cpu.usage.total, metrics.pids.current)
    } else {
        assert_eq!(stats.type_url, "io.containerd.cgroups.v2.Metrics");
        let metrics = v2::Metrics::parse_from_bytes(&stats.value).expect("metrics");
        (metrics.memory.usage, metrics.cpu.usage_usec * 1000, metrics.pids.current)
    };
    assert!((20 << 20..134 << 20).contains(&memory), "{memory} bytes: 20 MiB are in its shared memory");
    assert!((1_000_000..100_000_000_000).contains(&cpu), "{cpu} ns");
    assert!((3..20).contains(&pids), "{pids} processes");
    assert!(world.good(&["task", "metrics", &id]).text().contains(&id));

    // A signal for all ends the exec, which nobody named, and the init.
    let kill = KillRequest { id: id.clone(), signal: 9, all: true, ..Default::default() };
    world.call(&id, async |task| task.kill(context::with_duration(PATIENCE), &kill).await).expect("killed");
    assert_eq!(napper.wait().expect("wait for ctr").code(), Some(137));
    wait_until("its end", || world.good(&["task", "ls"]).text().contains("STOPPED"));
    // The VM is listed for it: containerd from 1.7 on throws away what lists nothing when it starts.
    let listed = world.pids(&id).processes;
    let is_vm = |pid: u32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("qemu"))
    };
    assert!(matches!(&listed[..], [only] if is_vm(only.pid)), "{listed:?}");
    world.containerd.remove(&id);
    world.containerd.assert_gone(&id);
}

#[test]
fn a_limit_beyond_the_vm_makes_the_vm_grow() {
    let Some(world) = set_up() else { return };
    let id = unique("grow");
    world.start(&["--memory-limit", "134217728"], &id, "sleep 1000");
    let total = |name: &str| -> u64 {
        let text = world.inside(&id, name, "awk '/MemTotal/ {print $2}' /proc/meminfo; nproc");
        text.lines().next().and_then(|number| number.parse().ok()).expect("a number")
    };
    let before = total("before");
    world.update(&id, r#"{"memory":{"limit":536870912},"cpu":{"quota":100000,"period":100000}}"#);
    let after = total("after");
    assert!(after >= before + 350_000, "{before} kB, then {after} kB");
    world.containerd.remove(&id);
    world.containerd.assert_gone(&id);
}

#[test]
fn running_out_of_memory_is_told_before_the_end_that_it_brings() {
    let Some(world) = set_up() else { return };
    let id = unique("oom");
    let limit = ["--memory-limit", "33554432"];
    world.start(&limit, &id, "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done");
    let told = world.events.until(&id, |told| told.topic == "exit");
    let topics: Vec<_> = told.iter().map(|told| format!("{}{}", told.topic, told.detail)).collect();
    assert_eq!(topics, ["create", "start", "oom", "exit init 137"]);
    world.containerd.remove(&id);
    world.containerd.assert_gone(&id);

    // A child of it: the container lives on, and each kill is told.
    let id = unique("oom-child");
    let eat = "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done";
    world.start(&limit, &id, &format!("sh -c '{eat}'; sh -c '{eat}'; sleep 1000"));
    world.events.until(&id, |told| told.topic == "oom");
    wait_until("the second", || {
        let told = world.events.until(&id, |told| told.topic == "oom");
        told.iter().filter(|told| told.topic == "oom").count() == 2
    });
    world.containerd.remove(&id);
    world.containerd.assert_gone(&id);
}

#[test]
fn a_restart_of_containerd_loses_no_event_and_repeats_none() {
    let Some(mut world) = set_up() else { return };
    let id = unique("restart");
    world.start(&[], &id, "sleep 3; exit 5");
    world.events.until(&id, |told| told.topic == "start");
    world.events.close();
    world.containerd.stop();
    // The container ends while nobody listens.
    thread::sleep(Duration::from_secs(8));
    let moved = world.containerd.dir().join("again.ttrpc");
    world.containerd.start_again(&format!("[ttrpc]\naddress = \"{}\"\n", moved.display()));
    world.events.serve(&moved);
    world.events.until(&id, |told| told.topic == "exit");
    world.containerd.remove(&id);
    assert_eq!(world.events.topics(&id), ["create", "start", "exit init 5", "delete"]);
    world.containerd.assert_gone(&id);
}

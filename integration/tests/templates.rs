//! Virtual machines that are clones of a template, under a real containerd: when they are, that nobody can tell them from
//! machines that were booted, and that no two are alike.

use std::{
    collections::HashSet,
    fs, thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use integration::{
    containerd::{Finished, Runtime, finish},
    conversation::{Answer, Conversation},
    factory::{Factory, mode_and_owner, phases},
};

/// What the issue grants to a clone's clock.
const CLOCK_TOLERANCE: f64 = 0.05;

#[test]
fn the_first_vm_leaves_a_template_and_later_ones_are_its_clones() {
    let Some(factory) = Factory::open() else { return };
    let never = factory.runtime("never", &[("enable_template", "false")]);
    factory.good_start(&never, "never").assert_was_booted();
    assert!(!factory.path().exists(), "enable_template = false makes no templates");

    let plain = factory.runtime("plain", &[]);
    factory.good_start(&plain, "first").assert_made_a_template();
    let template = factory.template();
    assert_eq!(mode_and_owner(&factory.path()), (0o700, 0));
    assert_eq!(mode_and_owner(&template), (0o700, 0));
    for file in ["memory", "state", "template.json"] {
        assert_eq!(mode_and_owner(&template.join(file)), (0o600, 0), "{file}");
    }
    assert_eq!(fs::read_dir(&template).expect("read the template").count(), 3);
    factory.good_start(&plain, "second").assert_is_a_clone();

    // Another configuration, another template, and each has its own.
    let changes = [("kernel_params", "\"sysrq_always_enabled\""), ("enable_template", "true")];
    let other = factory.runtime("other", &changes);
    let start = factory.start(&other, "other", &["cat", "/proc/cmdline"]);
    start.assert_ended_well();
    start.assert_made_a_template();
    assert!(start.finished.text().contains("sysrq_always_enabled"), "{}", start.finished.text());
    assert_eq!(factory.templates().len(), 2);
    let start = factory.start(&plain, "plain", &["cat", "/proc/cmdline"]);
    start.assert_is_a_clone();
    assert!(!start.finished.text().contains("sysrq_always_enabled"), "{}", start.finished.text());
    factory.good_start(&other, "other").assert_is_a_clone();
}

#[test]
fn a_vm_that_is_larger_than_the_template_is_a_clone_that_grew() {
    let Some(factory) = Factory::open() else { return };
    let runtime = factory.runtime("grown", &[]);
    let id = factory.id("grown");
    let options = ["--cpus", "0.5", "--memory-limit", "536870912"];
    let script = "nproc; awk '/MemTotal/ {print $2}' /proc/meminfo";
    let finished = factory.containerd.run(&runtime, &options, &id, &["sh", "-c", script], b"");
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    factory.containerd.assert_gone(&id);
    let log = factory.log(&id);
    let found = ["template-make", "clone-wake", "guest-boot"].map(|name| phases(&log, name));
    assert_eq!(found, [1, 1, 0], "{log}");
    let text = finished.text();
    let (cpus, memory) = text.trim().split_once('\n').expect("two lines");
    // One and a half, rounded up, as far as the host has them; 2048 MiB and 512, less what the kernel keeps.
    let host = thread::available_parallelism().expect("processors").get();
    assert_eq!(cpus.parse::<usize>().expect("a number"), host.min(2));
    let memory: u64 = memory.parse().expect("a number");
    assert!((2_450_000..2_621_440).contains(&memory), "{memory} kB");
    // A VM of the usual size is a clone of the same template.
    factory.good_start(&runtime, "usual").assert_is_a_clone();
}

#[test]
fn two_configurations_in_turn_leave_each_other_their_templates() {
    let Some(factory) = Factory::open() else { return };
    // As somebody has them who looks for a fault beside what runs all the time.
    let usual = factory.runtime("usual", &[]);
    let debug = factory.runtime("debug", &[("hypervisor.qemu.enable_debug", "true")]);
    factory.good_start(&usual, "usual").assert_made_a_template();
    factory.good_start(&debug, "debug").assert_made_a_template();
    factory.good_start(&usual, "usual").assert_is_a_clone();
    factory.good_start(&debug, "debug").assert_is_a_clone();
}

#[test]
fn clones_are_nobodys_twins() {
    let Some(factory) = Factory::open() else { return };
    // With the processor's own random numbers even twins would differ.
    let features = if cfg!(target_arch = "x86_64") { "\"pmu=off,-rdrand,-rdseed\"" } else { "\"pmu=off\"" };
    let runtime = factory.runtime("twins", &[("cpu_features", features)]);
    factory.good_start(&runtime, "template");
    // Port 4000 is 0FA0. The connections are over at once; what is left of them tells their ports.
    let script = r#"
        echo urandom $(head -c 32 /dev/urandom | sha256sum)
        echo boot_id $(cat /proc/sys/kernel/random/boot_id)
        echo uuid $(cat /proc/sys/kernel/random/uuid)
        for part in stack heap vdso; do echo $part $(grep "\[$part\]" /proc/self/maps | cut -d' ' -f1); done
        cd /proc/net
        nc -ll -p 4000 -e true &
        i=0; until [ $i -gt 500 ] || grep -q ':0FA0 0*:0000 0A' tcp tcp6; do usleep 10000; i=$((i+1)); done
        for i in 1 2 3; do nc -w 5 127.0.0.1 4000 </dev/null; done
        kill $!
        ends() { awk '$4 != "0A" {print $2; print $3}' tcp tcp6 | grep -o ':....$' | grep -v :0FA0 | sort -u; }
        echo ports $(ends)
        echo hostname $(hostname)
        for link in /sys/class/net/*; do echo mac $(cat $link/address); done"#;
    let starts = [(); 3].map(|()| factory.start(&runtime, "twin", &["sh", "-c", script]));
    for start in &starts {
        start.assert_ended_well();
        start.assert_is_a_clone();
    }
    for s in &starts {
        eprintln!("{}", s.finished.text());
    }
    let value = |finished: &Finished, name: &str| {
        let text = finished.text();
        let value =
            text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
        assert!(!value.is_empty(), "{name} is missing: {text} {}", finished.stderr);
        value
    };
    for name in ["urandom ", "boot_id ", "uuid ", "stack ", "heap ", "vdso ", "ports "] {
        let values: HashSet<_> = starts.iter().map(|start| value(&start.finished, name)).collect();
        assert_eq!(values.len(), starts.len(), "clones share their {name}: {values:?}");
    }
    let ports = value(&starts[0].finished, "ports ");
    assert_eq!(ports.split(' ').count(), 3, "{ports}");
    let host = nix::sys::utsname::uname().expect("uname").nodename().to_string_lossy().into_owned();
    for start in &starts {
        assert_eq!(value(&start.finished, "hostname "), host);
    }
    let addresses = |finished: &Finished| -> Vec<String> {
        let text = finished.text();
        let addresses = text.lines().filter_map(|line| line.strip_prefix("mac "));
        addresses.filter(|address| address.chars().any(|c| c != '0' && c != ':')).map(str::to_owned).collect()
    };
    let all: Vec<_> = starts.iter().flat_map(|start| addresses(&start.finished)).collect();
    let different: HashSet<_> = all.iter().collect();
    assert_eq!(different.len(), all.len(), "clones share hardware addresses: {all:?}");
}

/// Wall clock and time since the boot, of a guest.
fn times(line: &str) -> (f64, f64) {
    let mut words = line.split(' ').map(|word| word.parse().unwrap_or_else(|_| panic!("no time: {line:?}")));
    (words.next().expect("two"), words.next().expect("two"))
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// Tells the wall clock and the time since the boot, by shell builtins alone: to start a program takes an emulated guest
/// tens of milliseconds.
const NOW: &str = "read up rest </proc/uptime; echo $EPOCHREALTIME $up";

/// A container that runs `before` and then tells its times whenever it is asked.
fn clock(factory: &Factory, runtime: &Runtime, id: &str, before: &str) -> Conversation {
    let script = format!("{before} while read line; do {NOW}; done");
    let mut args = factory.containerd.run_args(runtime, &["--rm"], id);
    args.extend(["sh", "-c", script.as_str()].map(str::to_owned));
    Conversation::start(factory.containerd.command(args))
}

/// Asserts that the guest's wall clock is the host's.
fn assert_right(answer: &Answer) {
    let (wall, _) = times(&answer.line);
    let (asked, heard) = (seconds(answer.asked), seconds(answer.heard));
    assert!(
        wall > asked - CLOCK_TOLERANCE && wall < heard + CLOCK_TOLERANCE,
        "the guest's clock is off: it says {wall}, the host's {asked} to {heard}"
    );
}

#[test]
fn the_clocks_of_a_clone_are_right_from_the_start_and_go_evenly() {
    let Some(factory) = Factory::open() else { return };
    let runtime = factory.runtime("clocks", &[]);
    let made = SystemTime::now();
    factory.good_start(&runtime, "template");
    // Older than what the clocks may be off by, so that a clone that kept the template's time is found out.
    assert!(made.elapsed().expect("time goes on").as_secs_f64() > 4.0 * CLOCK_TOLERANCE);
    let id = factory.id("clocks");
    let before = format!("i=0; while [ $i -lt 200 ]; do {NOW}; i=$((i+1)); done;");
    let mut guest = clock(&factory, &runtime, &id, &before);

    let first: Vec<_> = (0..200).map(|_| times(&guest.hear())).collect();
    // Uptime is told in hundredths of a second.
    for (one, next) in first.iter().zip(&first[1..]) {
        let (wall, monotonic) = (next.0 - one.0, next.1 - one.1);
        assert!(wall >= 0.0 && monotonic >= 0.0, "time goes back: {one:?}, {next:?}");
        assert!((wall - monotonic).abs() < CLOCK_TOLERANCE, "one clock jumps: {one:?}, {next:?}");
    }
    let (begin, end) = (first[0], first[first.len() - 1]);
    assert!(((end.0 - begin.0) - (end.1 - begin.1)).abs() < CLOCK_TOLERANCE, "{begin:?} {end:?}");

    for _ in 0..5 {
        assert_right(&guest.ask("now"));
    }
    let one = guest.ask("now");
    thread::sleep(Duration::from_secs(1));
    let next = guest.ask("now");
    let passed = times(&next.line).1 - times(&one.line).1;
    let least = seconds(next.asked) - seconds(one.heard);
    let most = seconds(next.heard) - seconds(one.asked);
    assert!(
        passed > least - 0.1 && passed < most + 0.1,
        "{passed} for the guest, {least} to {most} for the host"
    );
    assert!(guest.end().success());
    factory.containerd.assert_gone(&id);
    let log = factory.log(&id);
    assert_eq!((phases(&log, "template-find"), phases(&log, "clone-wake")), (1, 1), "{log}");
}

#[test]
fn first_starts_at_once_make_one_template() {
    let Some(factory) = Factory::open() else { return };
    let runtime = factory.runtime("race", &[]);
    let starts = at_once(4, || factory.good_start(&runtime, "race"));
    let made: usize = starts.iter().map(|start| start.phases("template-make")).sum();
    assert_eq!(made, 1, "one template is made");
    for start in &starts {
        assert_eq!(start.phases("clone-wake") + start.phases("guest-boot"), 1, "{}", start.log);
        assert_eq!(start.warnings(), Vec::<&str>::new());
    }
    factory.template();
    factory.good_start(&runtime, "after").assert_is_a_clone();
}

#[test]
fn many_clones_at_once_all_run_and_know_the_time() {
    let Some(factory) = Factory::open() else { return };
    let runtime = factory.runtime("many", &[]);
    factory.good_start(&runtime, "template").assert_made_a_template();
    let guests = at_once(20, || {
        let id = factory.id("many");
        let mut guest = clock(&factory, &runtime, &id, "");
        guest.ask("are you there?");
        (id, guest)
    });
    // All are idle now, so whatever is wrong has come from the start.
    let (ids, mut guests): (Vec<_>, Vec<_>) = guests.into_iter().unzip();
    let answers: Vec<_> = guests.iter_mut().map(|guest| guest.ask("now")).collect();
    for ended in at_once_with(guests, Conversation::end) {
        assert!(ended.success());
    }
    for id in ids {
        factory.containerd.assert_gone(&id);
        let log = factory.log(&id);
        let found = ["template-find", "clone-wake", "guest-boot"].map(|name| phases(&log, name));
        assert_eq!(found, [1, 1, 0], "{log}");
    }
    answers.iter().for_each(assert_right);
}

fn at_once_with<I: Send, T: Send>(inputs: Vec<I>, work: impl Fn(I) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = inputs.into_iter().map(|input| scope.spawn(move || work(input))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

fn at_once<T: Send>(count: usize, work: impl Fn() -> T + Sync) -> Vec<T> {
    at_once_with(vec![(); count], |()| work())
}

/// A clone whose template is taken away while it runs.
fn outlives_its_template(factory: &Factory, changes: &[(&str, &str)]) {
    let runtime = factory.runtime("outlives", changes);
    factory.good_start(&runtime, "template").assert_made_a_template();
    let id = factory.id("outlives");
    factory.containerd.run_detached(&runtime, &[], &id, &["sleep", "1000"]);
    fs::remove_dir_all(factory.path()).expect("remove the templates");
    // Programs and memory that the clone has not used so far.
    let script = "dd if=/dev/zero bs=1M count=64 2>/dev/null | sha256sum; ps | grep -c sleep";
    let exec = factory.containerd.exec_args(&id, "later", &["sh", "-c", script]);
    let finished = finish(factory.containerd.command(exec), b"");
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    let zeros = "3b6a07d0d404fab4e23b6d34bc6696a6a312dd92821332385e5af7c01c421351";
    assert!(finished.text().starts_with(zeros), "{}", finished.text());
    factory.containerd.remove(&id);
    factory.containerd.assert_gone(&id);
    let log = factory.log(&id);
    assert_eq!(phases(&log, "clone-wake"), 1, "{log}");
    factory.good_start(&runtime, "anew").assert_made_a_template();
}

#[test]
fn a_clone_outlives_its_template() {
    let Some(factory) = Factory::open() else { return };
    outlives_its_template(&factory, &[]);
}

#[test]
fn private_memory_works_with_9p_and_is_refused_with_virtiofs() {
    let Some(factory) = Factory::open() else { return };
    let private = [("template_memory", "\"private\""), ("shared_fs", "\"virtio-9p\"")];
    outlives_its_template(&factory, &private);
    factory.good_start(&factory.runtime("private", &private), "private").assert_is_a_clone();

    let impossible = [("template_memory", "\"private\""), ("enable_template", "true")];
    let runtime = factory.runtime("impossible", &impossible);
    let id = factory.id("impossible");
    let finished = factory.containerd.run(&runtime, &[], &id, &["true"], b"");
    assert_ne!(finished.code, 0);
    for word in ["factory.enable_template", "shared_fs"] {
        assert!(finished.stderr.contains(word), "{word}: {}", finished.stderr);
    }
    factory.containerd.assert_gone(&id);
}

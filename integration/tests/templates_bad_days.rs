//! What can happen to a template and to those who use it: the container runs all the same, and nothing stays that is not
//! whole.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use integration::{
    containerd::{Runtime, processes},
    factory::{Factory, Start, mode_and_owner},
};
use nix::{
    mount::{MsFlags, mount},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

/// Something that happens to a template, and what the warning must say.
type Damage<'a> = (&'a str, &'a dyn Fn(&Path), &'a str);

/// Changes the description of a template.
fn describe(template: &Path, change: impl FnOnce(&mut Value)) {
    let path = template.join("template.json");
    let mut description = serde_json::from_slice(&fs::read(&path).expect("read it")).expect("it is JSON");
    change(&mut description);
    // Written in place: owner and permissions stay.
    fs::write(path, description.to_string()).expect("write it");
}

/// Changes the byte at `at` in a file.
fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("open the file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read the byte");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("write the byte");
}

/// Halves a file.
fn halve(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).expect("open the file");
    file.set_len(file.metadata().expect("its size").len() / 2).expect("halve it");
}

/// A byte of memory that the template's guest has used.
fn used_byte(template: &Path) -> u64 {
    let text = fs::read(template.join("template.json")).expect("read it");
    let description: Value = serde_json::from_slice(&text).expect("it is JSON");
    let extents = description["extents"].as_array().expect("extents");
    let extent = &extents[extents.len() / 2];
    extent["at"].as_u64().expect("a place") + extent["length"].as_u64().expect("a length") / 2
}

/// Damages the template, and asserts that the next container runs with a warning and that a good template follows.
fn recovers(factory: &Factory, runtime: &Runtime, (what, damage, word): &Damage<'_>) {
    eprintln!("-- {what}");
    damage(&factory.path().join(factory.template().file_name().expect("a name")));
    let start = factory.good_start(runtime, "damaged");
    let warned = start.warnings().iter().any(|warning| warning.contains(word));
    assert!(warned, "{what}: no warning says {word:?}: {}", start.log);
    if start.phases("template-make") == 1 {
        start.assert_made_a_template();
    } else {
        // Damage of the memory is found when the template has been chosen already.
        start.assert_was_booted();
        factory.good_start(runtime, "next").assert_made_a_template();
    }
    assert_whole(factory);
}

/// Asserts that there is one template, and that it is as it should be.
fn assert_whole(factory: &Factory) {
    let template = factory.template();
    assert!(!template.to_string_lossy().ends_with(".new"), "{}", template.display());
    assert_eq!(mode_and_owner(&template), (0o700, 0));
    for file in ["memory", "state", "template.json"] {
        let meta = fs::symlink_metadata(template.join(file)).expect("a file");
        assert!(meta.is_file(), "{file}");
        assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o600, 0), "{file}");
    }
}

#[test]
fn a_template_that_is_not_as_it_was_made_is_made_anew() {
    let Some(factory) = Factory::open() else { return };
    let initrd = factory.containerd.dir().join("initrd");
    fs::copy(factory.env.setting("hypervisor.qemu.initrd"), &initrd).expect("copy the initrd");
    let runtime = factory.runtime("damage", &[("initrd", &format!("\"{}\"", initrd.display()))]);
    factory.good_start(&runtime, "first").assert_made_a_template();

    let mode = |path: PathBuf, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("change the mode");
    };
    let to_link = |path: PathBuf| {
        let elsewhere = factory.containerd.dir().join("elsewhere");
        fs::rename(&path, &elsewhere).expect("move it");
        symlink(&elsewhere, &path).expect("link it");
    };
    let now = || std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    let damages: &[Damage<'_>] = &[
        ("a byte of memory changed", &|t| flip(&t.join("memory"), used_byte(t)), "memory is damaged"),
        ("memory was cut", &|t| halve(&t.join("memory")), "memory is damaged"),
        ("memory is gone", &|t| fs::remove_file(t.join("memory")).expect("remove"), "memory is missing"),
        ("memory is a link", &|t| to_link(t.join("memory")), "memory"),
        ("memory has another owner", &|t| chown(t.join("memory"), Some(1), None).expect("chown"), "user 1"),
        ("a byte of the state changed", &|t| flip(&t.join("state"), 5000), "state is damaged"),
        ("the state was cut", &|t| halve(&t.join("state")), "state is damaged"),
        ("the state is a link", &|t| to_link(t.join("state")), "state"),
        ("others may read the state", &|t| mode(t.join("state"), 0o644), "mode 644"),
        (
            "the description is gone",
            &|t| fs::remove_file(t.join("template.json")).expect("remove"),
            "missing",
        ),
        ("the description was cut", &|t| halve(&t.join("template.json")), "template.json"),
        ("the description is garbage", &|t| flip(&t.join("template.json"), 0), "template.json"),
        ("empty memory", &|t| describe(t, |d| d["extents"] = json!([])), "no clone could be made"),
        ("another version", &|t| describe(t, |d| d["version"] = json!(77)), "version"),
        ("another key", &|t| describe(t, |d| d["key"] = json!("0")), "was made by another"),
        ("too old", &|t| describe(t, |d| d["made"] = json!(now() - 100_000)), "template_max_age"),
        ("of the future", &|t| describe(t, |d| d["made"] = json!(now() + 10_000)), "future"),
        ("the folder has another owner", &|t| chown(t, Some(1), None).expect("chown"), "user 1"),
        ("others may write the folder", &|t| mode(t.into(), 0o777), "mode 777"),
        (
            "another initrd",
            &|_| {
                File::open(&initrd).and_then(|file| file.set_modified(std::time::UNIX_EPOCH)).expect("touch")
            },
            "was made by another",
        ),
    ];
    for damage in damages {
        recovers(&factory, &runtime, damage);
    }
    factory.good_start(&runtime, "last").assert_is_a_clone();
}

#[test]
fn private_memory_is_checked_too_where_the_template_had_none() {
    let Some(factory) = Factory::open() else { return };
    let private = [("template_memory", "\"private\""), ("shared_fs", "\"virtio-9p\"")];
    let runtime = factory.runtime("private", &private);
    factory.good_start(&runtime, "first").assert_made_a_template();
    recovers(
        &factory,
        &runtime,
        &("a byte of memory changed", &|t| flip(&t.join("memory"), used_byte(t)), "memory is damaged"),
    );
    // All of the file is the guest's memory, and what was zero must still be.
    let in_hole = |template: &Path| {
        let description = fs::read(template.join("template.json")).expect("read it");
        let description: Value = serde_json::from_slice(&description).expect("it is JSON");
        let mut end = 0;
        for extent in description["extents"].as_array().expect("extents") {
            let at = extent["at"].as_u64().expect("a place");
            if at > end + (1 << 20) {
                break;
            }
            end = at + extent["length"].as_u64().expect("a length");
        }
        flip(&template.join("memory"), end + 4096 * 8);
    };
    recovers(&factory, &runtime, &("a hole was filled", &in_hole, "memory is damaged"));
}

#[test]
fn something_else_in_the_templates_place_is_replaced() {
    let Some(factory) = Factory::open() else { return };
    let runtime = factory.runtime("place", &[]);
    factory.good_start(&runtime, "first").assert_made_a_template();
    let template = factory.template();
    // What a crash while it was made leaves.
    let half = factory.path().join(format!(".{}.new", template.file_name().expect("a name").display()));
    fs::create_dir(&half).expect("make a half template");
    fs::write(half.join("state"), "half").expect("write");
    fs::remove_dir_all(&template).expect("remove the template");
    factory.good_start(&runtime, "half").assert_made_a_template();
    assert_whole(&factory);
    recovers(
        &factory,
        &runtime,
        &(
            "a file",
            &|template| {
                fs::remove_dir_all(template).expect("remove");
                fs::write(template, "garbage").expect("write");
            },
            "template",
        ),
    );
}

#[test]
fn a_place_that_others_can_write_is_not_used() {
    let Some(factory) = Factory::open() else { return };
    let runtime = factory.runtime("open", &[]);
    fs::create_dir(factory.path()).expect("make the place");
    fs::set_permissions(factory.path(), fs::Permissions::from_mode(0o777)).expect("open it to all");
    let start = factory.good_start(&runtime, "open");
    start.assert_was_booted();
    assert!(start.warnings().iter().any(|warning| warning.contains("mode 777")), "{}", start.log);
    assert_eq!(factory.templates(), Vec::<PathBuf>::new());
}

#[test]
fn a_full_disk_makes_no_template_and_stops_no_container() {
    let Some(factory) = Factory::open() else { return };
    let runtime = factory.runtime("full", &[]);
    fs::create_dir(factory.path()).expect("make the place");
    let resize = |flags, options: &str| {
        mount(Some("tmpfs"), &factory.path(), Some("tmpfs"), flags, Some(options)).expect("mount a tmpfs");
    };
    // Full while the hypervisor writes its state; then while the memory is written.
    for (flags, size) in [(MsFlags::empty(), "128k"), (MsFlags::MS_REMOUNT, "8m")] {
        resize(flags, &format!("size={size},mode=700"));
        let start = factory.good_start(&runtime, "full");
        start.assert_was_booted();
        assert_ne!(start.warnings(), Vec::<&str>::new(), "{}", start.log);
        assert_eq!(factory.templates(), Vec::<PathBuf>::new());
    }
    resize(MsFlags::MS_REMOUNT, "size=1g,mode=700");
    factory.good_start(&runtime, "room").assert_made_a_template();
    assert_whole(&factory);
}

#[test]
fn a_hypervisor_that_dies_while_it_is_saved_leaves_nothing() {
    let Some(factory) = Factory::open() else { return };
    // The limit lets it write 32 KiB of its state, and then it is killed. Only the first time.
    let script = "case \"$*\" in *-incoming*) ;; *memory-backend-file*)
        [ -e \"$0.once\" ] || { : >\"$0.once\"; ulimit -f 64; } ;; esac
        exec $QEMU \"$@\"";
    let hypervisor = factory.hypervisor(script);
    let runtime = factory.runtime("dies", &[("path", &format!("\"{}\"", hypervisor.display()))]);
    let start = factory.good_start(&runtime, "dies");
    start.assert_was_booted();
    assert_ne!(start.warnings(), Vec::<&str>::new(), "{}", start.log);
    assert_eq!(factory.templates(), Vec::<PathBuf>::new());
    factory.good_start(&runtime, "after").assert_made_a_template();
    assert_whole(&factory);
    assert_eq!(
        factory.calls().len(),
        4,
        "a template and a boot, a template and a clone: {:?}",
        factory.calls()
    );
}

/// Waits for a process, and kills it.
fn kill_when_there(is_it: impl Fn(&str) -> bool) {
    let began = Instant::now();
    loop {
        if let Some((pid, _)) = processes().into_iter().find(|(_, line)| is_it(line)) {
            return kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("kill a process of this test");
        }
        assert!(began.elapsed() < Duration::from_secs(60), "the process does not come up");
        thread::sleep(Duration::from_millis(2));
    }
}

fn makes_a_template(line: &str, id: &str) -> bool {
    line.contains(&format!("-name sandbox-{id} "))
        && line.contains("backend-file")
        && !line.contains("-incoming")
}

#[test]
fn whoever_is_killed_while_a_template_is_made_leaves_no_half_one() {
    let Some(factory) = Factory::open() else { return };
    let runtime = factory.runtime("killed", &[]);
    // The hypervisor: its VM is booted.
    let id = factory.id("qemu");
    let start = thread::scope(|scope| {
        let running = scope.spawn(|| {
            let finished = factory.containerd.run(&runtime, &[], &id, &["echo", "works"], b"");
            factory.containerd.assert_gone(&id);
            Start { id: id.clone(), finished, log: factory.log(&id) }
        });
        kill_when_there(|line| makes_a_template(line, &id));
        running.join().expect("no panic")
    });
    start.assert_ended_well();
    start.assert_was_booted();
    assert_eq!(factory.templates(), Vec::<PathBuf>::new());

    // The shim, and all that it has started with it.
    let id = factory.id("shim");
    let finished = thread::scope(|scope| {
        let running = scope.spawn(|| factory.containerd.run(&runtime, &[], &id, &["true"], b""));
        factory.containerd.wait_for("the template's VM", || {
            processes().iter().any(|(_, line)| makes_a_template(line, &id))
        });
        kill_when_there(|line| line.contains("containerd-shim-kata") && line.contains(&id));
        running.join().expect("no panic")
    });
    assert_ne!(finished.code, 0);
    factory.containerd.assert_gone(&id);

    factory.good_start(&runtime, "after").assert_made_a_template();
    assert_whole(&factory);
}

/// Runs a container whose clone is started by `script`, and asserts that it is booted, after one attempt.
fn is_booted_once_instead(script: &str, name: &str) {
    let Some(factory) = Factory::open() else { return };
    let hypervisor =
        factory.hypervisor(&format!("case \"$*\" in *-incoming*) {script} ;; esac; exec $QEMU \"$@\""));
    let runtime = factory.runtime(name, &[("path", &format!("\"{}\"", hypervisor.display()))]);
    let began = Instant::now();
    let start = factory.good_start(&runtime, name);
    assert!(began.elapsed() < Duration::from_secs(45), "{:?}", began.elapsed());
    start.assert_was_booted();
    assert!(
        start.warnings().iter().any(|warning| warning.contains("no clone could be made")),
        "{}",
        start.log
    );
    let calls = factory.calls();
    assert_eq!(calls.len(), 3, "template, clone, boot: {calls:?}");
    for (pid, _) in calls {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is left");
    }
    assert_eq!(factory.templates(), Vec::<PathBuf>::new(), "its template is not to be used");
    // The next start does not wait for the same again.
    factory.good_start(&runtime, "next").assert_was_booted();
    assert_eq!(factory.calls().len(), 4, "a boot: {:?}", factory.calls());
}

#[test]
fn a_clone_that_does_not_start_is_booted_once_instead() {
    is_booted_once_instead("exec sleep 1000", "mute");
}

#[test]
fn a_clone_that_does_not_wake_is_booted_once_instead() {
    // It runs, and never hears what is said to it.
    let deaf = "for arg; do
            shift
            case $arg in socket,id=port,*) arg=null,id=port ;; esac
            set -- \"$@\" \"$arg\"
        done";
    is_booted_once_instead(deaf, "deaf");
}

#[test]
fn more_memory_than_there_can_be_is_an_error_that_says_so_and_leaves_nothing() {
    let Some(factory) = Factory::open() else { return };
    // 100 TiB: more than the host lets anybody map.
    let runtime = factory.runtime("large", &[("default_memory", "104857600")]);
    let id = factory.id("large");
    let finished = factory.containerd.run(&runtime, &[], &id, &["true"], b"");
    assert_ne!(finished.code, 0);
    assert!(finished.stderr.contains("guest RAM"), "{}", finished.stderr);
    factory.containerd.assert_gone(&id);
    assert_eq!(factory.templates(), Vec::<PathBuf>::new());
}

#[test]
fn a_share_that_cannot_be_served_is_no_fault_of_the_template() {
    let Some(factory) = Factory::open() else { return };
    let good = factory.runtime("good", &[]);
    let bad = factory.runtime("bad", &[("virtio_fs_daemon", "\"/bin/false\"")]);
    // Before there is a template, and with one.
    for made in [false, true] {
        let id = factory.id("bad");
        let finished = factory.containerd.run(&bad, &[], &id, &["true"], b"");
        assert_ne!(finished.code, 0);
        assert!(finished.stderr.contains("virtiofsd"), "{}", finished.stderr);
        factory.containerd.assert_gone(&id);
        let start = factory.good_start(&good, "good");
        if made || start.phases("template-make") == 0 {
            start.assert_is_a_clone();
        }
    }
}

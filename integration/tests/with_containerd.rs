//! Real containers under the real containerd, each scenario with the reference runtime and with ours: where the result
//! must be the same, it is compared.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use integration::{
    containerd::{Containerd, Finished, Runtime, finish},
    environment::Environment,
    terminal::Terminal,
};

/// A containerd and our configuration, or the reason to skip.
fn set_up() -> Option<(Containerd, [Runtime; 2])> {
    let env = Environment::find()?;
    let runtimes = [Runtime::Runc, Runtime::Kata(env.configuration())];
    Some((Containerd::start(&env, None), runtimes))
}

/// Runs one command with both runtimes and hands each result to `check`, with a label.
fn both(options: &[&str], command: &[&str], stdin: &[u8], check: impl Fn(&str, &Finished)) {
    let Some((containerd, runtimes)) = set_up() else { return };
    for runtime in &runtimes {
        let label = label(runtime);
        let id = unique(label);
        let finished = containerd.run(runtime, options, &id, command, stdin);
        eprintln!("{label}: code {} stderr {:?}", finished.code, finished.stderr);
        check(label, &finished);
        containerd.assert_gone(&id);
    }
}

/// An id that no test of this process has used.
fn unique(label: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{label}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn label(runtime: &Runtime) -> &'static str {
    match runtime {
        Runtime::Runc => "runc",
        Runtime::Kata(_) => "kata",
    }
}

#[test]
fn hello_comes_from_another_kernel_than_the_hosts() {
    let host = nix::sys::utsname::uname().expect("uname");
    let host = host.release().to_string_lossy().into_owned();
    both(&[], &["uname", "-r"], b"", |label, finished| {
        assert_eq!(finished.code, 0, "{label}");
        assert_eq!(finished.text().trim() == host, label == "runc", "{label}: {}", finished.text());
    });
}

#[test]
fn exit_codes_come_through() {
    let Some((containerd, runtimes)) = set_up() else { return };
    for runtime in &runtimes {
        // 137 comes from outside, below: the init of a process namespace cannot kill itself.
        for (script, code) in [("exit 0", 0), ("exit 1", 1), ("exit 127", 127)] {
            let id = format!("{}-code{code}", label(runtime));
            assert_eq!(containerd.run(runtime, &[], &id, &["sh", "-c", script], b"").code, code, "{id}");
        }
    }
}

#[test]
fn a_child_killed_by_a_signal_shows_as_128_plus_its_number() {
    both(
        &[],
        &["sh", "-c", "sh -c 'kill -KILL $$'; echo $?; sh -c 'kill -TERM $$'; echo $?"],
        b"",
        |label, finished| {
            assert!(finished.text().contains("137\n"), "{label}: {}", finished.text());
            assert!(finished.text().contains("143\n"), "{label}: {}", finished.text());
        },
    );
}

#[test]
fn stdin_reaches_cat_and_its_end_too() {
    let text: Vec<u8> = (0..300_000u32).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    // ctr loses an end of input that arrives before the task is up, with runc as well: so the reader counts.
    let length = text.len().to_string();
    both(&[], &["sh", "-c", &format!("head -c {length} | md5sum; echo rest")], &text, |label, finished| {
        assert_eq!(finished.code, 0, "{label}");
        assert!(finished.text().ends_with("  -\nrest\n"), "{label}: {}", finished.text());
        let expected = finish(std::process::Command::new("md5sum"), &text).text();
        assert!(
            finished.text().starts_with(expected.trim_end()),
            "{label}: {} is not {expected}",
            finished.text()
        );
    });
}

#[test]
fn fifty_mebibytes_of_output_arrive_byte_for_byte_and_stderr_apart() {
    const SIZE: usize = 50 << 20;
    let script = "i=0; while [ $i -lt 50 ]; do head -c 1048576 /dev/zero | tr '\\0' x; i=$((i+1)); done; echo errors >&2";
    both(&[], &["sh", "-c", script], b"", |label, finished| {
        assert_eq!(finished.stdout.len(), SIZE, "{label}");
        assert!(finished.stdout.iter().all(|byte| *byte == b'x'), "{label}: a byte changed");
        assert!(finished.stderr.contains("errors"), "{label}: {}", finished.stderr);
    });
}

#[test]
fn environment_and_directory_are_the_specs() {
    let options = ["--env", "GREETING=hello world", "--cwd", "/tmp"];
    both(&options, &["sh", "-c", "echo $GREETING; pwd; id -u"], b"", |label, finished| {
        assert_eq!(finished.text(), "hello world\n/tmp\n0\n", "{label}: {}", finished.stderr);
    });
}

#[test]
fn a_missing_working_directory_is_made() {
    both(&["--cwd", "/not/there/../yet"], &["pwd"], b"", |label, finished| {
        assert_eq!(finished.text(), "/not/yet\n", "{label}: {}", finished.stderr);
    });
}

#[test]
fn a_closed_pipe_ends_its_writer_silently() {
    both(&[], &["sh", "-c", "yes | head -n 1"], b"", |label, finished| {
        assert_eq!(finished.text(), "y\n", "{label}");
        assert!(!finished.stderr.contains("Broken pipe"), "{label}: {}", finished.stderr);
    });
}

#[test]
fn a_read_only_root_refuses_writes() {
    both(
        &["--read-only"],
        &["sh", "-c", "touch /x 2>/dev/null && echo written; mount | grep ' / ' | grep -c '[(,]ro[,)]'"],
        b"",
        |label, finished| {
            assert_eq!(finished.text(), "1\n", "{label}: {}", finished.stderr);
        },
    );
}

#[test]
fn what_one_container_writes_the_next_one_of_the_image_does_not_see() {
    let Some((containerd, runtimes)) = set_up() else { return };
    for runtime in &runtimes {
        let first = containerd.run(
            runtime,
            &[],
            &format!("{}-w1", label(runtime)),
            &["sh", "-c", "echo x > /mine; cat /mine"],
            b"",
        );
        assert_eq!(first.text(), "x\n", "{}: {}", label(runtime), first.stderr);
        let second =
            containerd.run(runtime, &[], &format!("{}-w2", label(runtime)), &["sh", "-c", "ls /mine"], b"");
        assert_ne!(second.code, 0, "{}: {}", label(runtime), second.text());
    }
}

#[test]
fn shared_memory_is_there_and_writable() {
    both(
        &[],
        &[
            "sh",
            "-c",
            "echo shared > /dev/shm/x && cat /dev/shm/x && mount | grep ' /dev/shm ' | grep -c tmpfs",
        ],
        b"",
        |label, finished| {
            assert_eq!(finished.text(), "shared\n1\n", "{label}: {}", finished.stderr);
        },
    );
}

#[test]
fn a_volume_of_the_host_is_read_and_written() {
    let Some((containerd, runtimes)) = set_up() else { return };
    for runtime in &runtimes {
        let volume = containerd.dir().join(format!("volume-{}", label(runtime)));
        std::fs::create_dir(&volume).expect("make the volume");
        std::fs::write(volume.join("in"), "from the host\n").expect("write");
        let mount = |access| format!("type=bind,src={},dst=/v,options=rbind:{access}", volume.display());
        let id = format!("{}-vol", label(runtime));
        let rw = containerd.run(
            runtime,
            &["--mount", &mount("rw")],
            &id,
            &["sh", "-c", "cat /v/in; echo back > /v/out"],
            b"",
        );
        assert_eq!((rw.code, rw.text().as_str()), (0, "from the host\n"), "{id}: {}", rw.stderr);
        assert_eq!(std::fs::read_to_string(volume.join("out")).expect("written"), "back\n", "{id}");
        let ro =
            containerd.run(runtime, &["--mount", &mount("ro")], &id, &["sh", "-c", "echo x > /v/in"], b"");
        assert_ne!(ro.code, 0, "{id}: written through a read-only mount");
        assert_eq!(std::fs::read_to_string(volume.join("in")).expect("kept"), "from the host\n", "{id}");
        containerd.assert_gone(&id);
    }
}

#[test]
fn a_terminal_has_its_size_and_follows_a_resize() {
    let Some((containerd, runtimes)) = set_up() else { return };
    for runtime in &runtimes {
        let id = format!("{}-tty", label(runtime));
        let mut args = containerd.run_args(runtime, &["--rm", "-t"], &id);
        args.push("sh".into());
        let mut terminal = Terminal::start(containerd.command(args), 91, 17);
        terminal.expect("#");
        terminal.write("stty size; echo ready-$((1+1))\n");
        let shown = terminal.expect("ready-2");
        assert!(shown.contains("17 91"), "{id}: {shown:?}");
        terminal.resize(120, 40);
        containerd.wait_for("the new size", || {
            terminal.write("stty size; echo again-$((1+1))\n");
            terminal.expect("again-2").contains("40 120")
        });
        terminal.write("exit 3\n");
        assert_eq!(terminal.child.wait().expect("wait").code(), Some(3), "{id}");
        containerd.assert_gone(&id);
    }
}

#[test]
fn execs_run_beside_each_other_with_their_own_exit_codes() {
    let Some((containerd, runtimes)) = set_up() else { return };
    for runtime in &runtimes {
        let id = format!("{}-exec", label(runtime));
        containerd.run_detached(runtime, &[], &id, &["sleep", "1000"]);
        let exec = |name: &str, script: &str| {
            finish(containerd.command(containerd.exec_args(&id, name, &["sh", "-c", script])), b"")
        };
        let one = exec("one", "echo out; echo err >&2; exit 7");
        assert_eq!((one.code, one.text().as_str()), (7, "out\n"), "{id}: {}", one.stderr);
        assert!(one.stderr.contains("err"), "{id}: {}", one.stderr);
        thread::scope(|scope| {
            let both: Vec<_> = ["a", "b"]
                .map(|name| scope.spawn(move || (name, exec(name, &format!("sleep 1; echo {name}")))))
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .collect();
            for (name, finished) in both {
                assert_eq!(
                    (finished.code, finished.text()),
                    (0, format!("{name}\n")),
                    "{id}: {}",
                    finished.stderr
                );
            }
        });
        let mut user = containerd.exec_args(&id, "user", &["sh", "-c", "id -u; id -g; pwd"]);
        user.splice(2..2, ["--user", "1000:1001", "--cwd", "/tmp"].map(str::to_owned));
        let user = finish(containerd.command(user), b"");
        assert_eq!(user.text(), "1000\n1001\n/tmp\n", "{id}: {}", user.stderr);
        let missing =
            finish(containerd.command(containerd.exec_args(&id, "gone", &["/no/such/program"])), b"");
        assert_ne!(missing.code, 0, "{id}");
        assert!(missing.stderr.contains("/no/such/program"), "{id}: {}", missing.stderr);
        containerd.remove(&id);
        containerd.assert_gone(&id);
    }
}

#[test]
fn signals_reach_the_init_and_end_it_as_it_wants() {
    let Some((containerd, runtimes)) = set_up() else { return };
    let script = "trap 'exit 21' USR1; trap 'exit 22' TERM; while :; do sleep 0.1; done";
    for runtime in &runtimes {
        for (signal, code) in [("SIGUSR1", 21), ("SIGTERM", 22), ("SIGKILL", 137)] {
            let id = format!("{}-{}", label(runtime), signal.to_lowercase());
            let mut args = containerd.run_args(runtime, &["--rm"], &id);
            args.extend(["sh", "-c", script].map(str::to_owned));
            let waiting = thread::scope(|scope| {
                let command = containerd.command(args);
                let waiting = scope.spawn(move || finish(command, b""));
                containerd.wait_for("the task to run", || {
                    containerd
                        .ctr(["task", "ls"])
                        .text()
                        .lines()
                        .any(|line| line.starts_with(&id) && line.contains("RUNNING"))
                });
                // The shell sets its traps after it has begun to run.
                thread::sleep(Duration::from_millis(1500));
                let killed = containerd.ctr(["task", "kill", "--signal", signal, &id]);
                assert_eq!(killed.code, 0, "{id}: {}", killed.stderr);
                waiting.join().expect("no panic")
            });
            assert_eq!(waiting.code, code, "{id}: {}", waiting.stderr);
            containerd.assert_gone(&id);
        }
    }
}

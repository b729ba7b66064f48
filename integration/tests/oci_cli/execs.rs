//! Added processes.

use std::{
    fs,
    io::{Read, Write},
    process::{Command, Stdio},
};

use integration::oci_cli::{Cli, ended, eventually};
use serde_json::json;

use crate::{WAITS, namespace, nothing};

#[test]
fn an_exec_has_its_own_streams_code_user_and_place() {
    for cli in Cli::both() {
        let id = cli.id("exec");
        let bundle = cli.bundle("exec", WAITS, nothing).display().to_string();
        let run = ["run", "--detach", "--bundle", &bundle, &id];
        cli.leave(&run, "out").good();
        let ran = cli.run(&["exec", &id, "sh", "-c", "echo out; echo err >&2; exit 3"]);
        assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(3), "out\n", "err\n"));
        assert_eq!(cli.run(&["exec", &id, "sh", "-c", "kill -9 $$"]).code, Some(137));
        let changed =
            ["exec", "--cwd", "/tmp", "--env", "A=b", "--user", "7:8", "--additional-gids", "9", &id];
        let script = ["sh", "-c", "pwd; echo $A; id -u; id -g; id -G"];
        let text = cli.run(&[&changed[..], &script[..]].concat()).good();
        assert_eq!(text, "/tmp\nb\n7\n8\n8 9\n", "{:?}", cli.whose);

        let process = cli.path().join("process.json");
        let spec = json!({"args": ["sh", "-c", "echo $B"], "cwd": "/", "env": ["B=c", "PATH=/bin"],
                          "user": {"uid": 0, "gid": 0}});
        fs::write(&process, spec.to_string()).unwrap();
        let process = process.display().to_string();
        assert_eq!(cli.run(&["exec", "--process", &process, &id]).good(), "c\n");

        let mut child = cli.command(&["exec", &id, "cat"]);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"through\n").unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((ended(&mut child), text.as_str()), (Some(0), "through\n"));

        let (code, words) = cli.run(&["exec", &id, "no-such-program"]).refusal();
        assert!(code == 255 && words.contains("no-such-program"), "{:?}: {code} {words}", cli.whose);
        cli.run(&["delete", "--force", &id]).good();
        cli.assert_clean();
    }
}

#[test]
fn a_detached_exec_is_known_by_a_pid_that_ends_it() {
    for cli in Cli::both() {
        let id = cli.id("detached");
        let bundle = cli.bundle("detached", WAITS, nothing).display().to_string();
        cli.leave(&["run", "--detach", "--bundle", &bundle, &id], "out").good();
        let pid_file = cli.path().join("pid").display().to_string();
        let script = "echo begun; sleep 1000";
        cli.leave(&["exec", "--detach", "--pid-file", &pid_file, &id, "sh", "-c", script], "exec").good();
        let pid = fs::read_to_string(&pid_file).unwrap();
        assert!(eventually(|| cli.output("exec") == "begun\n"));
        assert_eq!(namespace(&pid), namespace(&cli.state(&id)["pid"].to_string()), "{:?}", cli.whose);
        let sleeps = || cli.run(&["exec", &id, "ps"]).good().contains("sleep 1000");
        assert!(sleeps());
        assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
        assert!(eventually(|| !sleeps()), "{:?}: its process goes on", cli.whose);
        assert_eq!(cli.status(&id), "running");
        cli.run(&["delete", "--force", &id]).good();
        cli.assert_clean();
    }
}

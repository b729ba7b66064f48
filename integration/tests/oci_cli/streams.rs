//! Standard streams and terminals.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixListener,
    process::Stdio,
    thread,
};

use integration::oci_cli::{Cli, ended, receive_terminal};
use serde_json::json;

use crate::nothing;

#[test]
fn streams_pass_whole_and_the_code_comes_back() {
    for cli in Cli::both() {
        let id = cli.id("streams");
        let bundle = cli.bundle("streams", "cat; echo over >&2; exit 7", nothing).display().to_string();
        let mut command = cli.command(&["run", "--bundle", &bundle, &id]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let sent: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
        let (mut input, text) = (child.stdin.take().unwrap(), sent.clone());
        let writing = thread::spawn(move || input.write_all(&text));
        let mut received = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut received).unwrap();
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        writing.join().unwrap().unwrap();
        assert_eq!(ended(&mut child), Some(7));
        assert!(received == sent, "{:?}: {} of {} bytes", cli.whose, received.len(), sent.len());
        assert_eq!(errors, "over\n");
        cli.assert_clean();
    }
}

#[test]
fn output_to_a_file_goes_on_where_others_wrote_and_input_comes_from_one() {
    for cli in Cli::both() {
        let id = cli.id("file");
        let bundle = cli.bundle("file", "cat", nothing).display().to_string();
        let (input, output) = (cli.path().join("in"), cli.path().join("out"));
        fs::write(&input, "from a file\n").unwrap();
        let mut file = fs::File::create(&output).unwrap();
        file.write_all(b"before\n").unwrap();
        let mut command = cli.command(&["run", "--bundle", &bundle, &id]);
        command.stdin(fs::File::open(&input).unwrap()).stdout(file.try_clone().unwrap());
        assert_eq!(ended(&mut command.spawn().unwrap()), Some(0));
        file.write_all(b"after\n").unwrap();
        assert_eq!(fs::read_to_string(&output).unwrap(), "before\nfrom a file\nafter\n", "{:?}", cli.whose);
        cli.assert_clean();
    }
}

#[test]
fn a_slow_reader_gets_all_of_it_and_one_that_goes_away_ends_the_writer() {
    for cli in Cli::both() {
        let id = cli.id("slow");
        let bundle = cli.bundle("slow", "seq 200000; exit 4", nothing).display().to_string();
        let mut child =
            cli.command(&["run", "--bundle", &bundle, &id]).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = child.stdout.take().unwrap();
        let mut first = [0; 1];
        output.read_exact(&mut first).unwrap();
        // Longer than anybody waits who takes a silent reader for a dead one.
        thread::sleep(std::time::Duration::from_secs(5));
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert!(rest.ends_with("\n200000\n"), "{:?}: the end is lost", cli.whose);
        assert_eq!(ended(&mut child), Some(4));

        let id = cli.id("gone");
        let bundle = cli.bundle("gone", "yes; true", nothing).display().to_string();
        let mut child =
            cli.command(&["run", "--bundle", &bundle, &id]).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = child.stdout.take().unwrap();
        output.read_exact(&mut first).unwrap();
        drop(output);
        assert_eq!(ended(&mut child), Some(0));
        cli.assert_clean();
    }
}

#[test]
fn a_terminal_is_handed_over_and_keeps_its_size() {
    for cli in Cli::both() {
        let id = cli.id("console");
        let bundle = cli.bundle("console", "stty size; read line; echo got $line; exit 6", |config| {
            config["process"]["terminal"] = json!(true);
            config["process"]["consoleSize"] = json!({"height": 33, "width": 99});
        });
        let bundle = bundle.display().to_string();
        let (code, words) = cli.run(&["create", "--bundle", &bundle, &id]).refusal();
        let refused = "cannot allocate tty if runc will detach without setting console socket";
        assert!(code == 1 && words.ends_with(refused), "{words}");

        let socket = cli.path().join("console.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let receiving = thread::spawn(move || receive_terminal(&listener));
        let socket = socket.display().to_string();
        cli.leave(&["create", "--bundle", &bundle, "--console-socket", &socket, &id], "out").good();
        let mut terminal = receiving.join().unwrap();
        cli.run(&["start", &id]).good();
        let mut text = String::new();
        let mut read_until = |terminal: &mut fs::File, end: &str| {
            let mut block = [0; 1024];
            while !text.contains(end) {
                let length = terminal.read(&mut block).unwrap_or(0);
                assert!(length > 0, "{:?}: {text:?} has no {end:?}", cli.whose);
                text.push_str(&String::from_utf8_lossy(&block[..length]));
            }
        };
        read_until(&mut terminal, "33 99\r\n");
        terminal.write_all(b"this\n").unwrap();
        read_until(&mut terminal, "got this\r\n");
        cli.reaches(&id, "stopped");
        cli.run(&["delete", &id]).good();
        cli.assert_clean();
    }
}

//! What goes in and out of a pod's containers by CRI: execs, attached terminals, and logs that are rotated.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpStream,
    time::{Duration, Instant},
};

use integration::{
    kubelet::{KATA, Kubelet},
    place::dial_in,
    websocket::WebSocket,
};
use k8s_cri::v1::{
    AttachRequest, AttachResponse, ExecRequest, ExecResponse, ExecSyncRequest, ExecSyncResponse,
    ReopenContainerLogRequest, ReopenContainerLogResponse,
};
use tonic::Code;

const PATIENCE: Duration = Duration::from_secs(20);

const STDIN: u8 = 0;
const STDOUT: usize = 1;
const STDERR: usize = 2;
const END: usize = 3;
const RESIZE: u8 = 4;

/// One use of containerd's streaming server.
struct Session {
    socket: WebSocket<TcpStream>,
    /// What each channel has brought.
    brought: [Vec<u8>; 5],
}

impl Session {
    fn open(kubelet: &Kubelet, url: &str) -> Self {
        let (host, path) = url.strip_prefix("http://").and_then(|url| url.split_once('/')).expect("HTTP");
        let stream = dial_in(&kubelet.host.name, host).expect("containerd listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        stream.set_write_timeout(Some(PATIENCE)).expect("a deadline");
        let socket = WebSocket::open(stream, host, &format!("/{path}"), "v4.channel.k8s.io").expect("open");
        Self { socket, brought: Default::default() }
    }

    fn exec(kubelet: &Kubelet, container: &str, script: &str, tty: bool) -> Self {
        let question = ExecRequest {
            container_id: container.into(),
            cmd: ["sh", "-c", script].map(str::to_owned).into(),
            tty,
            stdin: true,
            stdout: true,
            // As the kubelet does: a terminal has one output.
            stderr: !tty,
        };
        let answer: ExecResponse = kubelet.runtime("Exec", question).expect("an address");
        Self::open(kubelet, &answer.url)
    }

    fn attach(kubelet: &Kubelet, container: &str, tty: bool) -> Self {
        let question =
            AttachRequest { container_id: container.into(), stdin: true, tty, stdout: true, stderr: !tty };
        let answer: AttachResponse = kubelet.runtime("Attach", question).expect("an address");
        Self::open(kubelet, &answer.url)
    }

    fn send(&mut self, channel: u8, bytes: &[u8]) {
        self.socket.send(&[&[channel], bytes].concat()).expect("send");
    }

    fn resize(&mut self, width: u16, height: u16) {
        self.send(RESIZE, format!("{{\"Width\":{width},\"Height\":{height}}}").as_bytes());
    }

    fn said(&self, channel: usize) -> String {
        String::from_utf8_lossy(&self.brought[channel]).replace("\r\n", "\n")
    }

    fn receive(&mut self) -> bool {
        let message =
            self.socket.receive().unwrap_or_else(|error| panic!("{error}: {:?}", self.said(STDOUT)));
        if let Some((channel, bytes)) = message.as_deref().and_then(<[u8]>::split_first) {
            self.brought[usize::from(*channel)].extend(bytes);
        }
        message.is_some()
    }

    /// Reads until standard output has brought that.
    fn wait_for(&mut self, text: &str) {
        while !self.said(STDOUT).contains(text) {
            assert!(self.receive(), "it ended without {text:?}: {:?}", self.said(STDOUT));
        }
    }

    /// Reads to the end; what the server says about it.
    fn end(&mut self) -> String {
        while self.receive() {}
        self.said(END)
    }
}

#[test]
fn a_synchronous_exec_brings_all_its_output_and_is_killed_at_its_deadline() {
    let Some(kubelet) = Kubelet::start("") else { return };
    let pod_config = kubelet.pod("sync");
    let pod = kubelet.run_pod(KATA, &pod_config).unwrap();
    let container = kubelet.run(&pod, &kubelet.script("main", "exec sleep 1000"), &pod_config).unwrap();
    let exec = |script: &str, timeout| {
        let question = ExecSyncRequest {
            container_id: container.clone(),
            cmd: ["sh", "-c", script].map(str::to_owned).into(),
            timeout,
        };
        kubelet.runtime::<_, ExecSyncResponse>("ExecSync", question)
    };

    let answer = exec("i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done", 20).unwrap();
    let expected: String = (0..2000).map(|i| format!("{i}\n")).collect();
    assert!(answer.stdout == expected.as_bytes(), "{} bytes", answer.stdout.len());

    let big = "yes 0123456789abcde | head -c 3000000; yes fault | head -c 500000 >&2; exit 6";
    let answer = exec(big, 20).unwrap();
    assert_eq!((answer.exit_code, answer.stdout.len(), answer.stderr.len()), (6, 3_000_000, 500_000));
    assert!(answer.stdout.chunks(16).all(|line| *line == b"0123456789abcde\n"[..line.len()]));

    let began = Instant::now();
    let error = exec("echo begun; trap '' TERM; exec sleep 4243", 1).unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert_eq!(kubelet.inside(&container, "grep -lsz '^4243$' /proc/[0-9]*/cmdline | wc -l"), "0\n");

    let error = exec("exec nothing-of-that-name", 5).map(|answer| answer.exit_code);
    assert_eq!(error.unwrap(), 127);
    let question = ExecSyncRequest {
        container_id: container.clone(),
        cmd: vec!["/nothing/of/that/name".into()],
        timeout: 5,
    };
    let error = kubelet.runtime::<_, ExecSyncResponse>("ExecSync", question).unwrap_err();
    assert!(error.message().contains("/nothing/of/that/name"), "{error}");
    kubelet.remove_pod(&pod).unwrap();
    kubelet.containerd.assert_gone(&pod);
}

fn streams_of(release: &str) {
    let Some(kubelet) = Kubelet::start(release) else { return };
    let pod_config = kubelet.pod("streams");
    let pod = kubelet.run_pod(KATA, &pod_config).unwrap();
    let container = kubelet.run(&pod, &kubelet.script("main", "exec sleep 1000"), &pod_config).unwrap();

    let script = "read line; echo got $line; echo fault >&2; exit 5";
    let mut session = Session::exec(&kubelet, &container, script, false);
    session.send(STDIN, b"hello\n");
    let end = session.end();
    assert_eq!((session.said(STDOUT), session.said(STDERR)), ("got hello\n".into(), "fault\n".into()));
    assert!(end.contains("\"Failure\"") && end.contains("\"5\""), "{end}");

    let mut session = Session::exec(&kubelet, &container, "head -c 1500000 | tee /dev/stderr", false);
    let block: Vec<u8> = (0..30_000).map(|at| b'a' + (at % 23) as u8).collect();
    for _ in 0..50 {
        session.send(STDIN, &block);
    }
    let end = session.end();
    assert!(end.contains("\"Success\""), "{end}");
    let expected = block.repeat(50);
    assert!(session.brought[STDOUT] == expected, "{} bytes", session.brought[STDOUT].len());
    assert!(session.brought[STDERR] == expected, "{} bytes", session.brought[STDERR].len());

    // A terminal.
    let mut session = Session::exec(&kubelet, &container, "exec sh", true);
    session.resize(101, 33);
    session.send(STDIN, b"until stty size | grep '33 101'; do sleep 0.1; done; echo en''d\n");
    session.wait_for("33 101\nend\n");
    session.resize(102, 34);
    session.send(STDIN, b"until stty size | grep '34 102'; do sleep 0.1; done\n");
    session.wait_for("34 102\n");
    // One process says that it is there and is what is interrupted.
    session.send(STDIN, b"sh -c 'echo sleep\"\"ing; exec sleep 1000'\n");
    session.wait_for("sleeping\n");
    session.send(STDIN, b"\x03");
    session.send(STDIN, b"echo aft''er $?; exit 4\n");
    session.wait_for("after 130");
    let end = session.end();
    assert!(end.contains("\"4\""), "{end}");

    // One that goes on by itself has no end that its client waits for.
    let mut config =
        kubelet.script("reads", "echo begun; while read line; do echo got:$line; done; echo over");
    config.stdin = true;
    let reader = kubelet.run(&pod, &config, &pod_config).unwrap();
    for word in ["one", "two"] {
        let mut session = Session::attach(&kubelet, &reader, false);
        session.send(STDIN, format!("{word}\n").as_bytes());
        session.wait_for(&format!("got:{word}\n"));
    }
    kubelet.containerd.wait_for("the log", || kubelet.log(&config) == "begun\ngot:one\ngot:two\n");

    // Its client's end is the end of its input, if it says so.
    config.metadata.as_mut().unwrap().name = "once".into();
    (config.stdin_once, config.log_path) = (true, "once.log".into());
    let once = kubelet.run(&pod, &config, &pod_config).unwrap();
    let mut session = Session::attach(&kubelet, &once, false);
    session.send(STDIN, b"last\n");
    session.wait_for("got:last\n");
    drop(session);
    assert_eq!(kubelet.ended(&once).exit_code, 0);
    kubelet.containerd.wait_for("the log", || kubelet.log(&config) == "begun\ngot:last\nover\n");

    let mut config = kubelet.script("terminal", "exec sh");
    (config.stdin, config.tty) = (true, true);
    let terminal = kubelet.run(&pod, &config, &pod_config).unwrap();
    let mut session = Session::attach(&kubelet, &terminal, true);
    session.resize(93, 21);
    session.send(STDIN, b"until stty size | grep '21 93'; do sleep 0.1; done\n");
    session.wait_for("21 93\n");
    session.send(STDIN, b"exit 3\n");
    session.end();
    assert_eq!(kubelet.ended(&terminal).exit_code, 3);
    kubelet.remove_pod(&pod).unwrap();
    kubelet.containerd.assert_gone(&pod);
}

#[test]
fn the_installed_containerd_streams() {
    streams_of("");
}

#[test]
fn containerd_2_streams() {
    streams_of("2");
}

#[test]
fn a_log_is_rotated_without_a_line_lost() {
    let Some(kubelet) = Kubelet::start("") else { return };
    let pod_config = kubelet.pod("logs");
    let pod = kubelet.run_pod(KATA, &pod_config).unwrap();
    let script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); [ $((i%100)) = 0 ] && sleep 0.05; done; \
                  yes | tr -d '\\n' | head -c 100000; echo; printf unfinished";
    let config = kubelet.script("writes", script);
    let container = kubelet.run(&pod, &config, &pod_config).unwrap();
    let current = kubelet.containerd.dir().join("logs/writes.log");
    let mut rotated = Vec::new();
    for turn in 0..4 {
        kubelet.containerd.wait_for("lines", || fs::metadata(&current).is_ok_and(|file| file.len() > 0));
        let aside = kubelet.containerd.dir().join(format!("logs/writes.{turn}"));
        fs::rename(&current, &aside).unwrap();
        rotated.push(aside);
        let question = ReopenContainerLogRequest { container_id: container.clone() };
        kubelet.runtime::<_, ReopenContainerLogResponse>("ReopenContainerLog", question).unwrap();
        assert!(current.exists(), "a new file is begun");
    }
    assert_eq!(kubelet.ended(&container).exit_code, 0);

    let (mut text, mut pieces) = (String::new(), 0);
    for path in rotated.iter().chain([&current]) {
        let file = fs::File::open(path).unwrap();
        for line in BufReader::new(file).lines().map(Result::unwrap) {
            let words: Vec<_> = line.splitn(4, ' ').collect();
            let [time, "stdout", tag @ ("P" | "F"), said] = words[..] else { panic!("{line}") };
            assert!(time.contains('T'), "{line}");
            pieces += usize::from(tag == "P");
            text.push_str(said);
            if tag == "F" {
                text.push('\n');
            }
        }
    }
    let lines: Vec<_> = text.lines().collect();
    assert!((0..3000).all(|i| lines[i] == format!("line {i}")), "{:?}", &lines[..5]);
    assert_eq!((lines[3000].len(), lines[3001], lines.len()), (100_000, "unfinished", 3002));
    assert!(pieces >= 6, "a long line is cut: {pieces}");
    kubelet.remove_pod(&pod).unwrap();
    kubelet.containerd.assert_gone(&pod);
}

//! Servers across the border, in real VMs: a connection to the loopback address in a pod's network namespace on the host
//! reaches the guest, as CRI's port-forward wants it, and Docker's name server there is asked from the guest.

use std::{
    fs,
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use integration::{
    containerd::processes,
    kubelet::{KATA, Kubelet},
    place::{Place, dial_in, within},
    websocket::WebSocket,
    world::World,
};
use k8s_cri::v1::{PortForwardRequest, PortForwardResponse};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Connects as containerd does: to IPv4's loopback address, and to IPv6's if that fails. The forwarding begins in the
/// background.
fn dial(place: &Place, port: u16) -> TcpStream {
    let began = Instant::now();
    loop {
        let dialled =
            place.dial(&format!("127.0.0.1:{port}")).or_else(|_| place.dial(&format!("[::1]:{port}")));
        match dialled {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
                stream.set_write_timeout(Some(PATIENCE)).expect("a deadline");
                return stream;
            }
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A script that starts a web server, which has listened by the time it ends, with a page that says `page`.
fn server(address: &str, port: u16, page: &str) -> String {
    format!(
        "mkdir -p /tmp/{port} && echo {page} >/tmp/{port}/page && httpd -p {address}:{port} -h /tmp/{port}"
    )
}

/// The page of a web server at the other end.
fn page(mut stream: TcpStream) -> String {
    stream.write_all(b"GET /page HTTP/1.0\r\n\r\n").expect("ask");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("read");
    said.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn a_pods_servers_are_reached_wherever_they_listen() {
    let Some(world) = World::open() else { return };
    let place = Place::new();
    place.interface("eth0", 2, 1500);
    let id = format!("ports-{}", place.number);
    world.start_pod(&place.name, &id);
    let own = format!("{}.2", place.subnet());
    for (port, address) in [(7001, "127.0.0.1"), (7002, "[::1]"), (7003, own.as_str()), (7004, "0.0.0.0")] {
        world.inside(&id, &server(address, port, &format!("at{port}")));
        assert_eq!(page(dial(&place, port)), format!("at{port}"), "{address}: {}", world.containerd.log());
    }
    // What comes in by the interface goes on to do so.
    let outside = TcpStream::connect((own.as_str(), 7004)).expect("connect from outside");
    assert_eq!(page(outside), "at7004");

    // A direction ends while the other goes on.
    world.inside(&id, "nc -l -p 7005 -e wc -c >/dev/null 2>&1 &");
    world.wait_inside(&id, "netstat -ltn", |text| text.contains(":7005 "));
    let mut stream = dial(&place, 7005);
    stream.write_all(&vec![b'x'; 5_000_000]).expect("write");
    stream.shutdown(Shutdown::Write).expect("shut down");
    let mut count = String::new();
    stream.read_to_string(&mut count).expect("read");
    assert_eq!(count.trim(), "5000000");

    // Nobody reads, so it is not taken.
    world.inside(&id, "nc -l -p 7006 -e sleep 1000 >/dev/null 2>&1 &");
    world.wait_inside(&id, "netstat -ltn", |text| text.contains(":7006 "));
    let mut stream = dial(&place, 7006);
    stream.set_write_timeout(Some(Duration::from_secs(3))).expect("a deadline");
    let mut taken = 0;
    let error = loop {
        match stream.write(&[0; 1 << 16]) {
            Ok(length) => taken += length,
            Err(error) => break error,
        }
    };
    assert!(error.kind() == ErrorKind::WouldBlock && taken < 64 << 20, "{error} after {taken}");

    // Nobody listens.
    let began = Instant::now();
    let error = dial(&place, 7999).read(&mut [0; 1]).expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());

    world.containerd.remove(&id);
    world.containerd.assert_gone(&id);
    let error = place.dial("127.0.0.1:7001").expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    place.assert_clean();
}

#[test]
fn what_is_no_pod_leaves_the_namespaces_loopback_alone() {
    let Some(world) = World::open() else { return };
    let place = Place::new();
    let id = format!("alone-{}", place.number);
    world.start(&place, &id);
    world.inside(&id, &server("127.0.0.1", 7001, "here"));
    let error = place.dial("127.0.0.1:7001").expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    world.containerd.remove(&id);
    world.containerd.assert_gone(&id);
}

#[test]
fn a_shim_that_is_killed_leaves_nobody_who_listens() {
    let Some(world) = World::open() else { return };
    let place = Place::new();
    let id = format!("ports-killed-{}", place.number);
    world.start_pod(&place.name, &id);
    world.inside(&id, &server("127.0.0.1", 7001, "here"));
    assert_eq!(page(dial(&place, 7001)), "here");
    let shim = processes()
        .into_iter()
        .find(|(_, line)| line.contains("containerd-shim-kata") && line.contains(&id))
        .expect("the shim");
    kill(Pid::from_raw(shim.0 as i32), Signal::SIGKILL).expect("killed");
    world.containerd.wait_for("the end of the shim", || place.dial("127.0.0.1:7001").is_err());
    let error = place.dial("127.0.0.1:7001").expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    world.containerd.remove(&id);
    world.containerd.assert_gone(&id);
    place.assert_clean();
}

/// An answer that knows one address, whatever is asked.
fn answer(question: &[u8]) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
    answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 77]);
    answer
}

#[test]
fn dockers_name_server_in_the_namespace_is_asked_from_the_guest() {
    let Some(world) = World::open() else { return };
    let place = Place::new();
    let (udp, tcp) =
        within(&place.name, || Ok((UdpSocket::bind("127.0.0.11:53")?, TcpListener::bind("127.0.0.11:53")?)))
            .expect("listen where Docker does");
    let file = world.containerd.dir().join("resolv.conf");
    let mount = format!("type=bind,src={},dst=/etc/resolv.conf,options=rbind:ro", file.display());
    let (option, id) = (place.option(), format!("names-{}", place.number));
    let start = |id: &str, text: &str| {
        fs::write(&file, text).expect("write resolv.conf");
        let options = ["--with-ns", &option, "--mount", &mount];
        world.containerd.run_detached(&world.kata, &options, id, &["sleep", "1000"]);
    };
    start(&id, "nameserver 127.0.0.11\noptions ndots:0\n");
    let asked = thread::spawn(move || {
        let mut question = [0; 512];
        let (length, peer) = udp.recv_from(&mut question).expect("a question");
        udp.send_to(&answer(&question[..length]), peer).expect("an answer");
        let (mut stream, _) = tcp.accept().expect("a connection");
        let mut question = [0; 5];
        stream.read_exact(&mut question).expect("a question");
        assert_eq!(&question, b"\0\x03who");
        stream.write_all(b"\0\x08it is me").expect("an answer");
    });
    let said = world.inside(&id, "nslookup -type=a other");
    assert!(said.contains("192.0.2.77"), "{said}");
    let said = world.inside(&id, "printf '\\000\\003who' | timeout 20 nc 127.0.0.11 53 | tail -c 8");
    assert_eq!(said, "it is me");
    asked.join().expect("asked both ways");
    world.containerd.remove(&id);
    world.containerd.assert_gone(&id);

    // Who is told of other name servers keeps the port.
    let other = format!("{id}-other");
    start(&other, "nameserver 192.0.2.1\n");
    assert!(!world.inside(&other, "netstat -lnu").contains("127.0.0.11:53"));
    world.containerd.remove(&other);
    world.containerd.assert_gone(&other);
    place.assert_clean();
}

/// What a web server at a port of the pod says, by containerd's own port-forward: over a stream of CRI, whose first bytes
/// name the port.
fn forwarded(kubelet: &Kubelet, pod: &str, port: u16) -> io::Result<String> {
    let question = PortForwardRequest { pod_sandbox_id: pod.into(), port: vec![port.into()] };
    let answer: PortForwardResponse = kubelet.runtime("PortForward", question).expect("an address");
    let (host, path) =
        answer.url.strip_prefix("http://").and_then(|url| url.split_once('/')).expect("an address of HTTP");
    let stream = dial_in(&kubelet.host.name, host)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut socket = WebSocket::open(stream, host, &format!("/{path}"), "v4.channel.k8s.io")?;
    socket.send(b"\0GET /page HTTP/1.0\r\n\r\n")?;
    let (mut said, mut named) = (Vec::new(), false);
    while let Some(message) = socket.receive()? {
        match message.split_first() {
            Some((0, bytes)) if named => said.extend(bytes),
            Some((0, bytes)) => {
                assert_eq!(bytes, port.to_le_bytes());
                named = true;
            }
            // Errors, beginning with the port as well.
            Some((1, bytes)) if bytes.len() > 2 => {
                return Err(io::Error::other(String::from_utf8_lossy(bytes)));
            }
            _ => {}
        }
        let text = String::from_utf8_lossy(&said);
        if let Some((_, page)) = text.split_once("\r\n\r\n").filter(|(_, page)| page.ends_with('\n')) {
            return Ok(page.trim().to_owned());
        }
    }
    Err(io::Error::other("it ended without an answer"))
}

fn is_forwarded_by(release: &str) {
    let Some(kubelet) = Kubelet::start(release) else { return };
    let pod_config = kubelet.pod("forward");
    let pod = kubelet.run_pod(KATA, &pod_config).expect("a pod");
    let script = format!(
        "{} && {} && sleep 1000",
        server("127.0.0.1", 7001, "loopback"),
        server("0.0.0.0", 7002, "everywhere")
    );
    let config = kubelet.script("server", &script);
    let container = kubelet.create(&pod, &config, &pod_config).expect("a container");
    kubelet.start_container(&container).expect("started");
    for (port, page) in [(7001, "loopback"), (7002, "everywhere")] {
        let began = Instant::now();
        let said = loop {
            match forwarded(&kubelet, &pod, port) {
                Ok(said) => break said,
                Err(error) => assert!(began.elapsed() < PATIENCE, "{error}: {}", kubelet.containerd.log()),
            }
            thread::sleep(Duration::from_millis(100));
        };
        assert_eq!(said, page);
    }
    kubelet.stop_pod(&pod).expect("stopped");
    kubelet.remove_pod(&pod).expect("removed");
    kubelet.containerd.assert_gone(&pod);
}

#[test]
fn the_installed_containerd_forwards_ports() {
    is_forwarded_by("");
}

#[test]
fn containerd_1_7_forwards_ports() {
    is_forwarded_by("1.7");
}

#[test]
fn containerd_2_forwards_ports() {
    is_forwarded_by("2");
}

//! Real Docker daemons, three releases: each network that users give their containers.
//!
//! Releases differ in when interfaces come: 20.10 puts them there from a hook while the container is created, 26 between
//! create and start, 28 more at start. A container's first packet is to find them in each.

use std::time::Instant;

use integration::{
    docker::Docker,
    environment::Environment,
    name_server::{ADDRESS, NAME, question},
};

const SERVE: &str = "mkdir -p /tmp/www && hostname >/tmp/www/name && exec httpd -f -p 0.0.0.0:80 -h /tmp/www";
const SERVE_SIX: &str =
    "mkdir -p /tmp/www && hostname >/tmp/www/name && exec httpd -f -p [::]:80 -h /tmp/www";
/// Of Docker's own name server, as the container's resolv.conf has it.
const ASK: &str = "grep nameserver /etc/resolv.conf; nslookup -type=a NAME";
const REST: &str = "trap 'exit 9' TERM; while :; do sleep 1 & wait $!; done";

/// A script that prints the name of the server there. A static busybox cannot look names up, as its wget tries to.
fn fetch(address: &str, port: u16) -> String {
    format!("printf 'GET /name HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 5 {address} {port} | tail -n 1")
}

type Scenario = (&'static str, fn(&Docker));

const ALL: [Scenario; 8] = [
    ("by name", by_name),
    ("life", life),
    ("default bridge", default_bridge),
    ("user network", user_network),
    ("names of others", names_of_others),
    ("connect and disconnect", connect_and_disconnect),
    ("none", none),
    ("IPv6", ipv6),
];

/// Scenarios with one daemon.
fn networks(release: &str, scenarios: &[Scenario]) {
    let Some(env) = Environment::find() else { return };
    let Some(docker) = Docker::start(&env, release) else { return };
    for (name, scenario) in scenarios {
        let began = Instant::now();
        scenario(&docker);
        eprintln!("docker {release}, {name}: {:.1?}", began.elapsed());
    }
}

#[test]
fn docker_20_gives_containers_their_networks() {
    // It knows shims by the name of runc's alone, which ours has been given.
    networks("20", &ALL[1..]);
}

#[test]
fn docker_26_gives_containers_their_networks() {
    networks("26", &ALL);
}

#[test]
fn docker_of_debian_sid_gives_containers_their_networks() {
    networks("sid", &ALL);
}

/// The shim's own name does as well as one from the daemon's configuration.
fn by_name(docker: &Docker) {
    let named = docker.run("--runtime io.containerd.kata.v2", "ip -o -4 addr show eth0");
    assert!(named.text().contains("10.201.0."), "{}{}", named.text(), named.stderr);
}

fn life(docker: &Docker) {
    // The first thing that a container does is to send one packet, which is answered.
    let first = docker.run("", "ping -c 1 -W 2 10.201.0.1 >&2 && echo out && echo err >&2; exit 3");
    assert_eq!((first.code, first.text().as_str()), (3, "out\n"), "{}\n{}", first.stderr, docker.log());
    assert!(first.stderr.contains(" 0% packet loss") && first.stderr.contains("err"), "{}", first.stderr);

    let id = docker.start_container("life", "--hostname here", &format!("echo began; {REST}"));
    assert_eq!(docker.inside("life", "hostname; echo from exec"), "here\nfrom exec\n");
    let failed = docker.docker(&["exec", "life", "sh", "-c", "exit 7"]);
    assert_eq!(failed.code, 7, "{}", failed.stderr);
    assert_eq!(docker.ok(&["logs", "life"]), "began");
    docker.ok(&["stop", "life"]);
    assert_eq!(docker.inspect("life", "{{.State.Status}} {{.State.ExitCode}}"), "exited 9");
    docker.remove(&[id]);
}

fn default_bridge(docker: &Docker) {
    let options = "--hostname server -p 127.0.0.1:8081:80 -p 8082:80 --dns 10.1.2.3 --dns-search kata.test \
                   --add-host other:10.9.8.7";
    let server = docker.start_container("server", options, SERVE);
    let client = docker.start_container("client", "", REST);
    let address = docker.inspect("server", "{{.NetworkSettings.IPAddress}}");
    let mac = docker.inspect("server", "{{.NetworkSettings.MacAddress}}");
    let shown = docker.inside("server", "ip addr show eth0; ip route");
    assert!(shown.contains(&format!("{address}/24")) && shown.contains(&mac), "{address} {mac}: {shown}");
    assert!(shown.contains("default via 10.201.0.1 dev eth0"), "{shown}");

    let resolver = docker.inside("server", "cat /etc/resolv.conf");
    assert!(resolver.contains("nameserver 10.1.2.3") && resolver.contains("search kata.test"), "{resolver}");
    let hosts = docker.inside("server", "cat /etc/hosts");
    assert!(hosts.contains("10.9.8.7\tother") && hosts.contains(&format!("{address}\tserver")), "{hosts}");

    docker.wait_inside("client", &fetch(&address, 80), |said| said == "server\n");
    // By the proxy, and by the rules.
    let host = docker.outside("ip -4 -o addr show docker0");
    assert!(host.text().contains("10.201.0.1"), "{}", host.text());
    for (address, port) in [("127.0.0.1", 8081), ("127.0.0.1", 8082), ("10.201.0.1", 8082)] {
        let said = docker.outside(&fetch(address, port));
        assert_eq!(said.text(), "server\n", "{address}:{port}: {}", said.stderr);
    }
    assert_eq!(docker.inside("client", &fetch("10.201.0.1", 8082)), "server\n");
    docker.remove(&[server, client]);
    assert_eq!(docker.outside(&fetch("127.0.0.1", 8081)).text(), "");
}

fn user_network(docker: &Docker) {
    docker.ok(&["network", "create", "--subnet", "10.203.0.0/24", "users"]);
    docker.ok(&["network", "create", "--subnet", "10.204.0.0/24", "others"]);
    let options = "--network users --ip 10.203.0.77 --mac-address 02:42:0a:cb:00:99 --hostname fixed";
    let fixed = docker.create_container("fixed", options, SERVE);
    // Two networks before its start.
    docker.ok(&["network", "connect", "--ip", "10.204.0.78", "others", "fixed"]);
    docker.ok(&["start", "fixed"]);
    let shown = docker.inside("fixed", "ip addr; ip route");
    for wanted in ["10.203.0.77/24", "02:42:0a:cb:00:99", "10.204.0.78/24"] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
    // One packet in each, from the very beginning.
    for (network, gateway, server) in
        [("users", "10.203.0.1", "10.203.0.77"), ("others", "10.204.0.1", "10.204.0.78")]
    {
        let script = format!("ping -c 1 -W 2 {gateway} && {}", fetch(server, 80));
        let peer = docker.run(&format!("--network {network}"), &script);
        assert_eq!(peer.code, 0, "{network}: {}{}", peer.text(), peer.stderr);
        assert!(peer.text().ends_with("fixed\n"), "{}", peer.text());
    }
    let peer = docker.run("--network users", &ASK.replace("NAME", "fixed"));
    assert!(peer.text().contains("10.203.0.77"), "{}{}\n{}", peer.text(), peer.stderr, docker.log());
    docker.remove(&[fixed]);
    docker.ok(&["network", "rm", "users", "others"]);
}

/// A name that Docker's name server does not know is asked by it of the one that `--dns` names, from within the container's
/// network namespace. Who asks that one without Docker is answered as well.
fn names_of_others(docker: &Docker) {
    let _server = docker.serve_names();
    docker.ok(&["network", "create", "--subnet", "10.207.0.0/24", "askers"]);
    let id = docker.start_container("asker", "--network askers --dns 10.207.0.1", REST);
    let resolver = docker.inside("asker", "cat /etc/resolv.conf");
    assert!(resolver.contains("nameserver 127.0.0.11"), "{resolver}");
    // Each way in turn, so that none is done before another begins.
    let ask = |server: &str| {
        let by_udp = format!("nslookup -type=a {NAME} {server} | grep -q 'Address: {ADDRESS}'");
        let by_tcp =
            format!("{} | busybox nc -w 10 {server} 53 | tail -c 4 | od -An -tu1", print(&question()));
        let said = ADDRESS.octets().map(|byte| format!("{byte:4}")).concat();
        format!("{by_udp} || echo $i {server}; [ \"$({by_tcp})\" = '{said}' ] || echo $i {server} by TCP")
    };
    let script = [ask("127.0.0.11"), ask("10.207.0.1")].join("; ");
    for _ in 0..4 {
        let said = docker.inside("asker", &format!("for i in 1 2 3 4 5; do {script}; done; echo end"));
        assert_eq!(said, "end\n", "{}", docker.log());
    }
    docker.remove(&[id]);
    docker.ok(&["network", "rm", "askers"]);
}

/// A script that prints a question as it is asked by TCP.
fn print(question: &[u8]) -> String {
    let octal = |byte: &u8| format!("\\{byte:03o}");
    let length = (question.len() as u16).to_be_bytes();
    format!("printf '{}'", length.iter().chain(question).map(octal).collect::<String>())
}

/// Whether Docker has said it.
fn knows(said: &str) -> bool {
    said.contains("127.0.0.11") && said.contains(&ADDRESS.to_string())
}

fn connect_and_disconnect(docker: &Docker) {
    let _server = docker.serve_names();
    docker.ok(&["network", "create", "--subnet", "10.205.0.0/24", "later"]);
    let id = docker.start_container("moving", "--dns 10.205.0.1", REST);
    docker.ok(&["network", "connect", "--ip", "10.205.0.7", "later", "moving"]);
    docker.wait_inside("moving", "ip -o addr", |shown| shown.contains("10.205.0.7/24"));
    docker.wait_inside("moving", "ping -c 1 -W 1 10.205.0.1", |said| said.contains(" 0% packet loss"));
    // Docker has written the new address into the file that the container has already.
    docker.wait_inside("moving", "cat /etc/hosts", |hosts| hosts.contains("10.205.0.7"));
    docker.wait_inside("moving", &ASK.replace("NAME", "moving"), |said| said.contains("10.205.0.7"));
    docker.wait_inside("moving", &ASK.replace("NAME", NAME), knows);
    docker.ok(&["network", "disconnect", "later", "moving"]);
    docker.wait_inside("moving", "ip -o addr", |shown| !shown.contains("10.205.0.7"));
    // What is left goes on.
    let said = docker.inside("moving", "ping -c 1 -W 2 10.201.0.1");
    assert!(said.contains(" 0% packet loss"), "{said}");
    // And back again.
    docker.ok(&["network", "connect", "--ip", "10.205.0.8", "later", "moving"]);
    docker.wait_inside("moving", "ping -c 1 -W 1 10.205.0.1", |said| said.contains(" 0% packet loss"));
    docker.wait_inside("moving", &ASK.replace("NAME", NAME), knows);
    docker.remove(&[id]);
    docker.ok(&["network", "rm", "later"]);
}

fn none(docker: &Docker) {
    let links = docker.run("--network none", "ip -o link");
    assert_eq!(links.code, 0, "{}", links.stderr);
    let links = links.text();
    assert!(links.lines().count() == 1 && links.contains(" lo:"), "{links}");
}

fn ipv6(docker: &Docker) {
    docker.ok(&[
        "network",
        "create",
        "--ipv6",
        "--subnet",
        "fd00:206::/64",
        "--subnet",
        "10.206.0.0/24",
        "six",
    ]);
    let options = "--network six --ip6 fd00:206::66 --hostname six --dns fd00:206::1";
    let id = docker.start_container("six", options, SERVE_SIX);
    let shown = docker.inside("six", "ip -6 addr; ip -6 route");
    assert!(shown.contains("fd00:206::66/64") && shown.contains("default via fd00:206::1"), "{shown}");
    docker.wait_inside("six", "ping -6 -c 1 -W 1 fd00:206::1", |said| said.contains(" 0% packet loss"));
    let peer = docker.run("--network six", &fetch("fd00:206::66", 80));
    assert_eq!(peer.text(), "six\n", "{}", peer.stderr);
    let _server = docker.serve_names();
    let resolver = docker.inside("six", "cat /etc/resolv.conf");
    // 20.10 lets the container ask a server that has an IPv6 address; the others ask it, and by IPv6.
    if !resolver.lines().any(|line| line == "nameserver fd00:206::1") {
        docker.wait_inside("six", &format!("nslookup -type=a {NAME} 127.0.0.11"), knows);
    }
    docker.remove(&[id]);
    docker.ok(&["network", "rm", "six"]);
}

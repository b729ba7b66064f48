//! Networks, names and ports.

use integration::podman::Podman;

use crate::{FETCH, SERVE};

/// The machine's perl, since the image has no program that serves by UDP.
const ECHO: &str = "use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalPort => 5300, Proto => \"udp\") or die; \
                    while ($s->recv(my $said, 100)) { $s->send(\"heard $said\") }";
const ASK: &str = "use IO::Socket::INET; my $s = IO::Socket::INET->new(PeerAddr => \"127.0.0.1:5301\", Proto => \"udp\"); \
                   $s->send(\"it\"); alarm 1; $s->recv(my $answer, 100); print $answer";

/// By the default bridge, with a published port.
pub fn network(podman: &Podman) {
    let id = podman.start_container("server", "-p 8081:80", SERVE);
    let address = podman.ok(&["inspect", "--format", "{{.NetworkSettings.IPAddress}}", "server"]);
    assert!(address.starts_with("10.208.0."), "{address}");
    assert!(podman.inside("server", "ip -o -4 addr show eth0").contains(&address));
    let fetch = |at: &str| FETCH.replace("ADDRESS", at);
    for at in ["127.0.0.1 8081", "10.208.0.1 8081", &format!("{address} 80")] {
        podman.wait_for(at, || podman.outside(&fetch(at)).text() == "served\n");
    }
    podman.ok(&["rm", "--force", "--time", "0", "server"]);
    podman.assert_gone(&id);
    assert_eq!(podman.outside(&fetch("127.0.0.1 8081")).text(), "");
}

/// In a network of one's own: by name, and by a published port.
pub fn names_and_ports(podman: &Podman) {
    podman.ok(&["network", "create", "named"]);
    let id = podman.start_container("server", "--network named -p 8081:80", SERVE);
    let asked =
        podman.run("--network named", &format!("nslookup server; {}", FETCH.replace("ADDRESS", "server 80")));
    assert!(
        asked.text().contains("server.dns.podman") && asked.text().ends_with("served\n"),
        "{}",
        asked.text()
    );
    let fetch = FETCH.replace("ADDRESS", "127.0.0.1 8081");
    podman.wait_for("the published port", || podman.outside(&fetch).text() == "served\n");
    podman.ok(&["rm", "--force", "--time", "0", "server"]);
    podman.assert_gone(&id);

    let options =
        "--network named -p 5301:5300/udp -v /usr:/usr:ro -v /usr/lib:/lib:ro -v /usr/lib64:/lib64:ro";
    let id = podman.start_container("echo", options, &format!("exec perl -e '{ECHO}'"));
    let asked = format!("perl -e '{ASK}'");
    podman.wait_for("the published port of UDP", || podman.outside(&asked).text() == "heard it");
    podman.ok(&["rm", "--force", "--time", "0", "echo"]);
    podman.assert_gone(&id);
    podman.ok(&["network", "rm", "named"]);
}

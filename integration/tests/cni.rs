//! Pods whose network the distribution's CNI plugins make, in real VMs: what the plugins made stands in the guest, packets
//! flow where they should, and the plugins' own clean-up finds nothing in its way.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use integration::{
    cni::{Host, Network, Pod, kernel_has},
    place::{addresses, dial_in, ip, listen_in, routes, unique},
    world::World,
};
use serde_json::{Value, json};

/// A machine next to the host: another network namespace, at the other end of the host's `lan0`.
struct Neighbour {
    name: String,
}

/// Addresses of the network between host and neighbour.
const LAN_HOST: &str = "192.168.77.1";
const LAN_NEIGHBOUR: &str = "192.168.77.2";

impl Neighbour {
    fn of(host: &Host) -> Self {
        let name = format!("kn{}", unique());
        ip(&format!("netns add {name}"));
        ip(&format!("link add lan0 netns {} type veth peer name lan0 netns {name}", host.name));
        for (namespace, address) in [(&host.name, LAN_HOST), (&name, LAN_NEIGHBOUR)] {
            ip(&format!("-n {namespace} link set lo up"));
            ip(&format!("-n {namespace} addr add {address}/24 dev lan0"));
            ip(&format!("-n {namespace} link set lan0 up"));
        }
        Self { name }
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // The test has said what is wrong.
        let _ = std::process::Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// A pod that was added to networks, and runs.
struct Guest<'a> {
    world: &'a World,
    pod: Pod,
    id: String,
    added: Vec<(&'a Network<'a>, String, Value, Value)>,
}

impl<'a> Guest<'a> {
    fn start(world: &'a World, networks: &[(&'a Network<'a>, &str)], capabilities: &Value) -> Self {
        let pod = Pod::new();
        let added = networks
            .iter()
            .map(|(network, interface)| {
                let result = network.add(&pod, interface, capabilities);
                (*network, (*interface).to_owned(), capabilities.clone(), result)
            })
            .collect();
        let id = format!("cni-{}", pod.name);
        world.start_pod(&pod.name, &id);
        Self { world, pod, id, added }
    }

    fn inside(&self, script: &str) -> String {
        self.world.inside(&self.id, script)
    }

    /// The first IPv4 address that the plugins report, without the length of its prefix.
    fn address(&self) -> String {
        let ips = self.added[0].3["ips"].as_array().expect("addresses");
        let v4 = ips.iter().filter_map(|ip| ip["address"].as_str()).find(|address| address.contains('.'));
        v4.and_then(|address| address.split('/').next()).expect("an address").to_owned()
    }

    /// What stands in the pod's network namespace stands in the guest.
    fn assert_same(&self, interface: &str) {
        let show = format!("addr show dev {interface}");
        let (ours, theirs) = (self.pod.ip(&show), self.inside(&format!("ip {show}")));
        assert_eq!(addresses(&theirs), addresses(&ours), "{theirs}");
        let word = |after: &str| ours.split_whitespace().skip_while(|word| *word != after).nth(1);
        let (mac, mtu) = (word("link/ether").expect("a MAC"), word("mtu").expect("an MTU"));
        assert!(theirs.contains(mac) && theirs.contains(&format!("mtu {mtu} ")), "{mac} {mtu}: {theirs}");
        for family in ["-4", "-6"] {
            let show = format!("{family} route");
            let (ours, theirs) = (self.pod.ip(&show), self.inside(&format!("ip {show}")));
            assert_eq!(routes(&theirs), routes(&ours), "{theirs}\n{ours}");
        }
    }

    /// Starts a web server on all addresses, with a page that says `page`.
    fn serve(&self, port: u16, page: &str) {
        self.inside(&format!("mkdir -p /tmp/w && echo {page} >/tmp/w/page && httpd -p {port} -h /tmp/w"));
    }

    /// The page of a web server, fetched by the pod.
    fn fetch(&self, host: &str, port: u16) -> String {
        let said = self
            .inside(&format!("printf 'GET /page HTTP/1.0\\r\\n\\r\\n' | timeout 20 nc -w 10 {host} {port}"));
        said.lines().last().unwrap_or_default().to_owned()
    }

    /// Ends the pod, and then its networks, as engines do.
    fn end(self) {
        self.world.containerd.remove(&self.id);
        self.world.containerd.assert_gone(&self.id);
        let left = self.pod.ip("-o link");
        assert!(!left.contains("_kata"), "{left}");
        for (network, interface, capabilities, result) in self.added.iter().rev() {
            network.del(&self.pod, interface, capabilities, result);
            let links = self.pod.ip("-o link");
            assert!(*interface == "lo" || !links.contains(&format!(" {interface}")), "{links}");
        }
    }
}

/// The page of a web server, fetched from a network namespace.
fn fetch_in(namespace: &str, from: &str) -> String {
    let mut stream: TcpStream = dial_in(namespace, from).unwrap_or_else(|error| panic!("{from}: {error}"));
    stream.write_all(b"GET /page HTTP/1.0\r\n\r\n").expect("ask");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("read");
    said.lines().last().unwrap_or_default().to_owned()
}

fn addresses_from(subnets: &[&str]) -> Value {
    let ranges: Vec<_> = subnets.iter().map(|subnet| json!([{ "subnet": subnet }])).collect();
    json!({
        "type": "host-local", "ranges": ranges, "dataDir": "DATA",
        "routes": [{ "dst": "0.0.0.0/0" }],
    })
}

#[test]
fn the_usual_chain_gives_two_pods_a_bridge_published_ports_and_the_world() {
    let Some(world) = World::open() else { return };
    let Some(host) = Host::new() else { return };
    let neighbour = Neighbour::of(&host);
    let before = host.run("iptables-save | sed 's,#.*,,'");
    let network = host.network(
        "usual",
        json!([
            { "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "mtu": 1450,
              "ipam": addresses_from(&["10.88.0.0/24", "fd00:88::/64"]) },
            { "type": "tuning", "capabilities": { "mac": true }, "mtu": 1420 },
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
            { "type": "firewall", "backend": "iptables" },
        ]),
    );
    let loopback = host.network("lo", json!([{ "type": "loopback" }]));
    let capabilities = json!({
        "mac": "02:11:22:33:44:55",
        "portMappings": [{ "hostPort": 18080, "containerPort": 80, "protocol": "tcp" }],
    });
    let first = Guest::start(&world, &[(&network, "eth0"), (&loopback, "lo")], &capabilities);
    let second = Guest::start(&world, &[(&network, "eth0"), (&loopback, "lo")], &json!({}));
    first.assert_same("eth0");
    second.assert_same("eth0");
    let shown = first.inside("ip addr show dev eth0");
    assert!(shown.contains("02:11:22:33:44:55") && shown.contains("mtu 1420 "), "{shown}");

    first.serve(80, "first");
    second.serve(80, "second");
    // Between pods, from the host, and by the published port: from the host's own address, its loopback, next door.
    assert_eq!(second.fetch(&first.address(), 80), "first");
    assert_eq!(first.fetch(&second.address(), 80), "second");
    assert_eq!(fetch_in(&host.name, &format!("{}:80", first.address())), "first");
    for (namespace, address) in
        [(&host.name, LAN_HOST), (&host.name, "127.0.0.1"), (&neighbour.name, LAN_HOST)]
    {
        assert_eq!(fetch_in(namespace, &format!("{address}:18080")), "first", "{address}");
    }
    // By its own published port, and out into the world, where it shows the host's address.
    assert_eq!(first.fetch(LAN_HOST, 18080), "first");
    let listener = listen_in(&neighbour.name, &format!("{LAN_NEIGHBOUR}:7000")).expect("listen");
    second.inside(&format!("nc -w 10 {LAN_NEIGHBOUR} 7000 </dev/null >/dev/null 2>&1 &"));
    let (_, peer) = listener.accept().expect("a connection");
    assert_eq!(peer.ip().to_string(), LAN_HOST);

    let two = host.leases("usual").len();
    first.end();
    second.end();
    assert_eq!((two, host.leases("usual").len()), (4, 0));
    // The chains stay, as they do for every runtime; nothing in them is of the pods.
    let after = host.run("iptables-save | sed 's,#.*,,'");
    for word in ["10.88.0.", "18080", "CNI-DN-"] {
        assert!(!before.contains(word) && !after.contains(word), "{word}: {after}");
    }
    let links = host.run("ip -o link");
    assert!(!links.contains("veth"), "{links}");
}

#[test]
fn a_point_to_point_link_and_a_second_network_stand_side_by_side() {
    let Some(world) = World::open() else { return };
    let Some(host) = Host::new() else { return };
    let link = host
        .network("ptp", json!([{ "type": "ptp", "mtu": 1300, "ipam": addresses_from(&["10.89.0.0/24"]) }]));
    let bridge = host.network(
        "second",
        json!([{ "type": "bridge", "bridge": "cni1", "isGateway": true, "ipam": {
            "type": "host-local", "subnet": "10.90.0.0/24", "dataDir": "DATA",
            "routes": [{ "dst": "10.91.0.0/16", "gw": "10.90.0.1" }],
        } }]),
    );
    let guest = Guest::start(&world, &[(&link, "eth0"), (&bridge, "net1")], &json!({}));
    guest.assert_same("eth0");
    guest.assert_same("net1");
    guest.serve(80, "here");
    guest.inside("ping -c 1 -W 5 10.89.0.1 && ping -c 1 -W 5 10.90.0.1");
    for (_, _, _, result) in &guest.added {
        let address = result["ips"][0]["address"].as_str().and_then(|address| address.split('/').next());
        assert_eq!(fetch_in(&host.name, &format!("{}:80", address.expect("an address"))), "here");
    }
    guest.end();
    assert_eq!(host.leases("ptp").len() + host.leases("second").len(), 0);
}

/// A pod on a link that shares `lan0` with the host, and its neighbour next door.
fn shares_the_hosts_link(kind: &str, plugin: Value) {
    if !kernel_has(kind) {
        return;
    }
    let Some(world) = World::open() else { return };
    let Some(host) = Host::new() else { return };
    let neighbour = Neighbour::of(&host);
    let layer3 = plugin["mode"] == "l3";
    let mut plugin = plugin;
    plugin["master"] = json!("lan0");
    plugin["ipam"] = json!({
        "type": "host-local", "dataDir": "DATA",
        "subnet": if layer3 { "192.168.78.0/24" } else { "192.168.77.0/24" },
        "rangeStart": if layer3 { "192.168.78.50" } else { "192.168.77.50" },
    });
    if layer3 {
        ip(&format!("-n {} route add 192.168.78.0/24 via {LAN_HOST}", neighbour.name));
        plugin["ipam"]["routes"] = json!([{ "dst": "0.0.0.0/0" }]);
    }
    if kind == "vlan" {
        let tagged = format!("-n {} link add link lan0 lan5 type vlan id 5", neighbour.name);
        ip(&tagged);
        ip(&format!("-n {} addr del {LAN_NEIGHBOUR}/24 dev lan0", neighbour.name));
        ip(&format!("-n {} addr add {LAN_NEIGHBOUR}/24 dev lan5", neighbour.name));
        ip(&format!("-n {} link set lan5 up", neighbour.name));
    }
    let network = host.network(kind, json!([plugin]));
    let first = Guest::start(&world, &[(&network, "eth0")], &json!({}));
    let second = Guest::start(&world, &[(&network, "eth0")], &json!({}));
    for (guest, page) in [(&first, "first"), (&second, "second")] {
        guest.assert_same("eth0");
        guest.serve(80, page);
        guest.inside(&format!("ping -c 2 -W 5 {LAN_NEIGHBOUR}"));
        assert_eq!(fetch_in(&neighbour.name, &format!("{}:80", guest.address())), page);
    }
    assert_eq!(second.fetch(&first.address(), 80), "first");
    first.end();
    second.end();
    assert_eq!(host.leases(kind).len(), 0);
}

#[test]
fn a_macvlan_is_a_machine_of_its_own_on_the_hosts_link() {
    shares_the_hosts_link("macvlan", json!({ "type": "macvlan", "mode": "bridge" }));
}

#[test]
fn an_ipvlan_shares_the_address_of_the_hosts_link() {
    shares_the_hosts_link("ipvlan", json!({ "type": "ipvlan", "mode": "l2" }));
}

#[test]
fn an_ipvlan_of_layer_3_needs_no_neighbours() {
    shares_the_hosts_link("ipvlan", json!({ "type": "ipvlan", "mode": "l3" }));
}

#[test]
fn a_vlan_reaches_the_guest_without_its_tag() {
    shares_the_hosts_link("vlan", json!({ "type": "vlan", "vlanId": 5 }));
}

//! The network calls against the kernel: each test has a network namespace of its own, in which pairs of virtual links are
//! the VM's.

use std::{io, process::Command, sync::Arc, time::Duration};

use agent::{Guest, GuestConfig, Isolation};
use futures::stream;
use nix::sched::{CloneFlags, unshare};
use protocols::{agent as wire, agent_ttrpc::AgentServiceClient, types};
use tokio::net::UnixStream;
use ttrpc::{
    Code,
    r#async::{Client, transport::Socket},
    context::{self, Context},
};

const MAC_A: &str = "02:00:00:00:00:0a";
const MAC_B: &str = "02:00:00:00:00:0b";

/// An agent in a new network namespace.
struct Served {
    agent: AgentServiceClient,
    _dir: tempfile::TempDir,
}

/// `None` where the test cannot run.
fn served() -> Option<Served> {
    // Of this thread alone, on which the agent runs as well.
    if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
        eprintln!("skipped: a network namespace needs root: {errno}");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = GuestConfig {
        isolation: Isolation::PlainChildren,
        bundles: dir.path().join("guest"),
        pipe_size: 0,
        hotplug_timeout: Duration::from_secs(10),
    };
    let (host, guest) = UnixStream::pair().unwrap();
    let connections = futures::StreamExt::chain(stream::iter([io::Result::Ok(guest)]), stream::pending());
    tokio::spawn(agent::serve(connections, Arc::new(Guest::new(config))));
    Some(Served { agent: AgentServiceClient::new(Client::new(Socket::new(host))), _dir: dir })
}

/// Runs iproute2 in this thread's namespace.
fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip of iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A link of the guest, whose other end is up.
fn link(name: &str, mac: &str) {
    ip(&format!("link add {name} address {mac} type veth peer name {name}-peer"));
    ip(&format!("link set {name}-peer up"));
}

fn interface(name: &str, mac: &str, addresses: &[&str]) -> types::Interface {
    let address = |cidr: &&str| {
        let (address, mask) = cidr.split_once('/').unwrap();
        let family = if address.contains(':') { types::IPFamily::v6 } else { types::IPFamily::v4 };
        types::IPAddress {
            family: family.into(),
            address: address.into(),
            mask: mask.into(),
            ..Default::default()
        }
    };
    types::Interface {
        name: name.into(),
        hwAddr: mac.into(),
        IPAddresses: addresses.iter().map(address).collect(),
        ..Default::default()
    }
}

fn route(dest: &str, gateway: &str, device: &str) -> types::Route {
    let is_v6 = dest.contains(':') || gateway.contains(':');
    types::Route {
        dest: dest.into(),
        gateway: gateway.into(),
        device: device.into(),
        family: if is_v6 { types::IPFamily::v6 } else { types::IPFamily::v4 }.into(),
        ..Default::default()
    }
}

fn within() -> Context {
    context::with_duration(Duration::from_secs(20))
}

fn refusal<T: std::fmt::Debug>(result: ttrpc::Result<T>) -> (Code, String) {
    match result.unwrap_err() {
        ttrpc::Error::RpcStatus(status) => (status.code(), status.message),
        error => panic!("no status: {error}"),
    }
}

impl Served {
    async fn try_update(&self, interface: types::Interface) -> ttrpc::Result<types::Interface> {
        let request =
            wire::UpdateInterfaceRequest { interface: Some(interface).into(), ..Default::default() };
        self.agent.update_interface(within(), &request).await
    }

    async fn update(&self, interface: types::Interface) {
        self.try_update(interface).await.unwrap();
    }

    async fn try_routes(&self, routes: Vec<types::Route>) -> ttrpc::Result<Vec<types::Route>> {
        let routes = Some(wire::Routes { Routes: routes, ..Default::default() }).into();
        let request = wire::UpdateRoutesRequest { routes, ..Default::default() };
        Ok(self.agent.update_routes(within(), &request).await?.Routes)
    }

    async fn routes(&self, routes: Vec<types::Route>) -> Vec<types::Route> {
        self.try_routes(routes).await.unwrap()
    }

    async fn interfaces(&self) -> Vec<types::Interface> {
        let request = wire::ListInterfacesRequest::new();
        self.agent.list_interfaces(within(), &request).await.unwrap().Interfaces
    }

    async fn interface(&self, name: &str) -> types::Interface {
        let found = self.interfaces().await.into_iter().find(|interface| interface.name == name);
        found.unwrap_or_else(|| panic!("no interface {name}"))
    }
}

fn addresses(interface: &types::Interface) -> Vec<String> {
    interface.IPAddresses.iter().map(|address| format!("{}/{}", address.address, address.mask)).collect()
}

#[tokio::test]
async fn an_interface_gets_its_name_mtu_flags_and_addresses() {
    let Some(served) = served() else { return };
    link("veth0", MAC_A);
    let wanted = types::Interface {
        mtu: 1400,
        raw_flags: 0x80,
        ..interface(
            "a-name-of-15-ch",
            &MAC_A.to_uppercase(),
            &["10.1.0.2/24", "10.1.0.3/24", "fd00::2/64", "fe80::aa/64"],
        )
    };
    let answer = served.try_update(wanted.clone()).await.unwrap();
    assert_eq!(answer, wanted);
    let found = served.interface("a-name-of-15-ch").await;
    assert_eq!((found.mtu, found.raw_flags, found.hwAddr.as_str()), (1400, 0x80, "02:00:00:00:00:0A"));
    let mut listed = addresses(&found);
    listed.sort();
    assert_eq!(listed, ["10.1.0.2/24", "10.1.0.3/24", "fd00::2/64", "fe80::aa/64"]);
    let told = ip("addr show dev a-name-of-15-ch");
    assert!(
        told.contains("state UP") && told.contains("NOARP") && told.contains("10.1.0.2/24 brd 10.1.0.255"),
        "{told}"
    );
    // It can be used at once: nobody looks first whether another has it.
    assert!(told.contains("nodad") && !told.contains("tentative"), "{told}");
    let families: Vec<_> =
        found.IPAddresses.iter().map(|ip| (ip.address.contains(':'), ip.family.value())).collect();
    assert!(families.iter().all(|(is_v6, family)| *family == i32::from(*is_v6)), "{families:?}");
}

#[tokio::test]
async fn addresses_and_settings_are_replaced_and_others_links_left_alone() {
    let Some(served) = served() else { return };
    link("eth0", MAC_A);
    link("eth1", MAC_B);
    served.update(interface("eth1", MAC_B, &["10.9.0.1/24"])).await;
    served
        .update(interface("eth0", MAC_A, &["10.1.0.2/24", "10.1.0.3/24", "fd00::2/64", "fe80::2/64"]))
        .await;
    // The first is what the second was secondary to, and the kernel removes both with it.
    served
        .update(types::Interface {
            mtu: 9000,
            ..interface("eth0", MAC_A, &["10.1.0.3/24", "fd00::3/64", "fe80::2/64"])
        })
        .await;
    let found = served.interface("eth0").await;
    assert_eq!(addresses(&found), ["10.1.0.3/24", "fd00::3/64", "fe80::2/64"]);
    assert_eq!(found.mtu, 9000);
    assert_eq!(addresses(&served.interface("eth1").await)[0], "10.9.0.1/24");
    // An interface that stays up keeps the routes that are not the kernel's.
    ip("route add 192.0.2.0/24 dev eth0");
    served.update(interface("eth0", MAC_A, &["10.4.0.3/24"])).await;
    assert_eq!(addresses(&served.interface("eth0").await), ["10.4.0.3/24"]);
    assert!(ip("route show").contains("192.0.2.0/24 dev eth0"));
    served.update(interface("eth0", MAC_A, &[])).await;
    assert_eq!(addresses(&served.interface("eth0").await), Vec::<String>::new());
}

#[tokio::test]
async fn the_address_of_the_link_is_the_hosts_the_kernels_or_none() {
    let Some(served) = served() else { return };
    link("eth0", MAC_A);
    let of_link = async || {
        let addresses = addresses(&served.interface("eth0").await);
        addresses.into_iter().filter(|address| address.starts_with("fe80")).collect::<Vec<_>>()
    };
    served.update(interface("eth0", MAC_A, &["10.1.0.2/24"])).await;
    assert_eq!(of_link().await, Vec::<String>::new());
    ip("link set eth0 down");
    served.update(interface("eth0", MAC_A, &["fd00::2/64"])).await;
    assert_eq!(of_link().await, ["fe80::ff:fe00:a/64"]);
    served.update(interface("eth0", MAC_A, &["fd00::2/64", "fe80::7/64"])).await;
    assert_eq!(of_link().await, ["fe80::7/64"]);
}

#[tokio::test]
async fn two_links_swap_their_names_also_while_they_are_up() {
    let Some(served) = served() else { return };
    link("eth0", MAC_A);
    link("eth1", MAC_B);
    for (a, b) in [("eth1", "eth0"), ("eth0", "eth1")] {
        served.update(interface(a, MAC_A, &["10.1.0.2/24"])).await;
        served.update(interface(b, MAC_B, &["10.2.0.2/24"])).await;
        for (name, mac, address) in [(a, MAC_A, "10.1.0.2/24"), (b, MAC_B, "10.2.0.2/24")] {
            let found = served.interface(name).await;
            assert_eq!((found.hwAddr.to_lowercase().as_str(), addresses(&found)[0].as_str()), (mac, address));
            assert!(ip(&format!("link show dev {name}")).contains("state UP"));
        }
    }
}

#[tokio::test]
async fn links_with_one_hardware_address_become_one_interface_each() {
    let Some(served) = served() else { return };
    link("eth0", MAC_A);
    link("eth1", MAC_A);
    for _ in 0..2 {
        served.update(interface("net0", MAC_A, &["10.1.0.2/24"])).await;
        served.update(interface("net1", MAC_A, &["10.2.0.2/24"])).await;
    }
    assert_eq!(addresses(&served.interface("net0").await), ["10.1.0.2/24"]);
    assert_eq!(addresses(&served.interface("net1").await), ["10.2.0.2/24"]);
}

#[tokio::test]
async fn a_link_that_comes_later_is_waited_for() {
    let Some(served) = served() else { return };
    link("eth0", MAC_A);
    let update = served.try_update(interface("net0", MAC_B, &["10.1.0.2/24"]));
    let come = async {
        // Others go on meanwhile, and a link of another address is no reason to stop.
        served.update(interface("eth0", MAC_A, &["10.3.0.2/24"])).await;
        link("eth7", "02:00:00:00:00:0c");
        link("eth8", MAC_B);
    };
    let (updated, ()) = tokio::join!(update, come);
    updated.unwrap();
    assert_eq!(addresses(&served.interface("net0").await), ["10.1.0.2/24"]);
}

#[tokio::test]
async fn a_link_that_does_not_come_is_told_before_the_hosts_patience_ends() {
    let Some(served) = served() else { return };
    link("eth0", MAC_A);
    let interface = Some(interface("net0", MAC_B, &[])).into();
    let request = wire::UpdateInterfaceRequest { interface, ..Default::default() };
    let patience = context::with_duration(Duration::from_millis(1000));
    let (code, text) = refusal(served.agent.update_interface(patience, &request).await);
    assert_eq!(code, Code::NOT_FOUND);
    assert!(
        text.contains("Link not found: hwAddr 02:00:00:00:00:0B of interface net0, within 0.8 s"),
        "{text}"
    );
}

#[tokio::test]
async fn routes_of_every_kind_are_set_listed_and_replaced() {
    let Some(served) = served() else { return };
    link("eth0", MAC_A);
    served
        .update(interface("eth0", MAC_A, &["10.1.0.2/24", "10.1.0.9/24", "fd00::2/64", "fe80::2/64"]))
        .await;
    let wanted = vec![
        // Before the way to their gateway, which must be set first.
        types::Route { metric: 50, mtu: 1300, ..route("", "169.254.1.1", "eth0") },
        types::Route { scope: 253, ..route("169.254.1.1/32", "", "eth0") },
        types::Route { source: "10.1.0.9".into(), ..route("172.16.0.0/12", "10.1.0.1", "eth0") },
        types::Route { flags: 4, ..route("198.51.100.0/24", "192.0.2.1", "eth0") },
        types::Route { metric: 7, ..route("198.18.0.0/15", "fe80::1", "eth0") },
        types::Route { metric: 1024, family: types::IPFamily::v6.into(), ..route("", "fe80::1", "eth0") },
        types::Route { metric: 9, source: "fd00::2".into(), ..route("fd01::/48", "fd00::1", "eth0") },
    ];
    // The gateway of a route of IPv4 may be of IPv6.
    let wanted: Vec<_> = wanted
        .into_iter()
        .map(|route| match route.dest.starts_with("198.18") {
            true => types::Route { family: types::IPFamily::v4.into(), ..route },
            false => route,
        })
        .collect();
    let listed = served.routes(wanted.clone()).await;
    for route in &wanted {
        assert!(listed.contains(route), "{route:?}\n{listed:#?}");
    }
    let told = ip("route show");
    for line in [
        "default via 169.254.1.1 dev eth0 metric 50 mtu 1300",
        "169.254.1.1 dev eth0 scope link",
        "172.16.0.0/12 via 10.1.0.1 dev eth0 src 10.1.0.9",
        "198.51.100.0/24 via 192.0.2.1 dev eth0 onlink",
        "198.18.0.0/15 via inet6 fe80::1 dev eth0 metric 7",
    ] {
        assert!(told.lines().any(|found| found.trim() == line), "{line}\n{told}");
    }
    // What is listed can be set again and changes nothing.
    assert_eq!(served.routes(listed.clone()).await, listed);
    served.routes(wanted).await;
    ip("route add 203.0.113.0/24 dev eth0 proto static");

    let listed = served.routes(vec![
        types::Route { metric: 50, ..route("", "10.1.0.1", "eth0") },
        types::Route { metric: 1024, family: types::IPFamily::v6.into(), ..route("", "fe80::5", "eth0") },
    ]);
    let listed = listed.await;
    let told = ip("route show");
    assert!(told.contains("default via 10.1.0.1 dev eth0 metric 50"), "{told}");
    for gone in ["169.254.1.1", "172.16", "198.51", "198.18", "mtu"] {
        assert!(!told.contains(gone), "{gone}\n{told}");
    }
    // The kernel's own and others' stay.
    assert!(told.contains("10.1.0.0/24 dev eth0 proto kernel"), "{told}");
    assert!(told.contains("203.0.113.0/24 dev eth0"), "{told}");
    let defaults: Vec<_> = listed.iter().filter(|route| route.dest.is_empty()).collect();
    assert_eq!(
        defaults.iter().map(|route| route.gateway.as_str()).collect::<Vec<_>>(),
        ["10.1.0.1", "fe80::5"]
    );
}

#[tokio::test]
async fn a_route_that_changes_but_in_its_source_or_mtu_stays() {
    let Some(served) = served() else { return };
    link("eth0", MAC_A);
    served
        .update(interface(
            "eth0",
            MAC_A,
            &["10.1.0.2/24", "10.1.0.3/24", "fd00::2/64", "fd00::3/64", "fe80::2/64"],
        ))
        .await;
    for source in [("10.1.0.2", "fd00::2"), ("10.1.0.3", "fd00::3")] {
        let mut routes = vec![route("", "10.1.0.1", "eth0"), route("fd01::/48", "fd00::1", "eth0")];
        (routes[0].source, routes[1].source) = (source.0.into(), source.1.into());
        routes[0].mtu = if source.0.ends_with('2') { 1300 } else { 0 };
        served.routes(routes).await;
        assert!(ip("route show").contains(&format!("default via 10.1.0.1 dev eth0 src {}", source.0)));
        assert!(ip("-6 route show").contains(&format!("fd01::/48 via fd00::1 dev eth0 src {}", source.1)));
    }
    assert!(!ip("route show").contains("mtu"));
}

#[tokio::test]
async fn neighbours_are_set_and_replaced() {
    let Some(served) = served() else { return };
    link("eth0", MAC_A);
    served.update(interface("eth0", MAC_A, &["10.1.0.2/24", "fd00::2/64"])).await;
    let neighbour = |address: &str, lladdr: &str, state| types::ARPNeighbor {
        toIPAddress: Some(types::IPAddress { address: address.into(), ..Default::default() }).into(),
        device: "eth0".into(),
        lladdr: lladdr.into(),
        state,
        ..Default::default()
    };
    let add = async |neighbours| {
        let neighbors = Some(wire::ARPNeighbors { ARPNeighbors: neighbours, ..Default::default() }).into();
        let request = wire::AddARPNeighborsRequest { neighbors, ..Default::default() };
        served.agent.add_arp_neighbors(within(), &request).await
    };
    add(vec![neighbour("10.1.0.1", MAC_B, 0), neighbour("fd00::1", MAC_B, 0x02)]).await.unwrap();
    let told = ip("neigh show");
    assert!(told.contains("10.1.0.1 dev eth0 lladdr 02:00:00:00:00:0b PERMANENT"), "{told}");
    assert!(told.contains("fd00::1 dev eth0 lladdr 02:00:00:00:00:0b REACHABLE"), "{told}");
    add(vec![neighbour("10.1.0.1", MAC_A, 0x80)]).await.unwrap();
    assert!(ip("neigh show").contains("10.1.0.1 dev eth0 lladdr 02:00:00:00:00:0a PERMANENT"));
    let (code, text) = refusal(add(vec![neighbour("", MAC_A, 0)]).await);
    assert!(code == Code::INVALID_ARGUMENT && text.contains("toIPAddress.address"), "{text}");
    let elsewhere = types::ARPNeighbor { device: "eth9".into(), ..neighbour("10.1.0.1", MAC_A, 0) };
    let (_, text) = refusal(add(vec![elsewhere]).await);
    assert!(text.contains("Link not found: device \"eth9\""), "{text}");
}

#[tokio::test]
async fn what_is_no_interface_is_refused_by_its_field() {
    let Some(served) = served() else { return };
    link("eth0", MAC_A);
    let good = || interface("eth0", MAC_A, &["10.1.0.2/24"]);
    let with = |cidr: &str| interface("eth0", MAC_A, &[cidr]);
    for (broken, field) in [
        (types::Interface { name: "a-name-of-16-chr".into(), ..good() }, "name"),
        (types::Interface { name: String::new(), ..good() }, "name"),
        (types::Interface { name: "eth%d".into(), ..good() }, "name"),
        (types::Interface { name: "../x".into(), ..good() }, "name"),
        (types::Interface { name: "lo".into(), ..good() }, "name"),
        (types::Interface { hwAddr: String::new(), ..good() }, "hwAddr"),
        (types::Interface { hwAddr: "02:00:00:00:00".into(), ..good() }, "hwAddr"),
        (types::Interface { hwAddr: "02:00:00:00:00:0a:0b".into(), ..good() }, "hwAddr"),
        (types::Interface { hwAddr: "00:00:00:00:00:00".into(), ..good() }, "hwAddr"),
        (types::Interface { hwAddr: "03:00:00:00:00:0a".into(), ..good() }, "hwAddr"),
        (types::Interface { mtu: 1 << 40, ..good() }, "mtu"),
        (types::Interface { mtu: 70000, ..good() }, "mtu"),
        (types::Interface { mtu: 67, ..good() }, "mtu"),
        (with("10.1.0.256/24"), "IPAddresses.address"),
        (with("10.1.0.2/33"), "IPAddresses.mask"),
        (with("fd00::2/129"), "IPAddresses.mask"),
        (with("10.1.0.2/255.255.255.0"), "IPAddresses.mask"),
        (with("224.0.0.1/24"), "IPAddresses.address: 224.0.0.1 is no address of a host"),
    ] {
        let (code, text) = refusal(served.try_update(broken).await);
        assert!(text.contains(field), "{field}: {code:?} {text}");
    }
    let missing = served.agent.update_interface(within(), &wire::UpdateInterfaceRequest::new()).await;
    assert_eq!(refusal(missing).0, Code::INVALID_ARGUMENT);
    // The smallest MTU goes without IPv6, and what is of it is left out.
    served.update(types::Interface { mtu: 68, ..interface("eth0", MAC_A, &["10.1.0.2/24"]) }).await;
    assert_eq!(served.interface("eth0").await.mtu, 68);
}

#[tokio::test]
async fn what_is_no_route_is_refused_by_its_field() {
    let Some(served) = served() else { return };
    link("eth0", MAC_A);
    served.update(interface("eth0", MAC_A, &["10.1.0.2/24"])).await;
    for (broken, words) in [
        (route("10.5.0.0/16", "", "eth9"), "Link not found: device \"eth9\" of route 10.5.0.0/16"),
        (route("10.5.0.0/16", "", ""), "device"),
        (route("10.5.0.0/40", "", "eth0"), "dest"),
        (route("10.5.0.1/16", "", "eth0"), "dest: \"10.5.0.1/16\" has bits beyond its prefix"),
        (route("10.5.0.0/16", "nowhere", "eth0"), "gateway"),
        (route("fd01::/16", "10.1.0.1", "eth0"), "gateway, source"),
        (types::Route { scope: 256, ..route("10.5.0.0/16", "", "eth0") }, "scope"),
        (types::Route { source: "10.0.0.0/8".into(), ..route("10.5.0.0/16", "", "eth0") }, "source"),
        (route("10.5.0.0/16", "192.0.2.1", "eth0"), "route 10.5.0.0/16 via 192.0.2.1 dev eth0"),
    ] {
        let (_, text) = refusal(served.try_routes(vec![broken]).await);
        assert!(text.contains(words), "{words}: {text}");
    }
    // Parts of what failed are forgotten with the next that is set.
    let failed =
        served.try_routes(vec![route("10.6.0.0/16", "", "eth0"), route("10.7.0.0/16", "192.0.2.1", "eth0")]);
    refusal(failed.await);
    served.routes(vec![]).await;
    assert!(!ip("route show").contains("10.6"));
}

#[tokio::test]
async fn many_interfaces_addresses_and_routes_fit() {
    let Some(served) = served() else { return };
    for number in 0..20 {
        link(&format!("eth{number}"), &format!("02:00:00:00:01:{number:02x}"));
    }
    for number in 0..20 {
        let address = format!("10.{number}.0.2/24");
        let name = format!("net{number}");
        served.update(interface(&name, &format!("02:00:00:00:01:{number:02x}"), &[&address])).await;
    }
    let cidrs: Vec<String> = (1..=200).map(|host| format!("10.200.0.{host}/24")).collect();
    let cidrs: Vec<&str> = cidrs.iter().map(String::as_str).collect();
    served.update(interface("net0", "02:00:00:00:01:00", &cidrs)).await;
    assert_eq!(served.interface("net0").await.IPAddresses.len(), 200);
    let routes = (0..1000)
        .map(|number| route(&format!("172.{}.{}.0/24", 16 + number / 250, number % 250), "", "net1"));
    let listed = served.routes(routes.collect()).await;
    assert!(listed.iter().filter(|route| route.dest.starts_with("172.")).count() == 1000);
    assert_eq!(
        served.interfaces().await.iter().filter(|interface| interface.name.starts_with("net")).count(),
        20
    );
}

#[tokio::test]
async fn rules_of_the_packet_filter_need_their_tools() {
    let Some(served) = served() else { return };
    let has_tools =
        ["/usr/sbin/iptables-save", "/sbin/iptables-save"].iter().any(|path| std::fs::exists(path).unwrap());
    let rules = served.agent.get_ip_tables(within(), &wire::GetIPTablesRequest::new()).await;
    if !has_tools {
        let (code, text) = refusal(rules);
        assert!(code == Code::NOT_FOUND && text.contains("the guest has no iptables-save"), "{text}");
        return;
    }
    rules.unwrap();
    let data = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -s 192.0.2.7/32 -j DROP\nCOMMIT\n".into();
    let request = wire::SetIPTablesRequest { data, ..Default::default() };
    if let Err(error) = served.agent.set_ip_tables(within(), &request).await {
        eprintln!("skipped: this kernel has no packet filter: {error}");
        return;
    }
    let rules = served.agent.get_ip_tables(within(), &wire::GetIPTablesRequest::new()).await.unwrap();
    assert!(String::from_utf8_lossy(&rules.data).contains("192.0.2.7/32"));
    let request = wire::SetIPTablesRequest { data: "no rules".into(), ..Default::default() };
    let (code, text) = refusal(served.agent.set_ip_tables(within(), &request).await);
    assert!(code == Code::INTERNAL && text.contains("iptables-restore"), "{text}");
}

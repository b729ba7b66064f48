//! Odd and broken things in a sandbox's network namespace: the guest is right, or the error is clear, and nothing is left.

use integration::{
    containerd::Finished,
    place::{Place, addresses, ip, run, unique},
    world::World,
};

/// A veth pair, its one end in the namespace as `name`, neither up.
fn pair(place: &Place, name: &str, host: u32) -> String {
    let port = format!("ktp{}{host}", place.number);
    ip(&format!("link add {port} type veth peer name {name} netns {}", place.name));
    port
}

fn refused(world: &World, namespace: &str, id: &str) -> Finished {
    let finished = world.containerd.run(&world.kata, &["--with-ns", namespace], id, &["true"], b"");
    assert_ne!(finished.code, 0);
    world.containerd.assert_gone(id);
    finished
}

#[test]
fn odd_links_are_in_the_guest_as_they_are() {
    let Some(world) = World::open() else { return };
    let place = Place::new();
    // Without an address.
    let port = pair(&place, "bare", 2);
    ip(&format!("link set {port} up"));
    place.ip("link set bare up");
    // The smallest packets, which IPv6 cannot use, and large ones.
    let port = pair(&place, "small", 3);
    ip(&format!("link set {port} mtu 68 up"));
    place.ip("link set small mtu 68");
    place.ip(&format!("addr add {}.3/24 dev small", place.subnet()));
    place.ip("link set small up");
    place.interface("large", 4, 9000);
    // One hardware address twice.
    place.interface("twin0", 5, 1500);
    place.interface("twin1", 6, 1500);
    for twin in ["twin0", "twin1"] {
        place.ip(&format!("link set {twin} address 02:00:00:00:00:07"));
    }
    // The port of a bridge, and the bridge.
    let port = pair(&place, "member", 7);
    ip(&format!("link set {port} up"));
    place.ip("link add br0 type bridge");
    place.ip("link set member master br0 up");
    place.ip("link set br0 up");
    // Somebody else's tap.
    place.ip("tuntap add foreign mode tap");
    place.ip("addr add 10.3.0.2/24 dev foreign");
    place.ip("link set foreign up");
    place.ip("rule add from 10.9.9.9 lookup 77");

    let id = format!("odd-{}", place.number);
    world.start(&place, &id);
    let links = world.inside(&id, "ip -o link");
    for (name, mtu) in
        [("bare", 1500), ("small", 68), ("large", 9000), ("twin0", 1500), ("member", 1500), ("foreign", 1500)]
    {
        let found = links.lines().find(|line| line.contains(&format!(" {name}:")));
        let found = found.unwrap_or_else(|| panic!("{name}: {links}"));
        assert!(found.contains(&format!("mtu {mtu} ")) && found.contains(",UP"), "{found}");
    }
    assert!(!links.contains(" twin1:") && !links.contains(" br0:"), "{links}");
    let bare = world.inside(&id, "ip -4 addr show dev bare");
    assert_eq!(addresses(&bare), Vec::<String>::new());
    assert_eq!(addresses(&world.inside(&id, "ip addr show dev small")), [format!("{}.3/24", place.subnet())]);
    world.inside(&id, &format!("ping -c 1 -W 5 -s 8000 -I large {}", place.gateway()));
    let log = world.containerd.log_of_all();
    for words in [
        "interface twin1: it has the hardware address of twin0",
        "interface br0: a device of kind bridge",
        "1 policy rules",
    ] {
        assert!(log.contains(words), "{words}");
    }
    world.containerd.remove(&id);
    world.containerd.assert_gone(&id);
    place.assert_clean();
}

#[test]
fn a_link_that_changes_its_name_or_address_does_so_in_the_guest() {
    let Some(world) = World::open() else { return };
    let place = Place::new();
    place.interface("eth0", 2, 1500);
    let id = format!("renamed-{}", place.number);
    world.start(&place, &id);
    place.ip("link set eth0 down");
    place.ip("link set eth0 name a-name-of-15-ch");
    place.ip("link set a-name-of-15-ch up");
    world
        .wait_inside(&id, "ip -o link", |text| text.contains("a-name-of-15-ch:") && !text.contains(" eth0:"));
    world.inside(&id, &format!("ping -c 1 -W 5 {}", place.gateway()));

    place.ip("link set a-name-of-15-ch address 02:00:00:00:12:34");
    world.wait_inside(&id, "ip addr", |text| {
        text.contains("02:00:00:00:12:34") && addresses(text).contains(&format!("{}.2/24", place.subnet()))
    });
    assert_eq!(world.inside(&id, "ip -o link").matches("link/ether").count(), 1);
    world.inside(&id, &format!("ping -c 1 -W 5 {}", place.gateway()));

    place.ip(&format!(
        "neigh add {}.99 lladdr 02:00:00:00:00:99 dev a-name-of-15-ch nud permanent",
        place.subnet()
    ));
    world.wait_inside(&id, "ip neigh", |text| text.contains("02:00:00:00:00:99"));
    world.containerd.remove(&id);
    world.containerd.assert_gone(&id);
    place.assert_clean();
}

#[test]
fn what_cannot_be_joined_is_refused_with_its_name_and_left_as_it_was() {
    let Some(world) = World::open() else { return };
    let place = Place::new();
    place.interface("eth0", 2, 1500);
    let id = format!("refused-{}", unique());
    let tc = |args: &str| run("tc", &format!("-n {} {args}", place.name));

    tc("qdisc add dev eth0 ingress");
    let said = refused(&world, &place.option(), &id).stderr;
    assert!(said.contains("interface eth0") && said.contains("has an ingress qdisc already"), "{said}");
    assert!(tc("qdisc show dev eth0").contains("ingress"), "it is not ours to take away");
    tc("qdisc del dev eth0 ingress");
    assert_eq!(place.remains(), Vec::<String>::new());

    let hop = |host: u32| format!("nexthop via {}.{host} dev eth0", place.subnet());
    place.ip(&format!("route add 10.77.0.0/16 {} {}", hop(1), hop(9)));
    let said = refused(&world, &place.option(), &id).stderr;
    assert!(said.contains("route 10.77.0.0/16") && said.contains("several ways"), "{said}");
    place.assert_clean();

    let said = refused(&world, "network:/run/netns/there-is-none", &id).stderr;
    assert!(said.contains("/run/netns/there-is-none"), "{said}");
    let said = refused(&world, "network:/etc/hostname", &id).stderr;
    assert!(said.contains("/etc/hostname") && said.contains("no network namespace"), "{said}");
}

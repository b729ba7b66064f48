//! How links are joined to a guest's cards, how many queues these have, and how they go again.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::PathBuf,
    process::Command,
    thread,
};

use integration::{
    containerd::Runtime,
    environment::Environment,
    place::{Place, addresses},
    world::World,
};
use serde_json::Value;

/// A world whose VMs have another configuration.
fn configured(name: &str, changes: &[(&str, &str)]) -> Option<World> {
    let mut world = World::open()?;
    let env = Environment::find().expect("found before");
    let changes: Vec<_> = changes.iter().map(|(key, value)| (*key, format!("{key} = {value}"))).collect();
    world.kata = Runtime::Kata(env.configuration_with(world.containerd.dir(), name, &changes));
    Some(world)
}

fn record(id: &str) -> Value {
    let path = PathBuf::from("/run/vc/sbs").join(id).join("persist.json");
    serde_json::from_str(&fs::read_to_string(path).expect("the record")).expect("JSON")
}

/// A link that comes and goes again and again, in a VM that has one already.
fn comes_and_goes(world: &World, place: &Place, id: &str) {
    for round in 0..3 {
        let host = 3 + round;
        place.interface("eth1", host, 1500);
        world.wait_inside(id, "ip addr show dev eth1 2>&1", |text| {
            addresses(text).contains(&format!("{}.{host}/24", place.subnet()))
        });
        world.inside(id, &format!("ping -c 1 -W 5 -I eth1 {}", place.gateway()));
        assert!(place.ip("-o link").contains("tap1_kata"), "round {round}");
        place.ip("link del eth1");
        world.wait_inside(id, "ip -o link", |text| !text.contains("eth1"));
        world.containerd.wait_for("the end of the tap", || !place.ip("-o link").contains("tap1_kata"));
        world.containerd.wait_for("the record", || {
            record(id)["Network"]["Endpoints"].as_array().is_some_and(|endpoints| endpoints.len() == 1)
        });
    }
    world.inside(id, &format!("ping -c 1 -W 5 -I eth0 {}", place.gateway()));
}

/// What crosses the wire both ways, more than fits any queue.
fn talks(world: &World, place: &Place, id: &str) {
    world.inside(id, &format!("ping -c 1 -W 5 {}", place.gateway()));
    world.inside(id, &format!("ping -6 -c 1 -W 5 {}", place.v6(1)));
    let listener = TcpListener::bind((place.gateway(), 0)).expect("listen");
    let port = listener.local_addr().expect("an address").port();
    let exchange = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut received = vec![0; 500_000];
        stream.read_exact(&mut received).expect("read");
        stream.write_all(&received).expect("write");
    });
    let script = format!("head -c 500000 /dev/zero | nc {} {port} | wc -c", place.gateway());
    assert_eq!(world.inside(id, &script).trim(), "500000");
    exchange.join().expect("exchanged");
}

#[test]
fn a_link_that_goes_takes_its_card_along() {
    let Some(world) = World::open() else { return };
    let place = Place::new();
    place.interface("eth0", 2, 1500);
    let id = format!("goes-{}", place.number);
    world.start(&place, &id);
    let endpoint = record(&id)["Network"]["Endpoints"][0].clone();
    assert_eq!(endpoint["Type"], "veth");
    assert_eq!(endpoint["Veth"]["NetPair"]["VirtIface"]["Name"], "eth0");
    assert_eq!(endpoint["Veth"]["NetPair"]["TAPIface"]["Name"], "tap0_kata");
    comes_and_goes(&world, &place, &id);
    world.containerd.remove(&id);
    world.containerd.assert_gone(&id);
    place.assert_clean();
}

#[test]
fn so_it_does_in_a_vm_that_was_booted() {
    let Some(world) = configured("booted", &[("enable_template", "false")]) else { return };
    let place = Place::new();
    place.interface("eth0", 2, 1500);
    let id = format!("bgoes-{}", place.number);
    world.start(&place, &id);
    comes_and_goes(&world, &place, &id);
    // One that was there at the boot goes as well.
    place.ip("link del eth0");
    world.wait_inside(&id, "ip -o link", |text| !text.contains("eth0"));
    world.containerd.remove(&id);
    world.containerd.assert_gone(&id);
    place.assert_clean();
}

#[test]
fn two_processors_use_two_queues() {
    for (name, template) in [("cloned", "\"auto\""), ("booted", "false")] {
        let changes = [("default_vcpus", "2"), ("enable_template", template)];
        let Some(world) = configured(name, &changes) else { return };
        let place = Place::new();
        place.interface("eth0", 2, 1500);
        let id = format!("queues-{}", place.number);
        world.start(&place, &id);
        let queues = world.inside(&id, "nproc; ls -d /sys/class/net/eth0/queues/rx-* | wc -l");
        assert_eq!(queues.split_whitespace().collect::<Vec<_>>(), ["2", "2"], "{name}");
        talks(&world, &place, &id);
        world.containerd.remove(&id);
        world.containerd.assert_gone(&id);
        place.assert_clean();
    }
}

#[test]
fn macvtaps_carry_packets_and_go_with_the_sandbox() {
    let Some(world) = configured("macvtap", &[("internetworking_model", "\"macvtap\"")]) else { return };
    let place = Place::new();
    place.interface("eth0", 2, 1400);
    let id = format!("macvtap-{}", place.number);
    if !kernel_has_macvtap(&place) {
        let refused = world.containerd.run(&world.kata, &["--with-ns", &place.option()], &id, &["true"], b"");
        assert!(
            refused.code != 0 && refused.stderr.contains("load the module macvtap"),
            "{}",
            refused.stderr
        );
        world.containerd.assert_gone(&id);
        return;
    }
    let before = place.ip("addr show dev eth0");
    world.start(&place, &id);
    assert!(place.ip("-d -o link show tap0_kata").contains("macvtap mode passthru"));
    assert_eq!(addresses(&world.inside(&id, "ip addr show dev eth0")), addresses(&before));
    assert!(world.inside(&id, "ip link show dev eth0").contains("mtu 1400 "));
    talks(&world, &place, &id);
    comes_and_goes(&world, &place, &id);
    world.containerd.remove(&id);
    world.containerd.assert_gone(&id);
    place.assert_clean();
    assert_eq!(addresses(&place.ip("addr show dev eth0")), addresses(&before), "what was there is untouched");
}

fn kernel_has_macvtap(place: &Place) -> bool {
    let add = format!("-n {} link add probe link eth0 type macvtap", place.name);
    let made = Command::new("ip").args(add.split_whitespace()).output().expect("ip").status.success();
    if made {
        place.ip("link del probe");
    }
    made
}

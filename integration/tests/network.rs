//! The network of a sandbox in a real VM: what stands in its namespace stands in the guest, packets flow both ways, what
//! changes later follows, and nothing is left behind.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use integration::{
    containerd::{IMAGE, Runtime, finish, processes},
    environment::Environment,
    place::{Place, addresses, ip, routes, unique},
    world::World,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn the_guest_has_what_stands_in_the_namespace_and_packets_flow() {
    let Some(world) = World::open() else { return };
    let place = Place::new();
    place.interface("eth0", 2, 1400);
    place.interface("a-name-of-15-ch", 3, 1500);
    place.ip(&format!("route add default via {} dev eth0", place.gateway()));
    place.ip(&format!(
        "route add 10.200.0.0/16 via {} dev eth0 metric 77 src {}.2",
        place.gateway(),
        place.subnet()
    ));
    place.ip("route add 10.201.0.0/16 dev eth0 scope link");
    place.ip("route add 10.202.0.0/16 via 172.30.0.1 dev eth0 onlink");
    place.ip(&format!("-6 route add default via {} dev eth0", place.v6(1)));
    place.ip(&format!("neigh add {}.99 lladdr 02:00:00:00:00:99 dev eth0 nud permanent", place.subnet()));

    let id = format!("net-{}", place.number);
    world.start(&place, &id);
    for (name, mtu) in [("eth0", 1400), ("a-name-of-15-ch", 1500)] {
        let (ours, theirs) = (
            place.ip(&format!("addr show dev {name}")),
            world.inside(&id, &format!("ip addr show dev {name}")),
        );
        assert_eq!(addresses(&theirs), addresses(&ours), "{theirs}");
        let mac = ours.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).expect("a MAC");
        assert!(theirs.contains(mac) && theirs.contains(&format!("mtu {mtu} ")), "{mac}: {theirs}");
    }
    for family in ["-4", "-6"] {
        let (ours, theirs) =
            (place.ip(&format!("{family} route")), world.inside(&id, &format!("ip {family} route")));
        assert_eq!(routes(&theirs), routes(&ours), "{theirs}\n{ours}");
    }
    let neighbours = world.inside(&id, "ip neigh show dev eth0");
    assert!(
        neighbours.contains(&format!("{}.99 ", place.subnet())) && neighbours.contains("02:00:00:00:00:99"),
        "{neighbours}"
    );

    // Out.
    world.inside(&id, &format!("ping -c 2 -W 5 {}", place.gateway()));
    world.inside(&id, &format!("ping -6 -c 2 -W 5 {}", place.v6(1)));
    let listener = TcpListener::bind((place.gateway(), 0)).expect("listen");
    let port = listener.local_addr().expect("an address").port();
    let sent = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.write_all(&[b'x'; 300_000]).expect("write");
    });
    let count = world.inside(&id, &format!("nc {} {port} </dev/null | wc -c", place.gateway()));
    assert_eq!(count.trim(), "300000");
    sent.join().expect("sent");

    // In.
    world.inside(&id, "(head -c 300000 /dev/zero | nc -l -p 7000 >/dev/null 2>&1) &");
    let began = Instant::now();
    let mut stream = loop {
        match TcpStream::connect((format!("{}.2", place.subnet()), 7000)) {
            Ok(stream) => break stream,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
    };
    let mut received = Vec::new();
    stream.read_to_end(&mut received).expect("read");
    assert_eq!(received.len(), 300_000);

    world.containerd.remove(&id);
    world.containerd.assert_gone(&id);
    place.assert_clean();
}

#[test]
fn what_comes_goes_and_changes_later_follows() {
    let Some(world) = World::open() else { return };
    let place = Place::new();
    let id = format!("later-{}", place.number);
    world.start(&place, &id);
    assert!(!world.inside(&id, "ip -o link").contains("eth0"));

    place.interface("eth0", 2, 1500);
    world.wait_inside(&id, "ip addr show dev eth0", |text| {
        addresses(text).contains(&format!("{}.2/24", place.subnet()))
    });
    world.inside(&id, &format!("ping -c 1 -W 5 {}", place.gateway()));

    place.ip(&format!("addr del {}.2/24 dev eth0", place.subnet()));
    place.ip(&format!("addr add {}.40/24 dev eth0", place.subnet()));
    place.ip(&format!("route add default via {}", place.gateway()));
    place.ip("link set eth0 mtu 1300");
    world.wait_inside(&id, "ip addr show dev eth0; ip route", |text| {
        let found = addresses(text);
        text.contains("mtu 1300 ")
            && text.contains("default via")
            && found.contains(&format!("{}.40/24", place.subnet()))
            && !found.contains(&format!("{}.2/24", place.subnet()))
    });
    world.inside(&id, &format!("ping -c 1 -W 5 {}", place.gateway()));

    place.ip("link del eth0");
    world.wait_inside(&id, "ip addr show dev eth0", |text| !text.contains(&place.subnet()));

    place.interface("eth1", 3, 1500);
    world
        .wait_inside(&id, "ip addr show dev eth1", |text| text.contains(&format!("{}.3/24", place.subnet())));
    world.inside(&id, &format!("ping -c 1 -W 5 {}", place.gateway()));
    world.containerd.remove(&id);
    world.containerd.assert_gone(&id);
    place.assert_clean();
}

#[test]
fn a_vm_that_was_booted_has_what_is_there_and_what_comes_later() {
    let Some(mut world) = World::open() else { return };
    let env = Environment::find().expect("found before");
    let booted = [("enable_template", "enable_template = false".to_owned())];
    world.kata = Runtime::Kata(env.configuration_with(world.containerd.dir(), "booted", &booted));
    let place = Place::new();
    place.interface("eth0", 2, 1500);
    let id = format!("booted-{}", place.number);
    world.start(&place, &id);
    world.inside(&id, &format!("ip addr show dev eth0 | grep {}.2/24", place.subnet()));
    world.inside(&id, &format!("ping -c 1 -W 5 {}", place.gateway()));
    place.interface("eth1", 3, 1400);
    world.wait_inside(&id, "ip addr show dev eth1", |text| {
        text.contains(&format!("{}.3/24", place.subnet())) && text.contains("mtu 1400")
    });
    world.containerd.remove(&id);
    world.containerd.assert_gone(&id);
    place.assert_clean();
}

#[test]
fn twenty_interfaces_are_all_there() {
    let Some(world) = World::open() else { return };
    let place = Place::new();
    (2..22).for_each(|host| place.interface(&format!("eth{host}"), host, 1500));
    let id = format!("twenty-{}", place.number);
    world.start(&place, &id);
    let shown = world.inside(&id, "ip -o addr");
    for host in 2..22 {
        let found = shown.lines().any(|line| {
            line.contains(&format!(" eth{host} ")) && line.contains(&format!(" {}.{host}/24", place.subnet()))
        });
        assert!(found, "eth{host}: {shown}");
    }
    let log = world.containerd.log_of_all();
    let booted = log.lines().find(|line| line.contains("this VM is booted"));
    assert_eq!(booted, None, "a clone takes them all");
    world.containerd.remove(&id);
    world.containerd.assert_gone(&id);
    place.assert_clean();
}

#[test]
fn an_interface_that_a_hook_brings_before_the_start_is_there_at_the_start() {
    let Some(world) = World::open() else { return };
    let place = Place::new();
    let id = format!("hook-{}", place.number);
    let dir = world.containerd.dir().to_owned();
    let rootfs = dir.join("hooked");
    fs::create_dir(&rootfs).expect("make a folder");
    let mounted = world.containerd.ctr(["images", "mount", "--rw", IMAGE, &rootfs.display().to_string()]);
    assert_eq!(mounted.code, 0, "{}", mounted.stderr);

    // Runs while the VM does, and before the container: as Docker's do.
    let port = format!("ktp{}", place.number);
    let bring = format!(
        "set -e; ip link add {port} type veth peer name eth0 netns {name}; ip link set {port} master {bridge} up; \
         ip -n {name} addr add {subnet}.2/24 dev eth0; ip -n {name} link set eth0 up",
        name = place.name,
        bridge = place.bridge(),
        subnet = place.subnet(),
    );
    let mut spec: Value =
        serde_json::from_str(&world.containerd.ctr(["oci", "spec"]).text()).expect("a spec");
    spec["root"] = json!({ "path": rootfs });
    let script = format!(
        "ip addr show dev eth0; ping -c 1 -W 5 {}; cat /proc/sys/net/ipv4/conf/eth0/rp_filter",
        place.gateway()
    );
    spec["linux"]["sysctl"] = json!({ "net.ipv4.conf.eth0.rp_filter": "2" });
    spec["process"]["args"] = json!(["sh", "-c", script]);
    spec["process"]["terminal"] = json!(false);
    spec["process"]["env"] = json!(["PATH=/bin:/sbin:/usr/bin:/usr/sbin"]);
    spec["hooks"] = json!({ "prestart": [{ "path": "/bin/sh", "args": ["sh", "-c", bring], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] }] });
    for namespace in spec["linux"]["namespaces"].as_array_mut().expect("namespaces") {
        if namespace["type"] == "network" {
            namespace["path"] = format!("/run/netns/{}", place.name).into();
        }
    }
    let file = dir.join("hooked.json");
    fs::write(&file, spec.to_string()).expect("write the spec");
    let mut args =
        world.containerd.run_args(&world.kata, &["--rm", "--config", &file.display().to_string()], &id);
    args.retain(|arg| arg != IMAGE);
    let shown = finish(world.containerd.command(args), b"");
    assert_eq!(shown.code, 0, "{}{}", shown.text(), shown.stderr);
    assert!(shown.text().contains(&format!("{}.2/24", place.subnet())), "{}{}", shown.text(), shown.stderr);
    assert!(shown.text().trim_end().ends_with("\n2"), "{}", shown.text());
    world.containerd.assert_gone(&id);
    place.assert_clean();
}

#[test]
fn a_shim_that_is_killed_leaves_nothing_in_the_namespace() {
    let Some(world) = World::open() else { return };
    let place = Place::new();
    place.interface("eth0", 2, 1500);
    let id = format!("killed-{}", place.number);
    world.start(&place, &id);
    assert!(!place.remains().is_empty(), "a tap and filters are what is looked for");
    let record = PathBuf::from("/run/vc/sbs").join(&id).join("persist.json");
    let record = fs::read_to_string(record).expect("the record");
    assert!(record.contains("tap0_kata") && record.contains("\"ingress\""), "{record}");
    let shim = processes()
        .into_iter()
        .find(|(_, line)| line.contains("containerd-shim-kata") && line.contains(&id))
        .expect("the shim");
    let pid = nix::unistd::Pid::from_raw(shim.0 as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");
    world.containerd.wait_for("the end of the task", || {
        !world
            .containerd
            .ctr(["task", "ls"])
            .text()
            .lines()
            .any(|line| line.starts_with(&id) && line.contains("RUNNING"))
    });
    world.containerd.remove(&id);
    world.containerd.assert_gone(&id);
    place.assert_clean();
    assert!(place.ip("-o link").contains("eth0"), "what others made stays");
}

#[test]
fn two_sandboxes_cannot_share_a_namespace_and_the_first_is_not_disturbed() {
    let Some(world) = World::open() else { return };
    let place = Place::new();
    place.interface("eth0", 2, 1500);
    let (first, second) = (format!("first-{}", place.number), format!("second-{}", place.number));
    world.start(&place, &first);
    let refused = world.containerd.run(&world.kata, &["--with-ns", &place.option()], &second, &["true"], b"");
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("another sandbox"), "{}", refused.stderr);
    world.containerd.assert_gone(&second);
    world.inside(&first, &format!("ping -c 1 -W 5 {}", place.gateway()));
    world.containerd.remove(&first);
    world.containerd.assert_gone(&first);
    place.assert_clean();
}

#[test]
fn in_the_hosts_namespace_the_guest_has_no_interface_and_the_host_is_left_alone() {
    let Some(world) = World::open() else { return };
    let before = ip("-o link");
    let id = format!("host-{}", unique());
    let shown = world.containerd.run(&world.kata, &["--net-host"], &id, &["ip", "-o", "link"], b"");
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    let others: Vec<_> =
        shown.text().lines().filter(|line| !line.contains(" lo:")).map(str::to_owned).collect();
    assert!(others.iter().all(|line| line.contains("state DOWN")), "{others:?}");
    assert!(world.containerd.log_of_all().contains("its guest has no interface"));
    world.containerd.assert_gone(&id);
    let ours = |text: &str| text.lines().filter(|line| line.contains("_kata")).count();
    assert_eq!((ours(&ip("-o link")), ours(&before)), (0, 0));
}

//! What the guest's kernel has as modules: there for whoever asks, with no word in any configuration.

use integration::compare::spec::mount;
use serde_json::json;

use crate::bench::{Bench, administers, assert_facts, bring_programs, push};

#[test]
fn drivers_come_when_they_are_asked_for() {
    let Some(bench) = Bench::open(&[("kernel_modules", "kernel_modules = [\"dummy numdummies=2\"]".into())])
    else {
        return;
    };
    let script = "ls -l /dev/net/tun | cut -c1-10; true <> /dev/net/tun && echo opened; \
        ip tuntap add dev t0 mode tun 2>/dev/null || tunctl -t t0 > /dev/null; ls -d /sys/class/net/t0; \
        cd /sys/class/net; grep -q '^dummy ' /proc/modules && ls -d dummy1 || echo built in; \
        ip link add v0 type veth peer name v1 && echo pair; ip link add b0 type bridge && echo bridge; \
        mount -t ext4 /dev/null /mnt 2>/dev/null; grep -w ext4 /proc/filesystems; true";
    let facts = bench.facts(script, |spec| {
        administers(spec);
        spec["linux"]["devices"] =
            json!([{"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o666}]);
        spec["linux"]["resources"] = json!({"devices": [
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "rwm"},
        ]});
        push(&mut spec["mounts"], mount("/mnt", "tmpfs", "tmpfs", &[]));
    });
    assert!(facts.iter().any(|fact| ["dummy1", "built in"].contains(&&**fact)), "{facts:?}");
    assert_facts(&facts, &["crw-rw-rw-", "opened", "/sys/class/net/t0", "pair", "bridge", "ext4"]);
}

/// With the host's own programs.
#[test]
fn filters_of_packets_are_set_by_either_iptables() {
    let Some(bench) = Bench::open(&[]) else { return };
    let script = "for kind in legacy nft; do for name in iptables ip6tables; do t=/usr/sbin/$name-$kind; \
        $t -P FORWARD DROP && $t -A INPUT -p tcp --dport 5 -m conntrack --ctstate NEW -m comment --comment x -j REJECT \
        && $t -t nat -A POSTROUTING -m addrtype --src-type LOCAL -j MASQUERADE \
        && $t -t nat -A PREROUTING -p udp --dport 5 -j REDIRECT --to-ports 6 && $t -t mangle -A OUTPUT -j MARK --set-mark 1 \
        && echo $name $kind $($t -S | grep -c REJECT) $($t -t nat -S | grep -cE 'MASQ|REDIR'); done; done";
    let facts = bench.facts(script, |spec| {
        administers(spec);
        bring_programs(spec);
    });
    assert_facts(
        &facts,
        &["iptables legacy 1 2", "ip6tables legacy 1 2", "iptables nft 1 2", "ip6tables nft 1 2"],
    );
}

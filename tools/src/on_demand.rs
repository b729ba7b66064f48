//! Kernel modules that the initrd brings along without loading them: what containers ask a kernel for that has it as a
//! module. The agent loads one when the kernel or the host's configuration names it (`agent/src/modules/on_demand.rs`).

use std::io::Write;

use anyhow::Result;
use flate2::{Compression, write::GzEncoder};

/// Tunnels and links, filters of packets with both of their tools, what tells of sockets, and file systems of disks.
pub const MODULES: [&str; 75] = [
    "crc32c_generic",
    "tun",
    "veth",
    "bridge",
    "br_netfilter",
    "dummy",
    "macvlan",
    "ipvlan",
    "8021q",
    "vxlan",
    "wireguard",
    "nf_conntrack_netlink",
    "nf_tables",
    "nft_compat",
    "nft_ct",
    "nft_chain_nat",
    "nft_nat",
    "nft_masq",
    "nft_redir",
    "nft_reject_inet",
    "nft_reject_ipv4",
    "nft_reject_ipv6",
    "nft_fib_inet",
    "nft_limit",
    "nft_log",
    "nft_objref",
    "nft_tproxy",
    "iptable_filter",
    "iptable_nat",
    "iptable_mangle",
    "iptable_raw",
    "ip6table_filter",
    "ip6table_nat",
    "ip6table_mangle",
    "ip6table_raw",
    "ipt_REJECT",
    "ip6t_REJECT",
    "xt_addrtype",
    "xt_bpf",
    "xt_cgroup",
    "xt_comment",
    "xt_connmark",
    "xt_conntrack",
    "xt_CT",
    "xt_iprange",
    "xt_limit",
    "xt_LOG",
    "xt_mac",
    "xt_mark",
    "xt_MASQUERADE",
    "xt_multiport",
    "xt_nat",
    "xt_owner",
    "xt_physdev",
    "xt_recent",
    "xt_REDIRECT",
    "xt_set",
    "xt_socket",
    "xt_state",
    "xt_statistic",
    "xt_string",
    "xt_tcpmss",
    "xt_TCPMSS",
    "xt_tcpudp",
    "xt_TPROXY",
    "nf_log_syslog",
    "ip_set_hash_ip",
    "ip_set_hash_net",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "unix_diag",
    "loop",
    "ext4",
    "nfnetlink_queue",
];

/// What the index says of a module: its name, what it needs, and its other names. Those with patterns are of buses, whose
/// devices a guest has no others of.
pub fn line(name: &str, needs: &[String], data: &[u8]) -> String {
    let needs = if needs.is_empty() { "-".to_owned() } else { needs.join(",") };
    let mut line = format!("{name} {needs}");
    for alias in values(data, "alias").into_iter().filter(|alias| !alias.contains(['*', ' '])) {
        line.push(' ');
        line.push_str(&alias);
    }
    line + "\n"
}

/// All values of a key in a module's information section.
pub fn values(module: &[u8], key: &str) -> Vec<String> {
    let key = format!("\0{key}=").into_bytes();
    let starts = module.windows(key.len()).enumerate().filter(|(_, window)| *window == key);
    let value = |(at, _)| {
        let bytes: Vec<u8> = module[at + key.len()..].iter().copied().take_while(|byte| *byte != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    starts.map(value).collect()
}

/// A module as it is kept.
pub fn pack(data: &[u8]) -> Result<Vec<u8>> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(data)?;
    Ok(packed.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_all_names_but_patterns() {
        let data = b"\0license=GPL\0alias=devname:net/tun\0alias=char-major-10-200\0alias=pci:v*\0depends=\0";
        assert_eq!(line("tun", &[], data), "tun - devname:net/tun char-major-10-200\n");
        assert_eq!(line("b", &["x".into(), "y".into()], b""), "b x,y\n");
    }
}

//! An interface of the sandbox as people and tools read it in `persist.json`: Kata's names.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// One interface. One of the bodies is there, by the link's kind; a kind that Kata does not know has a veth's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Endpoint {
    #[serde(rename = "Type")]
    pub kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub veth: Option<Paired>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macvlan: Option<Paired>,
    #[serde(rename = "IPVlan", skip_serializing_if = "Option::is_none")]
    pub ipvlan: Option<Paired>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tuntap: Option<Tuntap>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Paired {
    pub net_pair: Pair,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Tuntap {
    pub tuntap_interface: TapInterface,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TapInterface {
    pub name: String,
    #[serde(rename = "TAPIface")]
    pub tap_iface: Interface,
}

/// A link and the tap that it is joined to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Pair {
    #[serde(rename = "ID")]
    pub id: String,
    pub name: String,
    #[serde(rename = "TAPIface")]
    pub tap_iface: Interface,
    pub virt_iface: Interface,
    /// 1 is macvtap, 2 tcfilter, 3 none.
    pub net_interworking_model: u8,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Interface {
    pub name: String,
    pub hard_addr: String,
    pub addrs: Vec<Address>,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Address {
    #[serde(rename = "IP")]
    pub ip: IpAddr,
    /// The bytes of the netmask in base64, as Go writes them.
    pub mask: String,
}

impl Endpoint {
    /// The `number`-th, of a link of this kind.
    pub fn new(kind: &str, number: usize, tap: String, link: Interface, model: u8) -> Self {
        let tap = Interface { name: tap, hard_addr: link.hard_addr.clone(), addrs: Vec::new() };
        let pair = |virt_iface, tap_iface| Paired {
            net_pair: Pair {
                id: number.to_string(),
                name: format!("br{number}_kata"),
                tap_iface,
                virt_iface,
                net_interworking_model: model,
            },
        };
        let endpoint = Self { kind: kind.into(), ..Self::default() };
        match kind {
            "macvlan" => Self { macvlan: Some(pair(link, tap)), ..endpoint },
            "ipvlan" => Self { ipvlan: Some(pair(link, tap)), ..endpoint },
            "tun" => {
                let tuntap_interface = TapInterface { name: link.name, tap_iface: tap };
                Self { kind: "tuntap".into(), tuntap: Some(Tuntap { tuntap_interface }), ..endpoint }
            }
            _ => Self { veth: Some(pair(link, tap)), ..endpoint },
        }
    }
}

impl Address {
    pub fn new(ip: IpAddr, prefix: u8) -> Self {
        let ones = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0).to_be_bytes();
        let length = if ip.is_ipv4() { 4 } else { 16 };
        Self { ip, mask: base64(&ones[..length]) }
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().chain([0, 0].iter()).take(3).fold(0, |group, byte| group << 8 | usize::from(*byte));
        let digits = (0..4).map(|place| char::from(DIGITS[group >> (18 - 6 * place) & 63]));
        text.extend(digits.take(chunk.len() + 1));
    }
    text.extend(std::iter::repeat_n('=', (4 - text.len() % 4) % 4));
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_endpoint_has_katas_shape() {
        let link = Interface {
            name: "eth0".into(),
            hard_addr: "02:00:00:00:00:01".into(),
            addrs: vec![Address::new([10, 1, 0, 2].into(), 16)],
        };
        let veth = Endpoint::new("veth", 1, "tap1_kata".into(), link.clone(), 2);
        let expected = json!({ "Type": "veth", "Veth": { "NetPair": {
            "ID": "1",
            "Name": "br1_kata",
            "TAPIface": { "Name": "tap1_kata", "HardAddr": "02:00:00:00:00:01", "Addrs": [] },
            "VirtIface": { "Name": "eth0", "HardAddr": "02:00:00:00:00:01", "Addrs": [{ "IP": "10.1.0.2", "Mask": "//8AAA==" }] },
            "NetInterworkingModel": 2,
        } } });
        assert_eq!(serde_json::to_value(&veth).unwrap(), expected);
        for (kind, pointer) in [
            ("macvlan", "/Macvlan/NetPair/VirtIface/Name"),
            ("ipvlan", "/IPVlan/NetPair/VirtIface/Name"),
            ("tun", "/Tuntap/TuntapInterface/Name"),
            ("vlan", "/Veth/NetPair/VirtIface/Name"),
        ] {
            let endpoint =
                serde_json::to_value(Endpoint::new(kind, 0, "tap0_kata".into(), link.clone(), 2)).unwrap();
            assert_eq!(endpoint.pointer(pointer), Some(&json!("eth0")), "{kind}");
        }
    }

    #[test]
    fn masks_are_in_base64() {
        for (ip, prefix, mask) in [
            ("10.0.0.1", 24, "////AA=="),
            ("10.0.0.1", 0, "AAAAAA=="),
            ("fd00::1", 64, "//////////8AAAAAAAAAAA=="),
        ] {
            assert_eq!(Address::new(ip.parse().unwrap(), prefix).mask, mask);
        }
    }
}

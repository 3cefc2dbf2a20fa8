//! Which addresses a name may stand for.
//!
//! A name that was granted may be made to stand for an address inside: the node itself, its neighbours, a cloud's metadata service. So
//! only addresses that are global are connected to; who really wants another grants the address itself, or `localhost`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The name that stands for this machine (RFC 6761, section 6.3), and says so.
const LOCALHOST: &str = "localhost";

/// The first address that may be connected to for this name, or why there is none.
pub(super) fn choose(host: &str, found: &[SocketAddr]) -> Result<SocketAddr, String> {
    let allowed = |address: &&SocketAddr| is_global(address.ip()) || host == LOCALHOST && address.ip().is_loopback();
    if let Some(address) = found.iter().find(allowed) {
        return Ok(*address);
    }
    Err(match found.first() {
        Some(_) => format!("{host} stands for an address that is not public: grant that address itself"),
        None => format!("{host} stands for no address"),
    })
}

/// Whether an address is reachable by everybody, as IANA's registries of special-purpose addresses say (RFC 6890).
fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_global_v4(address),
        IpAddr::V6(address) => match embedded(address) {
            Some(inner) => is_global_v4(inner),
            None => is_global_v6(address),
        },
    }
}

fn is_global_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        // Shared by carriers (RFC 6598).
        || (a == 100 && b & 0xc0 == 64)
        // Protocol assignments, and relays of 6to4.
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        // Benchmarks (RFC 2544).
        || (a == 198 && b & 0xfe == 18)
        // Reserved, and broadcast.
        || a >= 240;
    !special
}

/// Global unicast is 2000::/3; within it, these are not.
fn is_global_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    let protocol_assignments = a == 0x2001 && b < 0x0200;
    let documentation = (a == 0x2001 && b == 0x0db8) || (a == 0x3fff && b < 0x1000);
    a & 0xe000 == 0x2000 && !protocol_assignments && !documentation
}

/// The IPv4 address that an IPv6 address is a way to: mapped, translated (RFC 6052), or 6to4 (RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return Some(mapped);
    }
    let [a, b, c, d, e, f, g, h] = address.segments();
    let of = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match (a, b) {
        (0x0064, 0xff9b) if [c, d, e, f] == [0; 4] => Some(of(g, h)),
        (0x2002, _) => Some(of(b, c)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_everybody_can_reach_is_global() {
        for global in ["1.1.1.1", "193.0.6.139", "2606:4700::1111", "64:ff9b::1.1.1.1", "2002:101:101::"] {
            assert!(is_global(global.parse().unwrap()), "{global}");
        }
        for special in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_global(special.parse().unwrap()), "{special}");
        }
    }

    #[test]
    fn a_name_stands_for_a_global_address_or_none() {
        let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let inside = [at("10.0.0.1:80"), at("127.0.0.1:80")];
        assert!(choose("a.b", &inside).is_err());
        assert!(choose("a.b", &[]).is_err());
        let mixed = [at("127.0.0.1:80"), at("1.1.1.1:80")];
        assert_eq!(choose("a.b", &mixed), Ok(at("1.1.1.1:80")));
        assert_eq!(choose("localhost", &inside), Ok(at("127.0.0.1:80")));
        assert!(choose("localhost", &inside[..1]).is_err());
    }
}

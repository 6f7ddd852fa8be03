//! Which addresses may be called: those of the public Internet, and what the configuration allows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses with the same first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    bits: u32,
}

impl FromStr for Network {
    type Err = String;

    /// Reads `10.0.0.0/8`, or a single address.
    fn from_str(text: &str) -> Result<Self, String> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let wrong = || format!("{text:?} is no address and no network like \"10.0.0.0/8\"");
        let first: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if first.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |bits| bits.parse().map_err(|_| wrong()))?;
        if bits > most {
            return Err(wrong());
        }
        Ok(Self { first, bits })
    }
}

impl Network {
    fn holds(&self, ip: IpAddr) -> bool {
        match (self.first, ip) {
            (IpAddr::V4(first), IpAddr::V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - self.bits).unwrap_or(0);
                first.to_bits() & mask == ip.to_bits() & mask
            }
            (IpAddr::V6(first), IpAddr::V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - self.bits).unwrap_or(0);
                first.to_bits() & mask == ip.to_bits() & mask
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// What may be called besides public addresses.
#[derive(Debug, Clone, Default)]
pub struct Allowed(Vec<Network>);

impl Allowed {
    /// These networks.
    pub fn new(networks: Vec<Network>) -> Self {
        Self(networks)
    }

    /// Whether an address may be called. One of IPv4 that is written as one of IPv6 is what it stands for.
    pub fn allows(&self, ip: IpAddr) -> bool {
        let ip = unwrapped(ip);
        is_public(ip) || self.0.iter().any(|network| network.holds(ip))
    }
}

/// The address of IPv4 within one of IPv6: mapped, compatible, translated (NAT64) or tunnelled (6to4).
fn unwrapped(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let low = Ipv4Addr::from_bits(u32::try_from(v6.to_bits() & 0xffff_ffff).unwrap_or(0));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => low.into(),
        [0, 0, 0, 0, 0, 0, ..] if v6.to_bits() > 1 => low.into(),
        [0x2002, high, low, ..] => {
            Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low)).into()
        }
        _ => ip,
    }
}

fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let is_special = ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_broadcast()
        || ip.is_documentation()
        // "This network", shared address space (RFC 6598), protocol assignments, benchmarks, reserved.
        || a == 0
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b))
        || a >= 240;
    !is_special
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let segments = ip.segments();
    // Global unicast alone; of that no documentation, no Teredo and no other special purpose.
    let is_global = segments[0] & 0xe000 == 0x2000;
    let is_special = segments[0] == 0x2001 && (segments[1] < 0x200 || segments[1] == 0xdb8)
        || segments[0] == 0x3fff;
    is_global && !is_special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_may_be_called() {
        for (ip, is_allowed) in [
            ("93.184.216.34", true),
            ("8.8.8.8", true),
            ("2606:4700::1111", true),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("127.0.0.1", false),
            ("127.255.255.254", false),
            ("10.0.0.1", false),
            ("172.16.0.1", false),
            ("172.31.255.255", false),
            ("172.32.0.1", true),
            ("192.168.1.1", false),
            ("169.254.169.254", false),
            ("100.64.0.1", false),
            ("100.128.0.1", true),
            ("192.0.0.8", false),
            ("192.0.2.1", false),
            ("198.18.0.1", false),
            ("198.51.100.1", false),
            ("203.0.113.1", false),
            ("224.0.0.1", false),
            ("239.1.1.1", false),
            ("240.0.0.1", false),
            ("255.255.255.255", false),
            ("::", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:10.0.0.1", false),
            ("::ffff:8.8.8.8", true),
            ("::7f00:1", false),
            ("64:ff9b::a00:1", false),
            ("64:ff9b::808:808", true),
            ("2002:a00:1::", false),
            ("2002:7f00:1::1", false),
            ("fc00::1", false),
            ("fd12:3456::1", false),
            ("fe80::1", false),
            ("fec0::1", false),
            ("ff02::1", false),
            ("2001:db8::1", false),
            ("2001::1", false),
            ("3fff::1", false),
            ("100::1", false),
        ] {
            let parsed: IpAddr = ip.parse().expect("an address");
            assert_eq!(Allowed::default().allows(parsed), is_allowed, "{ip}");
        }
    }

    #[test]
    fn the_configuration_can_allow_more() {
        let networks = ["10.0.0.0/8", "127.0.0.1", "fd00::/8", "0.0.0.0/0"];
        let networks: Vec<Network> =
            networks.iter().map(|text| text.parse().expect("a network")).collect();
        let allowed = Allowed::new(networks[..3].to_vec());
        for (ip, is_allowed) in [
            ("10.255.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("127.0.0.1", true),
            ("127.0.0.2", false),
            ("fd12::1", true),
            ("fc00::1", false),
            ("192.168.0.1", false),
        ] {
            assert_eq!(allowed.allows(ip.parse().expect("an address")), is_allowed, "{ip}");
        }
        let all = Allowed::new(networks[3..].to_vec());
        assert!(all.allows("192.168.0.1".parse().expect("an address")));
        for wrong in ["", "10.0.0.0/33", "10/8", "::/129", "host", "10.0.0.1/-1"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong:?}");
        }
    }
}

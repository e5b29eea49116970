//! Classes of addresses: what never crosses a router, and what never crosses its outer edge.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address of either family, as numbers: a program that kept its bytes would keep each in a word of
/// its stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// IPv6: the upper and the lower half.
    V6(u64, u64),
    /// IPv4.
    V4(u32),
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                Self::V6((bits >> 64) as u64, bits as u64)
            }
            IpAddr::V4(address) => Self::V4(address.to_bits()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        match address {
            Address::V6(upper, lower) => {
                Ipv6Addr::from_bits(u128::from(upper) << 64 | u128::from(lower)).into()
            }
            Address::V4(address) => Ipv4Addr::from_bits(address).into(),
        }
    }
}

impl Address {
    /// Two words and the family, for a function that takes numbers only. IPv4 is the upper half of the
    /// first word, as in an address of 16 bytes.
    #[inline(always)]
    #[must_use]
    pub const fn halves(&self) -> (u64, u64, u32) {
        match *self {
            Self::V6(upper, lower) => (upper, lower, 6),
            Self::V4(address) => ((address as u64) << 32, 0, 4),
        }
    }

    /// The address of [`halves`](Self::halves).
    #[inline(always)]
    #[must_use]
    pub const fn of_halves(upper: u64, lower: u64, family: u32) -> Self {
        if family == 6 {
            Self::V6(upper, lower)
        } else {
            Self::V4((upper >> 32) as u32)
        }
    }

    /// The kernel alone deals with packets from or to this address: link-local, multicast,
    /// loopback, unspecified, v4-mapped (RFC 4291), and for IPv4 0/8, 127/8, 169.254/16,
    /// multicast, class E and broadcast (RFC 1812 section 5.3.7, RFC 3927 section 2.7).
    #[inline(always)]
    #[must_use]
    pub const fn is_kernel_only(&self) -> bool {
        match *self {
            Self::V6(upper, lower) => {
                upper >> 56 == 0xff || upper >> 54 == 0xfe80 >> 6 || is_zero_or_mapped(upper, lower)
            }
            Self::V4(a) => a >> 24 == 0 || a >> 24 == 127 || a >> 24 >= 224 || a >> 16 == 0xa9fe,
        }
    }

    /// True of no address that [`is_kernel_only`](Self::is_kernel_only), and of nearly all others: what
    /// few instructions can tell.
    #[inline(always)]
    #[must_use]
    pub const fn is_surely_routed(&self) -> bool {
        match *self {
            Self::V6(upper, _) => (upper >> 56).wrapping_sub(1) < 0xfd,
            Self::V4(a) => (a >> 24).wrapping_sub(1) < 126 || (a >> 24).wrapping_sub(170) < 54,
        }
    }

    /// True of no address that [`is_martian`](Self::is_martian), and of most others, likewise.
    #[inline(always)]
    #[must_use]
    pub const fn is_surely_global(&self) -> bool {
        match *self {
            // 2002::/16 up to 3ffe::/16
            Self::V6(upper, _) => (upper >> 48).wrapping_sub(0x2002) < 0x1ffd,
            Self::V4(a) => (a >> 24).wrapping_sub(11) < 89,
        }
    }

    /// As a source it is nobody's beyond one link, and the kernel forwards packets from it all the
    /// same: IPv4 in IPv6 form, 0/8, 169.254/16, class E. Those it refuses by itself may be here
    /// or not.
    #[inline(always)]
    #[must_use]
    pub const fn is_nobodys(&self) -> bool {
        match *self {
            Self::V6(upper, lower) => is_zero_or_mapped(upper, lower),
            Self::V4(a) => a >> 24 == 0 || a >> 24 >= 240 || a >> 16 == 0xa9fe,
        }
    }

    /// A special-purpose address that is not globally reachable (RFC 6890 and its registries,
    /// RFC 8190). 200::/7 and 400::/7 are in use by overlay networks and are no martians.
    #[inline(always)]
    #[must_use]
    pub const fn is_martian(&self) -> bool {
        match *self {
            Self::V6(upper, lower) => {
                // fc00::/7 unique local, fec0::/10 site local (RFC 3879)
                upper >> 57 == 0xfc >> 1
                    || upper >> 54 == 0xfec0 >> 6
                    // 100::/64 discard only (RFC 6666), 100:0:0:1::/64 dummy (RFC 9780)
                    || upper >> 1 == 0x0100 << 47
                    // 2001:db8::/32 and 3fff::/20 documentation (RFC 3849, RFC 9637)
                    || upper >> 32 == 0x2001_0db8
                    || upper >> 44 == 0x3fff0
                    || is_protocol_assignment(upper, lower)
                    // 64:ff9b:1::/48 local-use translation (RFC 8215)
                    || upper >> 16 == 0x0064_ff9b_0001
                    // 5f00::/16 segment routing SIDs (RFC 9602)
                    || upper >> 48 == 0x5f00
            }
            Self::V4(a) => {
                a >> 24 == 10
                    || a >> 20 == 0xac1
                    || a >> 16 == 0xc0a8
                    || a >> 22 == 0x6440 >> 6
                    // 192.0.0.0/24 without the anycasts of PCP and TURN (RFC 7723, RFC 8155)
                    || (a >> 8 == 0x00c0_0000 && a & 0xff != 9 && a & 0xff != 10)
                    || a >> 8 == 0x00c0_0002
                    || a >> 17 == 0xc612 >> 1
                    || a >> 8 == 0x00c6_3364
                    || a >> 8 == 0x00cb_0071
            }
        }
    }
}

/// 2001::/23 (RFC 2928) without what its registry calls globally reachable: Teredo, which says
/// nothing of it, the anycasts 2001:1::1 to ::3, AMT 2001:3::/32, AS112 2001:4:112::/48, ORCHIDv2
/// 2001:20::/28 and drone identifiers 2001:30::/28.
const fn is_protocol_assignment(upper: u64, lower: u64) -> bool {
    if upper >> 41 != 0x2001_0000 >> 9 {
        return false;
    }
    match (upper >> 32) as u16 {
        0 | 3 => false,
        1 => !(upper as u32 == 0 && lower >= 1 && lower <= 3),
        4 => (upper >> 16) as u16 != 0x0112,
        other if other >> 8 != 0 => true,
        other => other & 0xf0 != 0x20 && other & 0xf0 != 0x30,
    }
}

/// `::/96` (unspecified, loopback, the deprecated v4-compatible) and `::ffff:0:0/96`.
const fn is_zero_or_mapped(upper: u64, lower: u64) -> bool {
    upper == 0 && (lower >> 32 == 0 || lower >> 32 == 0xffff)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn kernel_only() {
        for text in [
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "::ffff:1.2.3.4",
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "169.254.1.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            assert!(address(text).is_kernel_only(), "{text}");
        }
        for text in [
            "2a02:1802:5e::1",
            "fc00::1",
            "fec0::1",
            "400::1",
            "10.1.10.254",
            "1.1.1.1",
        ] {
            assert!(!address(text).is_kernel_only(), "{text}");
        }
    }

    /// By every first half of an address there is, with ends that decide elsewhere.
    #[test]
    fn what_is_sure_is_so() {
        let (mut routed, mut global) = (0, 0);
        for upper in 0..=u16::MAX {
            let [a, b] = upper.to_be_bytes();
            for (c, d) in [(0, 0), (0x0d, 0xb8), (0xff, 0x9b), (2, 1), (0xff, 0xff)] {
                let mut six = [0; 16];
                six[..4].copy_from_slice(&[a, b, c, d]);
                let mut mapped = six;
                mapped[10..12].fill(0xff);
                for address in [
                    IpAddr::from([a, b, c, d]).into(),
                    IpAddr::from(six).into(),
                    IpAddr::from(mapped).into(),
                ] {
                    let address: Address = address;
                    if address.is_surely_routed() {
                        routed += 1;
                        assert!(!address.is_kernel_only(), "{address:?}");
                    }
                    if address.is_surely_global() {
                        global += 1;
                        assert!(!address.is_martian(), "{address:?}");
                    }
                }
            }
        }
        assert!(routed > 700_000 && global > 100_000, "{routed} {global}");
    }

    #[test]
    fn nobodys() {
        for text in [
            "::ffff:10.1.2.3",
            "::1.2.3.4",
            "0.1.2.3",
            "169.254.1.10",
            "240.0.0.1",
        ] {
            let address = address(text);
            assert!(address.is_nobodys() && address.is_kernel_only(), "{text}");
        }
        // What the kernel needs to see, or to answer.
        for text in [
            "fe80::1",
            "ff02::1",
            "127.0.0.1",
            "224.0.0.1",
            "10.0.0.1",
            "fd00::1",
        ] {
            assert!(!address(text).is_nobodys(), "{text}");
        }
    }

    #[test]
    fn martians() {
        for text in [
            "fc00::1",
            "fdff::1",
            "fec0::1",
            "100::1",
            "100:0:0:1::1",
            "2001:db8::1",
            "3fff:fff::1",
            "2001:2::1",
            "2001:10::1",
            "2001:1::4",
            "2001:4:113::1",
            "2001:100::1",
            "64:ff9b:1::1",
            "192.0.0.8",
            "5f00::1",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.1",
            "192.168.1.1",
            "100.64.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.9",
        ] {
            assert!(address(text).is_martian(), "{text}");
        }
        for text in [
            "2a02:1802:5e::1",
            "400::1",
            "200::1",
            "300::1",
            "2001:4860::1",
            "2001:0:1::1",
            "2001:1::1",
            "2001:3::1",
            "2001:4:112::1",
            "2001:20::1",
            "2001:2f::1",
            "2001:30::1",
            "2001:200::1",
            "64:ff9b::102:304",
            "192.0.0.9",
            "100:0:0:2::1",
            "172.32.0.1",
            "100.128.0.1",
            "1.1.1.1",
            "198.20.0.1",
        ] {
            assert!(!address(text).is_martian(), "{text}");
        }
    }
}

//! Classes of addresses: what never crosses a router, and what never crosses its outer edge.

/// An address of either family, network order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// IPv6.
    V6([u8; 16]),
    /// IPv4.
    V4([u8; 4]),
}

impl Address {
    /// Two words, as they lie in memory, and the family: for a function that takes numbers only.
    /// IPv4 is the first four bytes.
    #[inline(always)]
    #[must_use]
    pub const fn halves(&self) -> (u64, u64, u32) {
        match *self {
            Self::V6([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]) => (
                u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
                u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
                6,
            ),
            Self::V4([a, b, c, d]) => (u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]), 0, 4),
        }
    }

    /// The address of [`halves`](Self::halves).
    #[inline(always)]
    #[must_use]
    pub const fn of_halves(upper: u64, lower: u64, family: u32) -> Self {
        let [a, b, c, d, e, f, g, h] = upper.to_ne_bytes();
        if family == 6 {
            let [i, j, k, l, m, n, o, p] = lower.to_ne_bytes();
            Self::V6([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
        } else {
            Self::V4([a, b, c, d])
        }
    }

    /// The kernel alone deals with packets from or to this address: link-local, multicast,
    /// loopback, unspecified, v4-mapped (RFC 4291), and for IPv4 0/8, 127/8, 169.254/16,
    /// multicast, class E and broadcast (RFC 1812 section 5.3.7, RFC 3927 section 2.7).
    #[inline(always)]
    #[must_use]
    pub const fn is_kernel_only(&self) -> bool {
        match self {
            Self::V6(a) => {
                a[0] == 0xff || (a[0] == 0xfe && a[1] & 0xc0 == 0x80) || is_zero_or_mapped(a)
            }
            Self::V4(a) => a[0] == 0 || a[0] == 127 || a[0] >= 224 || (a[0] == 169 && a[1] == 254),
        }
    }

    /// True of no address that [`is_kernel_only`](Self::is_kernel_only), and of nearly all others: what
    /// few instructions can tell.
    #[inline(always)]
    #[must_use]
    pub const fn is_surely_routed(&self) -> bool {
        match self {
            Self::V6(a) => a[0].wrapping_sub(1) < 0xfd,
            Self::V4(a) => a[0].wrapping_sub(1) < 126 || a[0].wrapping_sub(170) < 54,
        }
    }

    /// True of no address that [`is_martian`](Self::is_martian), and of most others, likewise.
    #[inline(always)]
    #[must_use]
    pub const fn is_surely_global(&self) -> bool {
        match self {
            // 2002::/16 up to 3ffe::/16
            Self::V6(a) => u16::from_be_bytes([a[0], a[1]]).wrapping_sub(0x2002) < 0x1ffd,
            Self::V4(a) => a[0].wrapping_sub(11) < 89,
        }
    }

    /// As a source it is nobody's beyond one link, and the kernel forwards packets from it all the
    /// same: IPv4 in IPv6 form, 0/8, 169.254/16, class E. Those it refuses by itself may be here
    /// or not.
    #[inline(always)]
    #[must_use]
    pub const fn is_nobodys(&self) -> bool {
        match self {
            Self::V6(a) => is_zero_or_mapped(a),
            Self::V4(a) => a[0] == 0 || a[0] >= 240 || (a[0] == 169 && a[1] == 254),
        }
    }

    /// A special-purpose address that is not globally reachable (RFC 6890 and its registries,
    /// RFC 8190). 200::/7 and 400::/7 are in use by overlay networks and are no martians.
    #[inline(always)]
    #[must_use]
    pub const fn is_martian(&self) -> bool {
        match self {
            Self::V6(a) => {
                // fc00::/7 unique local, fec0::/10 site local (RFC 3879)
                a[0] & 0xfe == 0xfc
                    || (a[0] == 0xfe && a[1] & 0xc0 == 0xc0)
                    // 100::/64 discard only (RFC 6666), 100:0:0:1::/64 dummy (RFC 9780)
                    || (a[0] == 0x01 && a[1] == 0 && all_zero(a, 2, 7) && a[7] <= 1)
                    // 2001:db8::/32 and 3fff::/20 documentation (RFC 3849, RFC 9637)
                    || (a[0] == 0x20 && a[1] == 0x01 && a[2] == 0x0d && a[3] == 0xb8)
                    || (a[0] == 0x3f && a[1] == 0xff && a[2] & 0xf0 == 0)
                    || is_protocol_assignment(a)
                    // 64:ff9b:1::/48 local-use translation (RFC 8215)
                    || (a[0] == 0 && a[1] == 0x64 && a[2] == 0xff && a[3] == 0x9b && a[4] == 0 && a[5] == 1)
                    // 5f00::/16 segment routing SIDs (RFC 9602)
                    || (a[0] == 0x5f && a[1] == 0)
            }
            Self::V4(a) => {
                a[0] == 10
                    || (a[0] == 172 && a[1] & 0xf0 == 16)
                    || (a[0] == 192 && a[1] == 168)
                    || (a[0] == 100 && a[1] & 0xc0 == 64)
                    // 192.0.0.0/24 without the anycasts of PCP and TURN (RFC 7723, RFC 8155)
                    || (a[0] == 192 && a[1] == 0 && a[2] == 0 && a[3] != 9 && a[3] != 10)
                    || (a[0] == 192 && a[1] == 0 && a[2] == 2)
                    || (a[0] == 198 && a[1] & 0xfe == 18)
                    || (a[0] == 198 && a[1] == 51 && a[2] == 100)
                    || (a[0] == 203 && a[1] == 0 && a[2] == 113)
            }
        }
    }
}

/// 2001::/23 (RFC 2928) without what its registry calls globally reachable: Teredo, which says
/// nothing of it, the anycasts 2001:1::1 to ::3, AMT 2001:3::/32, AS112 2001:4:112::/48, ORCHIDv2
/// 2001:20::/28 and drone identifiers 2001:30::/28.
const fn is_protocol_assignment(a: &[u8; 16]) -> bool {
    if a[0] != 0x20 || a[1] != 0x01 || a[2] & 0xfe != 0 {
        return false;
    }
    a[2] != 0
        || match a[3] {
            0 | 3 => false,
            1 => !(all_zero(a, 4, 15) && a[15] >= 1 && a[15] <= 3),
            4 => a[4] != 0x01 || a[5] != 0x12,
            other => other & 0xf0 != 0x20 && other & 0xf0 != 0x30,
        }
}

/// `::/96` (unspecified, loopback, the deprecated v4-compatible) and `::ffff:0:0/96`.
const fn is_zero_or_mapped(a: &[u8; 16]) -> bool {
    all_zero(a, 0, 10) && ((a[10] == 0 && a[11] == 0) || (a[10] == 0xff && a[11] == 0xff))
}

const fn all_zero(a: &[u8; 16], from: usize, to: usize) -> bool {
    let mut sum = 0;
    let mut i = from;
    while i < to && i < 16 {
        sum |= a[i];
        i += 1;
    }
    sum == 0
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::net::IpAddr;

    fn address(text: &str) -> Address {
        match text.parse().unwrap() {
            IpAddr::V6(a) => Address::V6(a.octets()),
            IpAddr::V4(a) => Address::V4(a.octets()),
        }
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
                    Address::V4([a, b, c, d]),
                    Address::V6(six),
                    Address::V6(mapped),
                ] {
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

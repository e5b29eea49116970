//! Allocations, prefixes, and the index between them.
//!
//! ```text
//!   0            allocation.length                64              128
//!   ├─ allocation ──┼────────── index ─────────────┼── interface ───┤
//! ```

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use ipnet::Ipv6Net;
use serde::Serialize;
use thiserror::Error;

/// Length of a resource's prefix.
pub const PREFIX_LENGTH: u8 = 64;

/// Why a text is no allocation or prefix.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AddressError {
    /// Not an IPv6 prefix at all.
    #[error("not an IPv6 prefix; write it like 2a02:1802:5e::/48")]
    Syntax,
    /// Bits beyond the length are set.
    #[error("has host bits set; the network is {0}")]
    HostBits(Ipv6Net),
    /// A length no allocation has.
    #[error("/{0} is no allocation: its length must be 16 to 60")]
    AllocationLength(u8),
    /// A length no resource's prefix has.
    #[error("/{0} is no resource prefix: it must be a /64")]
    PrefixLength(u8),
    /// Not a unicast network.
    #[error("is not unicast address space")]
    NotUnicast,
}

/// The operator's IPv6 block, /16 to /60.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Allocation(Ipv6Net);

impl Allocation {
    /// The network.
    #[must_use]
    pub const fn net(&self) -> Ipv6Net {
        self.0
    }

    /// Bits of an index: 16 in a /48, 24 in a /40, 35 in a /29.
    #[must_use]
    pub const fn index_bits(&self) -> u8 {
        PREFIX_LENGTH - self.0.prefix_len()
    }

    /// The prefix with this index, `None` when it has more bits than the allocation gives.
    #[must_use]
    pub fn prefix(&self, index: Index) -> Option<Prefix> {
        if index.0 >> self.index_bits() != 0 {
            return None;
        }
        let bits = u128::from(self.0.network()) | u128::from(index.0) << 64;
        Ipv6Net::new(Ipv6Addr::from(bits), PREFIX_LENGTH)
            .ok()
            .map(Prefix)
    }

    /// The index of a prefix, `None` when it lies outside.
    #[must_use]
    pub fn index(&self, prefix: &Prefix) -> Option<Index> {
        self.0.contains(&prefix.0).then(|| {
            let high = (u128::from(prefix.0.network()) >> 64) as u64;
            Index(high & (u64::MAX >> self.0.prefix_len()))
        })
    }

    /// The other lies wholly inside.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.0.contains(&other.0)
    }

    /// The two share addresses.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other) || other.contains(self)
    }

    /// An address on the segment, the allocation's index 0: `$alloc::<host>/64`.
    #[must_use]
    pub(super) fn on_segment(&self, host: u64) -> Ipv6Net {
        let bits = u128::from(self.0.network()) | u128::from(host);
        Ipv6Net::new_assert(Ipv6Addr::from(bits), PREFIX_LENGTH)
    }

    /// The router's address on the segment: `$alloc::1/64`.
    #[must_use]
    pub fn router_segment_address(&self) -> Ipv6Net {
        self.on_segment(1)
    }

    /// The router's link-local address on the segment: `fe80::1/64`.
    #[must_use]
    pub fn router_link_local(&self) -> Ipv6Net {
        link_local(1)
    }
}

/// `fe80::<interface identifier>/64`.
pub(super) fn link_local(identifier: u64) -> Ipv6Net {
    let bits = 0xfe80_u128 << 112 | u128::from(identifier);
    Ipv6Net::new_assert(Ipv6Addr::from(bits), 64)
}

impl FromStr for Allocation {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let net = unicast(text)?;
        if !(16..=60).contains(&net.prefix_len()) {
            return Err(AddressError::AllocationLength(net.prefix_len()));
        }
        Ok(Self(net))
    }
}

/// The /64 of one network resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(Ipv6Net);

impl Prefix {
    /// The network.
    #[must_use]
    pub const fn net(&self) -> Ipv6Net {
        self.0
    }

    /// The last two bytes of the /64, from which the IPv4 addresses follow.
    #[must_use]
    pub const fn last_bytes(&self) -> [u8; 2] {
        let octets = self.0.addr().octets();
        [octets[6], octets[7]]
    }
}

impl FromStr for Prefix {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let net = unicast(text)?;
        if net.prefix_len() != PREFIX_LENGTH {
            return Err(AddressError::PrefixLength(net.prefix_len()));
        }
        Ok(Self(net))
    }
}

fn unicast(text: &str) -> Result<Ipv6Net, AddressError> {
    let net: Ipv6Net = text.parse().map_err(|_| AddressError::Syntax)?;
    if net.trunc() != net {
        return Err(AddressError::HostBits(net.trunc()));
    }
    let first = net.addr().segments()[0];
    // ::/8, link-local and multicast hold no networks of ours.
    if first & 0xff00 == 0 || first & 0xffc0 == 0xfe80 || first & 0xff00 == 0xff00 {
        return Err(AddressError::NotUnicast);
    }
    Ok(net)
}

/// The bits between an allocation's length and bit 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Index(pub u64);

impl Index {
    /// The allocation's first /64: the segment, never a resource.
    pub const SEGMENT: Self = Self(0);
}

macro_rules! as_text {
    ($($name:ident)+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.0)
            }
        }
    )+};
}

as_text!(Allocation Prefix);

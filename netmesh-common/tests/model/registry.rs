//! Classes of addresses, as the registries list them.

use std::net::IpAddr;
use std::sync::OnceLock;

/// The IANA special-purpose address registries (RFC 6890, RFC 8190): prefix, and whether it is
/// globally reachable. The longest match of an address speaks for it; a prefix whose reachability
/// the registry leaves open ("N/A": Teredo, 6to4) counts as reachable.
const SPECIAL: [(&str, bool); 47] = [
    ("64:ff9b::/96", true),
    // RFC 8215
    ("64:ff9b:1::/48", false),
    // RFC 6666
    ("100::/64", false),
    // RFC 9780
    ("100:0:0:1::/64", false),
    // RFC 2928
    ("2001::/23", false),
    // RFC 4380
    ("2001::/32", true),
    // RFC 7723
    ("2001:1::1/128", true),
    // RFC 8155
    ("2001:1::2/128", true),
    // RFC 9665
    ("2001:1::3/128", true),
    // RFC 5180
    ("2001:2::/48", false),
    // RFC 7450
    ("2001:3::/32", true),
    // RFC 7535
    ("2001:4:112::/48", true),
    // RFC 4843, given back
    ("2001:10::/28", false),
    // RFC 7343
    ("2001:20::/28", true),
    // RFC 9374
    ("2001:30::/28", true),
    // RFC 3849
    ("2001:db8::/32", false),
    // RFC 3056
    ("2002::/16", true),
    // RFC 7534
    ("2620:4f:8000::/48", true),
    // RFC 9637
    ("3fff::/20", false),
    // RFC 9602
    ("5f00::/16", false),
    // RFC 4193
    ("fc00::/7", false),
    // RFC 3879: not in the registry any more, and assigned to nobody
    ("fec0::/10", false),
    // RFC 1918
    ("10.0.0.0/8", false),
    ("172.16.0.0/12", false),
    ("192.168.0.0/16", false),
    // RFC 6598
    ("100.64.0.0/10", false),
    // RFC 6890 section 2.1
    ("192.0.0.0/24", false),
    // RFC 7335
    ("192.0.0.0/29", false),
    // RFC 7600
    ("192.0.0.8/32", false),
    // RFC 7723
    ("192.0.0.9/32", true),
    // RFC 8155
    ("192.0.0.10/32", true),
    // RFC 7050
    ("192.0.0.170/32", false),
    ("192.0.0.171/32", false),
    // RFC 5737
    ("192.0.2.0/24", false),
    ("198.51.100.0/24", false),
    ("203.0.113.0/24", false),
    // RFC 7535
    ("192.31.196.0/24", true),
    // RFC 7450
    ("192.52.193.0/24", true),
    // RFC 7526
    ("192.88.99.0/24", true),
    // RFC 7534
    ("192.175.48.0/24", true),
    // RFC 2544
    ("198.18.0.0/15", false),
    // In use by overlay networks, assigned or not
    ("200::/7", true),
    ("400::/7", true),
    // The Internet
    ("2000::/3", true),
    ("::/0", true),
    ("0.0.0.0/0", true),
    ("1.0.0.0/8", true),
];

/// What no router passes on, and the kernel knows what to do with.
const SCOPED: [&str; 12] = [
    // RFC 4291 sections 2.5.2, 2.5.3 and 2.5.5.1: unspecified, loopback, IPv4-compatible
    "::/96",
    // section 2.5.5.2: IPv4-mapped
    "::ffff:0:0/96",
    // section 2.5.6: link-local
    "fe80::/10",
    // section 2.7: multicast
    "ff00::/8",
    // RFC 1122 section 3.2.1.3: this network, loopback
    "0.0.0.0/8",
    "127.0.0.0/8",
    // RFC 3927 section 2.7
    "169.254.0.0/16",
    // RFC 5771: multicast
    "224.0.0.0/4",
    // RFC 1112 section 4: reserved; RFC 919: limited broadcast
    "240.0.0.0/5",
    "248.0.0.0/6",
    "252.0.0.0/6",
    "255.255.255.255/32",
];

/// Scopes that end at a router.
pub(super) fn never_crosses(version: u8, address: u128) -> bool {
    static BLOCKS: OnceLock<Vec<Block>> = OnceLock::new();
    let blocks = BLOCKS.get_or_init(|| SCOPED.map(|text| Block::read(text, false)).to_vec());
    blocks.iter().any(|block| block.holds(version, address))
}

/// Nobody's as a source beyond one link: IPv4 in IPv6 form (RFC 4291 section 2.5.5), "this network"
/// (RFC 1122), link-local IPv4 (RFC 3927), class E (RFC 1112). The unspecified address and loopback
/// lie in the first block and never come this far.
pub(super) fn is_nobodys(version: u8, address: u128) -> bool {
    const NOBODYS: [&str; 5] = [
        "::/96",
        "::ffff:0:0/96",
        "0.0.0.0/8",
        "169.254.0.0/16",
        "240.0.0.0/4",
    ];
    static BLOCKS: OnceLock<Vec<Block>> = OnceLock::new();
    let blocks = BLOCKS.get_or_init(|| NOBODYS.map(|text| Block::read(text, false)).to_vec());
    blocks.iter().any(|block| block.holds(version, address))
}

/// A special-purpose address that is not globally reachable.
pub(super) fn is_martian(version: u8, address: u128) -> bool {
    static BLOCKS: OnceLock<Vec<Block>> = OnceLock::new();
    let read = |(text, reachable)| Block::read(text, reachable);
    let blocks = BLOCKS.get_or_init(|| SPECIAL.map(read).to_vec());
    let holding = blocks.iter().filter(|block| block.holds(version, address));
    let longest = holding.max_by_key(|block| block.length);
    longest.is_some_and(|block| !block.reachable)
}

/// A row of a registry.
#[derive(Clone)]
struct Block {
    version: u8,
    network: u128,
    length: u32,
    reachable: bool,
}

impl Block {
    fn read(text: &str, reachable: bool) -> Self {
        let (network, length) = text.split_once('/').unwrap();
        let (version, network) = match network.parse().unwrap() {
            IpAddr::V6(address) => (6, address.to_bits()),
            IpAddr::V4(address) => (4, u128::from(address.to_bits())),
        };
        Self {
            version,
            network,
            length: length.parse().unwrap(),
            reachable,
        }
    }

    fn holds(&self, version: u8, address: u128) -> bool {
        let bits = if version == 6 { 128 } else { 32 };
        let network_of = |address: u128| address.checked_shr(bits - self.length).unwrap_or(0);
        self.version == version && network_of(self.network) == network_of(address)
    }
}

//! A router between two wires: frames made by hand go in on the left, and what comes out on
//! either side is looked at.

use std::time::Duration;

use netmesh::kernel::snmp::{self, KernelForwarded};

use crate::Lab;
use crate::pair::{LEFT, RIGHT};
use crate::stack::Ports;
use crate::wire::{ETHERNET, ICMPV6, IPV4, IPV6, Wire, datagram, frame, mac};

/// Port of the datagrams a test is about.
pub const MARK: u16 = 0x7a7b;
/// Port of those that show that the way is open.
const SENTINEL: u16 = 0x5e5e;

/// How long a packet may take.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A pair lab with a wire at each end.
#[derive(Debug)]
pub struct Field {
    /// The machines.
    pub lab: Lab,
    /// The left host's wire.
    pub left: Wire,
    /// The right host's.
    pub right: Wire,
    /// Link-layer address of the left host.
    pub host: [u8; 6],
    /// Link-layer address of the router on the left.
    pub router: [u8; 6],
}

impl Field {
    /// A field whose ports have this hook and believe these sources; `prepare` changes the
    /// machines before the data plane is there.
    #[must_use]
    pub fn new(hook: &str, sources: &str, prepare: impl Fn(&Lab)) -> Self {
        let lab = Lab::pair();
        lab.whole_checksums(true);
        prepare(&lab);
        lab.attach_pair(hook, sources);
        let left = Wire::open(&lab.at("left"), "eth0");
        let right = Wire::open(&lab.at("right"), "eth0");
        let host = mac(&lab.at("left"), "eth0");
        let router = mac(&lab.at("router"), "port0");
        Self {
            lab,
            left,
            right,
            host,
            router,
        }
    }

    /// A field whose ports believe every source.
    #[must_use]
    pub fn plain(hook: &str) -> Self {
        Self::new(hook, "any", |_| {})
    }

    /// Sends an IP packet to the router.
    pub fn send(&self, packet: &[u8]) {
        self.left.send(&self.framed(packet));
    }

    /// The frame in which the left host sends a packet to the router.
    #[must_use]
    pub fn framed(&self, packet: &[u8]) -> Vec<u8> {
        let ethertype = if packet[0] >> 4 == 4 { IPV4 } else { IPV6 };
        frame(self.router, self.host, ethertype, packet)
    }

    /// The IP packet that arrives on the right and holds this port.
    ///
    /// # Panics
    /// When none does.
    #[must_use]
    pub fn arrives(&self, port: u16) -> Vec<u8> {
        let found = self.right.wait(PATIENCE, |frame| contains(frame, port));
        found.expect("it arrives").split_off(ETHERNET)
    }

    /// Asserts that nothing with the mark has come to the right: two packets that do cross are
    /// sent, one after the other, and it is not before them.
    ///
    /// # Panics
    /// When something has.
    pub fn assert_nothing_crosses(&self, name: &str) {
        for round in 0..2 {
            let port = SENTINEL + round;
            self.send(&datagram(LEFT.into(), RIGHT.into(), 64, port, 60));
            let found = self.right.wait(PATIENCE, |frame| {
                contains(frame, MARK) || contains(frame, port)
            });
            let found = found.expect("the way is open");
            assert!(!contains(&found, MARK), "{name} crossed: {found:02x?}");
        }
    }

    /// The data plane's counters.
    #[must_use]
    pub fn ports(&self) -> Ports {
        Ports::of(&self.lab.at("router"))
    }

    /// What the router's kernel has forwarded itself.
    ///
    /// # Panics
    /// When the router is gone.
    #[must_use]
    pub fn kernel(&self) -> KernelForwarded {
        snmp::forwarded(&self.lab.at("router")).expect("the router")
    }

    /// The ICMPv6 error of this type that comes back to the left.
    #[must_use]
    pub fn error(&self, kind: u8) -> Option<Vec<u8>> {
        let found = self.left.wait(PATIENCE, |frame| {
            frame.len() > ETHERNET + 48
                && frame[12..14] == IPV6.to_be_bytes()
                && frame[ETHERNET + 6] == ICMPV6
                && frame[ETHERNET + 40] == kind
                && frame[..6] == self.host
        });
        found.map(|mut frame| frame.split_off(ETHERNET))
    }
}

/// A datagram from and to this port is in the frame, whatever is around it.
#[must_use]
pub fn contains(frame: &[u8], port: u16) -> bool {
    let [a, b] = port.to_be_bytes();
    frame.windows(4).any(|window| window == [a, b, a, b])
}

/// The packet a test is about, where nothing is special about it.
#[must_use]
pub fn marked() -> Vec<u8> {
    datagram(LEFT.into(), RIGHT.into(), 64, MARK, 80)
}

/// The packet one hop on: nothing else may differ.
#[must_use]
pub fn routed(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 6 {
        packet[7] -= 1;
        return packet;
    }
    packet[8] -= 1;
    packet[10..12].fill(0);
    let header = usize::from(packet[0] & 0x0f) * 4;
    let mut sum: u32 = packet[..header]
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet
}

/// Kernels before 6.3 lose what XDP redirects in several buffers.
///
/// # Panics
/// When the kernel has no name.
#[must_use]
pub fn redirects_no_several_buffers() -> bool {
    let name = nix::sys::utsname::uname().expect("a kernel");
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split('.').map_while(|part| part.parse().ok());
    let version: (u32, u32) = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    version < (6, 3)
}

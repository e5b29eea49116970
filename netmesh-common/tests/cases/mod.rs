//! One table of packets for every host of the decision: the library itself, and the programs in
//! the kernel. A case names what goes in and what must come out, byte for byte.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "test helpers; not every host uses each of them"
)]

pub(crate) mod lab;
mod list;
pub(crate) mod packet;
pub(crate) mod reference;

use netmesh_common::verdict::{DropReason, PuntReason};

#[allow(unused_imports, reason = "each host uses its own")]
pub(crate) use list::{all, untagged};

/// A packet, the port it comes in through, and what becomes of it.
pub(crate) struct Case {
    /// What the case shows.
    pub(crate) name: &'static str,
    /// Flags of the ingress port.
    pub(crate) flags: u32,
    /// The packet.
    pub(crate) input: Input,
    /// What TC makes of it.
    pub(crate) tc: Outcome,
    /// What XDP makes of it; `None` where it cannot come in.
    pub(crate) xdp: Option<Outcome>,
}

/// A packet and what the kernel knows of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Input {
    /// From the first byte the hook sees.
    pub(crate) bytes: Vec<u8>,
    /// GSO segment size, 0 for none.
    pub(crate) segment_size: u32,
    /// GSO segments, 0 for not counted.
    pub(crate) segments: u32,
    /// A tag that was taken off the frame and is kept beside it (TC): EtherType, control
    /// information.
    pub(crate) tag: Option<(u16, u16)>,
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was handed to a device.
    Forward {
        /// Interface index; `None` where the host does not tell.
        ifindex: Option<u32>,
        /// Bytes after the rewrite. Towards a device without a link-layer header the Ethernet
        /// header is still in front: the kernel takes it off.
        bytes: Vec<u8>,
        /// Counters that moved: index, packets, bytes.
        to: Count,
        /// The same for the source's prefix.
        from: Option<Count>,
    },
    /// It was left to the kernel, untouched.
    Punt(PuntReason),
    /// It was dropped.
    Drop(DropReason),
    /// It was left alone and not counted: another program's, or nobody's.
    NotOurs,
}

/// How a prefix counter moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count {
    /// Index of the counter.
    pub(crate) counter: u32,
    /// Packets.
    pub(crate) packets: u64,
    /// IP bytes.
    pub(crate) bytes: u64,
}

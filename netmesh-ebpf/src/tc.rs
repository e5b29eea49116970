//! TC ingress: packets of Ethernet ports and of devices without a link-layer header.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::{
    bpf_check_mtu, bpf_csum_update, bpf_redirect, bpf_skb_change_head, bpf_skb_change_tail,
    bpf_skb_load_bytes,
};
use aya_ebpf::programs::TcContext;
use netmesh_common::decide::decide_into;
use netmesh_common::header::ETHERNET;
use netmesh_common::rewrite::{PacketEdit, prepare, rewrite};
use netmesh_common::table::Port;
use netmesh_common::trace::DROPS;
use netmesh_common::verdict::{DropReason, Forward, PuntReason, Stations};
use netmesh_common::view::{Fit, Ingress, PacketView};
use netmesh_common::vlan;

use crate::atomic::opaque;
use crate::trace::Told;
use crate::{count, maps, tags, trace, wide};

/// `BPF_MTU_CHK_SEGS`: judge a GSO packet by its segments.
const CHECK_SEGMENTS: u64 = 1;

/// `-EINVAL`: nobody has told the buffer where its transport header is, so that only the packet
/// itself can say how large its segments are.
const NO_TRANSPORT_HEADER: i64 = -22;

/// `-ENODEV`.
const NO_DEVICE: i64 = -19;

/// Bytes the decision may read: Ethernet, IPv6 and TCP headers.
const HEADERS: u32 = 14 + 40 + 20;

/// Bytes it may read of an ICMP error: up to the ports of the packet it quotes.
const QUOTE: u32 = 14 + 40 + 8 + 40 + 4;

/// A packet in a socket buffer, whose headers lie in its linear part.
struct Packet<'a>(&'a TcContext);

impl PacketView for Packet<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let pointer = self.place(offset, N)? as *const [u8; N];
        // SAFETY: N bytes lie there.
        Some(unsafe { *pointer })
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u64; N]> {
        let place = self.place(offset, 8 * N)?;
        // SAFETY: so many bytes lie there.
        Some(unsafe { wide::words(place) })
    }

    #[inline(always)]
    fn halves<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let place = self.place(offset, 4 * N)?;
        // SAFETY: so many bytes lie there.
        Some(unsafe { wide::halves(place) })
    }

    #[inline(always)]
    fn pair(&self, offset: usize) -> Option<u16> {
        let place = self.place(offset, 2)?;
        // SAFETY: two bytes lie there.
        Some(u16::from_be(unsafe { wide::load_2(place) }))
    }

    #[inline(always)]
    fn walk(&self, own: bool) -> u32 {
        tags::walk(self.0.data(), self.0.data_end(), own)
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.0.len() as usize
    }

    const TAG_IN_DATA: bool = false;

    #[inline(always)]
    fn tag_beside(&self) -> Option<(u16, u16)> {
        // SAFETY: the context points at the buffer this program was called with.
        let (present, protocol, control) = unsafe {
            let buffer = self.0.skb.skb;
            (
                (*buffer).vlan_present,
                (*buffer).vlan_proto,
                (*buffer).vlan_tci,
            )
        };
        (present != 0).then_some((u16::from_be(protocol as u16), control as u16))
    }

    #[inline(always)]
    fn segment_size(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0.skb.skb).gso_size }
    }

    #[inline(always)]
    fn segments(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0.skb.skb).gso_segs }
    }

    /// The kernel's own word, for every packet: a redirection into a device that is gone, or whose
    /// MTU has become smaller, would be lost without a trace.
    #[inline(always)]
    fn fits(&self, ifindex: u32, length: u32, mtu: u32) -> Fit {
        if length > mtu {
            return Fit::TooBig;
        }
        // Segments inside a tunnel repeat more headers than the decision reads.
        let (mut word, flags) = if self.segment_size() == 0 {
            (length, 0)
        } else {
            (0, CHECK_SEGMENTS)
        };
        // SAFETY: the context is this program's own; the helper reads and writes one u32.
        let answer = unsafe { bpf_check_mtu(self.0.as_ptr(), ifindex, &raw mut word, 0, flags) };
        match answer {
            0 | NO_TRANSPORT_HEADER => Fit::Fits,
            NO_DEVICE => Fit::Gone,
            _ => Fit::TooBig,
        }
    }
}

/// With a stack of its own.
#[inline(never)]
fn tell(context: *mut c_void, words: (u64, u64)) {
    trace::tell(words, |to, length| {
        // SAFETY: the verifier checks that `to` has room for `length` bytes.
        unsafe { bpf_skb_load_bytes(context.cast_const(), 0, to, length) }
    });
}

/// Runs the decision on a packet.
#[inline(always)]
pub(crate) fn run(context: &TcContext) -> i32 {
    // SAFETY: the context points at the buffer this program was called with.
    let device = unsafe { (*context.skb.skb).ifindex };
    let Some(decision) = maps::decision() else {
        return TC_ACT_UNSPEC;
    };
    let mut ingress = Ingress::new(false);
    if !vlan::arrive(&Packet(context), device, &maps::Tables, &mut ingress) {
        return TC_ACT_UNSPEC;
    }
    // Nothing is kept that can be read again: a program has 512 bytes of stack with all it calls.
    let mut wanted = context.len().min(QUOTE);
    if context.data() + wanted as usize > context.data_end() && !may_be_icmp(context, &ingress.port)
    {
        wanted = context.len().min(HEADERS);
    }
    if context.data() + wanted as usize > context.data_end() && context.pull_data(wanted).is_err() {
        let packets = Packet(context).segments().max(1);
        count::punted(ingress.port.slot, PuntReason::Malformed.index(), packets);
        return TC_ACT_UNSPEC;
    }
    let forward = &mut decision.forward;
    let outcome = decide_into(&Packet(context), &ingress, &maps::Tables, forward);
    let code = decision.code(outcome);
    let forward = &decision.forward;
    if trace::asked().is_some() {
        let told = Told::new(&ingress, code, forward, Packet(context).length());
        tell(context.as_ptr(), told.pack());
    }
    match code {
        0 => hand_over(context, ingress.port.slot, forward),
        1..DROPS => {
            count::refused(ingress.port.slot, code, Packet(context).segments().max(1));
            TC_ACT_UNSPEC
        }
        _ => {
            count::refused(ingress.port.slot, code, Packet(context).segments().max(1));
            TC_ACT_SHOT
        }
    }
}

/// ICMP, or too little of it in place to tell.
#[inline(always)]
fn may_be_icmp(context: &TcContext, port: &Port) -> bool {
    let offset = if port.flags & Port::LAYER3 == 0 {
        ETHERNET
    } else {
        0
    };
    match Packet(context).halves::<3>(offset) {
        Some([first, second, third]) => match first >> 28 {
            6 => (second >> 8) as u8 == 58,
            4 => (third >> 16) as u8 == 1,
            _ => false,
        },
        None => true,
    }
}

#[inline(always)]
fn hand_over(context: &TcContext, slot: u32, forward: &Forward) -> i32 {
    // The buffer's notes of a transport header may lie behind the end of the packet, which then
    // cannot be cut there (`__bpf_skb_min_len`).
    if prepare(&mut Packet(context), forward).is_none() {
        count::punted(slot, PuntReason::Malformed.index(), forward.packets);
        return TC_ACT_UNSPEC;
    }
    if rewrite(&mut Packet(context), forward).is_none() {
        count::dropped(slot, DropReason::RewriteFailed.index(), forward.packets);
        return TC_ACT_SHOT;
    }
    count::forwarded::<true>(slot, forward);
    // SAFETY: no memory is involved.
    (unsafe { bpf_redirect(forward.ifindex, 0) }) as i32
}

/// Written in place: a program that does so is given a buffer whose headers are its own
/// (`bpf_unclone_prologue`).
impl PacketEdit for Packet<'_> {
    const FRAMES_ONLY: bool = false;

    #[inline(always)]
    fn trim(&mut self, length: usize, _least: usize) -> Option<()> {
        let length = length as u32;
        if self.0.len() <= length {
            return Some(());
        }
        // SAFETY: the context is this program's own.
        done(unsafe { bpf_skb_change_tail(self.0.as_ptr().cast(), length, 0) })
    }

    /// Only ever from no header to one: a sub-interface puts its tag on by itself.
    #[inline(always)]
    fn resize_header(&mut self, from: usize, _to: usize) -> Option<()> {
        if from != 0 {
            return Some(());
        }
        // SAFETY: the context is this program's own.
        done(unsafe { bpf_skb_change_head(self.0.as_ptr().cast(), ETHERNET as u32, 0) })
    }

    /// The checksum a device has computed (`CHECKSUM_COMPLETE`) starts behind this header.
    #[inline(always)]
    fn store_ethernet(&mut self, stations: Stations, ethertype: u16) -> Option<()> {
        let place = self.place(0, ETHERNET)?;
        // SAFETY: so many bytes lie there.
        unsafe { wide::store_ethernet(place, stations, ethertype) };
        Some(())
    }

    /// One byte or two, within one word of that checksum.
    #[inline(always)]
    fn store_ip<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        // Only a tag is more, which a sub-interface puts on by itself.
        if N > 2 {
            return None;
        }
        // A header begins at 14 bytes and four tags at most. The verifier knows no bound of it.
        let offset = opaque(offset as u64) as usize & 63;
        // More follows in every header; a check of one byte teaches the verifier nothing.
        let pointer = self.place(offset, 2)? as *mut [u8; N];
        // SAFETY: two bytes lie there, and N is no more.
        let before = unsafe { *pointer };
        // SAFETY: as above.
        unsafe { *pointer = bytes };
        let change = u32::from(word(offset, bytes)) + u32::from(!word(offset, before));
        // It has nothing to do where no device has computed one.
        // SAFETY: the context is this program's own.
        let _ = unsafe { bpf_csum_update(self.0.as_ptr().cast(), change) };
        Some(())
    }
}

impl Packet<'_> {
    /// Where so many bytes of the linear part lie.
    #[inline(always)]
    fn place(&self, offset: usize, length: usize) -> Option<usize> {
        let start = self.0.data();
        if start + offset + length > self.0.data_end() {
            return None;
        }
        Some(start + offset)
    }
}

/// One or two bytes as they are summed up at an offset.
#[inline(always)]
fn word<const N: usize>(offset: usize, bytes: [u8; N]) -> u16 {
    match *bytes.as_slice() {
        [one] if offset & 1 == 0 => u16::from_ne_bytes([one, 0]),
        [one] => u16::from_ne_bytes([0, one]),
        [one, two] => u16::from_ne_bytes([one, two]),
        _ => 0,
    }
}

/// What a helper says as `Option`.
#[inline(always)]
fn done(result: i64) -> Option<()> {
    (result == 0).then_some(())
}

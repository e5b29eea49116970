//! TC ingress: packets of Ethernet ports and of devices without a link-layer header.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::{bpf_check_mtu, bpf_redirect, bpf_skb_change_head};
use aya_ebpf::programs::TcContext;
use netmesh_common::decide::decide;
use netmesh_common::header::{ETHERNET, Family};
use netmesh_common::verdict::{DropReason, Forward, Verdict};
use netmesh_common::view::{Ingress, PacketView};

use crate::{count, maps};

/// `BPF_MTU_CHK_SEGS`: judge a GSO packet by its segments.
const CHECK_SEGMENTS: u64 = 1;

/// A packet in a socket buffer; its bytes may lie in fragments, so they are copied out.
struct Packet<'a>(&'a TcContext);

impl PacketView for Packet<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.load::<[u8; N]>(offset).ok()
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.0.len() as usize
    }

    #[inline(always)]
    fn has_vlan_tag(&self) -> bool {
        // SAFETY: the context points at the buffer this program was called with.
        unsafe { (*self.0.skb.skb).vlan_present != 0 }
    }

    #[inline(always)]
    fn segments(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0.skb.skb).gso_segs }
    }

    #[inline(always)]
    fn fits(&self, ifindex: u32, length: u32, mtu: u32) -> bool {
        if self.segments() <= 1 {
            return length <= mtu;
        }
        let mut mtu_found = 0_u32;
        // SAFETY: the context is this program's own; the helper writes one u32.
        let answer = unsafe {
            bpf_check_mtu(
                self.0.as_ptr(),
                ifindex,
                &raw mut mtu_found,
                0,
                CHECK_SEGMENTS,
            )
        };
        answer == 0
    }
}

/// Runs the decision on a packet.
#[inline(always)]
pub(crate) fn run(context: &mut TcContext) -> i32 {
    // SAFETY: the context points at the buffer this program was called with.
    let ifindex = unsafe { (*context.skb.skb).ifindex };
    let Some(port) = maps::port(ifindex) else {
        return TC_ACT_UNSPEC;
    };
    let ingress = Ingress {
        ifindex,
        port,
        frames_only: false,
    };
    let packets = Packet(context).segments().max(1);
    match decide(&Packet(context), &ingress, &maps::Tables) {
        Verdict::Forward(forward) => hand_over(context, port.slot, &forward),
        Verdict::Punt(reason) => {
            count::punted(port.slot, reason, packets);
            TC_ACT_UNSPEC
        }
        Verdict::Drop(reason) => {
            count::dropped(port.slot, reason, packets);
            TC_ACT_SHOT
        }
    }
}

#[inline(always)]
fn hand_over(context: &mut TcContext, slot: u32, forward: &Forward) -> i32 {
    if rewrite(context, forward).is_err() {
        count::dropped(slot, DropReason::RewriteFailed, forward.packets);
        return TC_ACT_SHOT;
    }
    count::forwarded(slot, forward);
    // SAFETY: no memory is involved.
    (unsafe { bpf_redirect(forward.ifindex, 0) }) as i32
}

/// Hop limit, IPv4 checksum, link-layer header. A packet from a device without one gets the 14
/// bytes first, since that is the only step that can fail for want of memory. Towards a device
/// without one the kernel takes the header off (`__bpf_redirect_no_mac`).
#[inline(always)]
fn rewrite(context: &mut TcContext, forward: &Forward) -> Result<(), i64> {
    let mut offset = forward.offset as usize;
    if !forward.layer3 {
        if offset == 0 {
            // SAFETY: the context is this program's own.
            if unsafe { bpf_skb_change_head(context.as_ptr().cast(), ETHERNET as u32, 0) } != 0 {
                return Err(-1);
            }
            offset = ETHERNET;
        }
        let [a, b, c, d, e, f] = forward.destination_mac;
        let [g, h, i, j, k, l] = forward.source_mac;
        let [t0, t1] = forward.family.ethertype().to_be_bytes();
        context.store(0, &[a, b, c, d, e, f, g, h, i, j, k, l, t0, t1], 0)?;
    }
    let recompute = u64::from(BPF_F_RECOMPUTE_CSUM);
    let hop_limit = offset + forward.family.hop_limit_offset();
    context.store(hop_limit, &forward.hop_limit, recompute)?;
    if forward.family == Family::V4 {
        context.store(offset + 10, &forward.checksum.to_be_bytes(), recompute)?;
    }
    Ok(())
}

//! XDP: frames of Ethernet ports.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::helpers::{
    bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
};
use aya_ebpf::programs::XdpContext;
use netmesh_common::decide::decide_into;
use netmesh_common::header::ETHERNET;
use netmesh_common::rewrite::{PacketEdit, prepare, rewrite};
use netmesh_common::table::Port;
use netmesh_common::trace::DROPS;
use netmesh_common::verdict::{DropReason, Forward, Outcome, PuntReason};
use netmesh_common::view::{Ingress, PacketView};
use netmesh_common::vlan;

use crate::trace::Told;
use crate::{count, maps, tags, trace};

/// A frame in the driver's buffer.
struct Frame<'a>(&'a XdpContext);

impl PacketView for Frame<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let pointer = bytes_at::<N>(self.0, offset)?;
        // SAFETY: `bytes_at` has checked that N bytes lie inside the frame.
        Some(unsafe { *pointer })
    }

    #[inline(always)]
    fn walk(&self, own: bool) -> u32 {
        tags::walk(self.0.data(), self.0.data_end(), own)
    }

    #[inline(always)]
    fn vid_behind(&self) -> u16 {
        tags::vid_behind(self.0.data(), self.0.data_end())
    }

    #[inline(always)]
    fn length(&self) -> usize {
        // SAFETY: the context is the one this program was called with.
        (unsafe { bpf_xdp_get_buff_len(self.0.as_ptr().cast()) }) as usize
    }
}

impl PacketEdit for Frame<'_> {
    const FRAMES_ONLY: bool = true;

    /// What follows the packet goes, as in `pskb_trim_rcsum` of `ip6_rcv_core`; but
    /// `ndo_xdp_xmit` sends a frame as it is, so the padding up to Ethernet's least stays.
    #[inline(always)]
    fn trim(&mut self, length: usize, least: usize) -> Option<()> {
        let wanted = length.max(least);
        let surplus = self.length().saturating_sub(wanted);
        if surplus == 0 {
            return Some(());
        }
        let delta = (surplus as i32).wrapping_neg();
        // SAFETY: the context is the one this program was called with; every pointer into the
        // frame is made anew after this.
        let result = unsafe { bpf_xdp_adjust_tail(self.0.as_ptr().cast(), delta) };
        (result == 0).then_some(())
    }

    /// A tag comes or goes. Drivers leave room in front (`XDP_PACKET_HEADROOM`).
    #[inline(always)]
    fn resize_header(&mut self, from: usize, to: usize) -> Option<()> {
        if from == to {
            return Some(());
        }
        let shorter = (from as i32).wrapping_sub(to as i32);
        // SAFETY: the context is this program's own.
        let result = unsafe { bpf_xdp_adjust_head(self.0.as_ptr().cast(), shorter) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn store_ethernet(&mut self, header: [u8; ETHERNET]) -> Option<()> {
        self.store_ip(0, header)
    }

    /// `None` cannot happen after a decision to forward, but only the verifier's view of the
    /// bounds counts.
    #[inline(always)]
    fn store_ip<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        let pointer = bytes_at::<N>(self.0, offset)?;
        // SAFETY: `bytes_at` has checked that N bytes lie inside the frame.
        unsafe { *pointer = bytes };
        Some(())
    }
}

/// Runs the decision on a frame.
#[inline(always)]
pub(crate) fn run(context: &XdpContext) -> u32 {
    let device = context.ingress_ifindex() as u32;
    let Some(decision) = maps::decision() else {
        return xdp_action::XDP_PASS;
    };
    let mut ingress = Ingress::new(true);
    if !vlan::arrive(&Frame(context), device, &maps::Tables, &mut ingress) {
        return xdp_action::XDP_PASS;
    }
    // Nothing is kept that can be read again: a program has 512 bytes of stack with all it calls.
    let forward = &mut decision.forward;
    let outcome = decide_into(&Frame(context), &ingress, &maps::Tables, forward);
    let outcome = arm(context, outcome, forward);
    let code = decision.code(outcome);
    let forward = &decision.forward;
    if trace::asked().is_some() {
        let told = Told::new(&ingress, code, forward, Frame(context).length());
        tell(context.as_ptr().cast(), told.pack());
    }
    match code {
        0 => hand_over(context, &ingress, forward),
        1..DROPS => {
            count::refused(ingress.port.slot, code, 1);
            xdp_action::XDP_PASS
        }
        _ => {
            count::refused(ingress.port.slot, code, 1);
            xdp_action::XDP_DROP
        }
    }
}

/// A frame in several buffers is lost where the egress takes none (`xdp_do_redirect` before 6.3,
/// `dev_map_enqueue` since).
#[inline(always)]
fn is_taken(context: &XdpContext, ifindex: u32) -> bool {
    context.data_end() - context.data() == Frame(context).length()
        || maps::port(ifindex).is_some_and(|port| port.flags & Port::SEVERAL_BUFFERS != 0)
}

/// With a stack of its own. `bpf_xdp_load_bytes` may be the only way to bytes in fragments.
#[inline(never)]
fn tell(context: *mut xdp_md, words: (u64, u64)) {
    trace::tell(words, |to, length| {
        // SAFETY: the verifier checks that `to` has room for `length` bytes.
        unsafe { bpf_xdp_load_bytes(context, 0, to, length) }
    });
}

/// Arms the redirection of a frame that is to be forwarded, first of all: where it is refused the
/// frame is still as it came.
#[inline(always)]
fn arm(context: &XdpContext, outcome: Outcome, forward: &Forward) -> Outcome {
    match outcome {
        Outcome::Forward
            if !is_taken(context, forward.ifindex) || !maps::redirect(forward.ifindex) =>
        {
            Outcome::Punt(PuntReason::EgressNotAPort)
        }
        other => other,
    }
}

#[inline(always)]
fn hand_over(context: &XdpContext, ingress: &Ingress, forward: &Forward) -> u32 {
    let slot = ingress.port.slot;
    if prepare(&mut Frame(context), forward).is_none() {
        count::punted(slot, PuntReason::Malformed.index(), 1);
        return xdp_action::XDP_PASS;
    }
    if rewrite(&mut Frame(context), forward).is_none() {
        count::dropped(slot, DropReason::RewriteFailed.index(), 1);
        return xdp_action::XDP_DROP;
    }
    count::forwarded(slot, forward);
    if ingress.tagged {
        maps::note_vlan(context.ingress_ifindex() as u32, slot);
    }
    xdp_action::XDP_REDIRECT
}

/// `N` bytes of the frame at a constant offset, in the form the verifier understands.
#[inline(always)]
fn bytes_at<const N: usize>(context: &XdpContext, offset: usize) -> Option<*mut [u8; N]> {
    let start = context.data();
    if start + offset + N > context.data_end() {
        return None;
    }
    Some((start + offset) as *mut [u8; N])
}

//! XDP: frames of Ethernet ports.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::{bpf_xdp_adjust_tail, bpf_xdp_get_buff_len};
use aya_ebpf::programs::XdpContext;
use netmesh_common::decide::decide_into;
use netmesh_common::header::{ETHERNET, SHORTEST_FRAME};
use netmesh_common::rewrite::{PacketEdit, prepare, rewrite};
use netmesh_common::table::Port;
use netmesh_common::verdict::{DropReason, Forward, Outcome, PuntReason};
use netmesh_common::view::{Ingress, PacketView};

use crate::{count, maps};

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
    fn length(&self) -> usize {
        // SAFETY: the context is the one this program was called with.
        (unsafe { bpf_xdp_get_buff_len(self.0.as_ptr().cast()) }) as usize
    }
}

impl PacketEdit for Frame<'_> {
    /// What follows the packet goes, as in `pskb_trim_rcsum` of `ip6_rcv_core`; but
    /// `ndo_xdp_xmit` sends a frame as it is, so the padding up to Ethernet's least stays.
    #[inline(always)]
    fn trim(&mut self, length: usize) -> Option<()> {
        let wanted = length.max(SHORTEST_FRAME);
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

    /// A frame has its header.
    #[inline(always)]
    fn push_ethernet(&mut self) -> Option<()> {
        None
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
    let ifindex = context.ingress_ifindex() as u32;
    let Some(mut port) = maps::port(ifindex) else {
        return xdp_action::XDP_PASS;
    };
    // Frames have a link-layer header; without this the verifier must also follow packets that
    // have none.
    port.flags &= !Port::LAYER3;
    let ingress = Ingress {
        ifindex,
        port,
        frames_only: true,
    };
    let mut forward = Forward::EMPTY;
    match decide_into(&Frame(context), &ingress, &maps::Tables, &mut forward) {
        Outcome::Forward => hand_over(context, port.slot, &forward),
        Outcome::Punt(reason) => {
            count::punted(port.slot, reason, 1);
            xdp_action::XDP_PASS
        }
        Outcome::Drop(reason) => {
            count::dropped(port.slot, reason, 1);
            xdp_action::XDP_DROP
        }
    }
}

/// Arms the redirection first: where it is refused the frame is still as it came.
#[inline(always)]
fn hand_over(context: &XdpContext, slot: u32, forward: &Forward) -> u32 {
    if !maps::redirect(forward.ifindex) {
        count::punted(slot, PuntReason::EgressNotAPort, 1);
        return xdp_action::XDP_PASS;
    }
    if prepare(&mut Frame(context), forward).is_none() {
        count::punted(slot, PuntReason::Malformed, 1);
        return xdp_action::XDP_PASS;
    }
    if rewrite(&mut Frame(context), forward).is_none() {
        count::dropped(slot, DropReason::RewriteFailed, 1);
        return xdp_action::XDP_DROP;
    }
    count::forwarded(slot, forward);
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

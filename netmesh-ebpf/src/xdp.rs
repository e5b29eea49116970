//! XDP: frames of Ethernet ports.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::helpers::{
    bpf_check_mtu, bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len,
    bpf_xdp_load_bytes,
};
use aya_ebpf::programs::XdpContext;
use netmesh_common::decide::decide_into;
use netmesh_common::header::ETHERNET;
use netmesh_common::rewrite::{PacketEdit, prepare, rewrite};
use netmesh_common::table::Port;
use netmesh_common::trace::DROPS;
use netmesh_common::verdict::{DropReason, Forward, Outcome, PuntReason, Stations};
use netmesh_common::view::{Ingress, PacketView, TableView};
use netmesh_common::vlan;

use crate::trace::Told;
use crate::{count, maps, tags, trace, wide};

/// What every host takes (RFC 791 section 3.1), in bytes: links that carry less are not known.
const ALWAYS_FITS: u32 = 576;

/// `BPF_MTU_CHK_RET_FRAG_NEEDED`.
const FRAGMENTATION_NEEDED: i64 = 1;

/// A frame in the driver's buffer, and its length: asking for that is a call.
struct Frame<'a>(&'a XdpContext, u32);

impl<'a> Frame<'a> {
    #[inline(always)]
    fn new(context: &'a XdpContext) -> Self {
        // SAFETY: the context is the one this program was called with.
        let length = unsafe { bpf_xdp_get_buff_len(context.as_ptr().cast()) };
        Self(context, length as u32)
    }

    /// Where so many bytes of the frame lie, in the form the verifier understands.
    #[inline(always)]
    fn place(&self, offset: usize, length: usize) -> Option<usize> {
        let start = self.0.data();
        if start + offset + length > self.0.data_end() {
            return None;
        }
        Some(start + offset)
    }
}

impl PacketView for Frame<'_> {
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
    fn vid_behind(&self) -> u16 {
        tags::vid_behind(self.0.data(), self.0.data_end())
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.1 as usize
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
    fn store_ethernet(&mut self, stations: Stations, ethertype: u16) -> Option<()> {
        let place = self.place(0, ETHERNET)?;
        // SAFETY: so many bytes lie there.
        unsafe { wide::store_ethernet(place, stations, ethertype) };
        Some(())
    }

    /// `None` cannot happen after a decision to forward, but only the verifier's view of the
    /// bounds counts.
    #[inline(always)]
    fn store_ip<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        let pointer = self.place(offset, N)? as *mut [u8; N];
        // SAFETY: N bytes lie there.
        unsafe { *pointer = bytes };
        Some(())
    }
}

/// The device's own word on a packet of this length, with a stack of its own.
#[inline(never)]
fn ask(context: *mut c_void, ifindex: u32, length: u32) -> i64 {
    let mut word = length;
    // SAFETY: the context is this program's own; the helper reads and writes one u32.
    unsafe { bpf_check_mtu(context, ifindex, &raw mut word, 0, 0) }
}

/// Runs the decision on a frame, by tables of which those that are measured may leave something out,
/// as they may the counters of prefixes.
#[inline(always)]
pub(crate) fn run<T: TableView, const COUNTED: bool>(context: &XdpContext, tables: &T) -> u32 {
    let device = context.ingress_ifindex() as u32;
    let Some(decision) = maps::decision() else {
        return xdp_action::XDP_PASS;
    };
    let mut frame = Frame::new(context);
    let mut ingress = Ingress::new(true);
    if !vlan::arrive(&frame, device, tables, &mut ingress) {
        return xdp_action::XDP_PASS;
    }
    // Nothing is kept that can be read again: a program has 512 bytes of stack with all it calls.
    let forward = &mut decision.forward;
    let outcome = decide_into(&frame, &ingress, tables, forward);
    let outcome = arm(&frame, outcome, forward);
    let code = decision.code(outcome);
    let forward = &decision.forward;
    if trace::asked().is_some() {
        let told = Told::new(&ingress, code, forward, frame.length());
        tell(context.as_ptr().cast(), told.pack());
    }
    match code {
        0 => hand_over::<COUNTED>(&mut frame, &ingress, forward),
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
fn is_taken(frame: &Frame<'_>, ifindex: u32) -> bool {
    frame.0.data_end() - frame.0.data() == frame.length()
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
fn arm(frame: &Frame<'_>, outcome: Outcome, forward: &Forward) -> Outcome {
    match outcome {
        Outcome::Forward if is_too_big(frame.0, forward) => Outcome::Punt(PuntReason::TooBig),
        Outcome::Forward
            if !is_taken(frame, forward.ifindex) || !maps::redirect(forward.ifindex) =>
        {
            Outcome::Punt(PuntReason::EgressNotAPort)
        }
        other => other,
    }
}

/// The device's MTU has become smaller than the table knows. To ask costs small packets more than
/// they are worth.
#[inline(always)]
fn is_too_big(context: &XdpContext, forward: &Forward) -> bool {
    forward.length > ALWAYS_FITS
        && ask(context.as_ptr(), forward.ifindex, forward.length) == FRAGMENTATION_NEEDED
}

#[inline(always)]
fn hand_over<const COUNTED: bool>(
    frame: &mut Frame<'_>,
    ingress: &Ingress,
    forward: &Forward,
) -> u32 {
    let slot = ingress.port.slot;
    if prepare(frame, forward).is_none() {
        count::punted(slot, PuntReason::Malformed.index(), 1);
        return xdp_action::XDP_PASS;
    }
    if rewrite(frame, forward).is_none() {
        count::dropped(slot, DropReason::RewriteFailed.index(), 1);
        return xdp_action::XDP_DROP;
    }
    count::forwarded::<COUNTED>(slot, forward);
    if ingress.tagged {
        maps::note_vlan(frame.0.ingress_ifindex() as u32, slot);
    }
    xdp_action::XDP_REDIRECT
}
